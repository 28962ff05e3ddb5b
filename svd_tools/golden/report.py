"""What a replay finds: one row for each recorded tensor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Suggested by the authors of the golden files: about ten times the difference between the original code in float32 and
# in float64. For float16, whose numbers are 4.9e-4 apart, the limits are ours.
RELATIVE = {"forward": 2e-5, "gradient": 5e-5, "loss": 1e-5, "sampler": 5e-5}
RELATIVE_FLOAT16 = {"forward": 2e-2, "gradient": 5e-2, "loss": 1e-2, "sampler": 5e-2}
PREPROCESSING_ABSOLUTE = 1e-4
MIX_FACTOR_RELATIVE = 2e-3
MIX_FACTOR_OF_LARGEST = 1e-6
NOISE_OF_LARGEST = 1e-6


class Row(NamedTuple):
    """max_error and relative (to max |reference|) of one stage; `limit` is on `judged`, one of the two."""

    stage: str
    max_error: float
    relative: float
    judged: str
    limit: float

    @property
    def passed(self):
        value = self.max_error if self.judged == "absolute" else self.relative
        return bool(value <= self.limit)


class Report:
    """The rows of one golden file; `open` holds the names of tensors that nothing was compared with yet."""

    def __init__(self, golden, dtype):
        self.rows = []
        self.relative = RELATIVE_FLOAT16 if dtype == "float16" else RELATIVE
        self.float16 = dtype == "float16"
        self._references = {
            **{f"out/{name}": value for name, value in golden.outputs.items()},
            **{f"mid/{name}": value for name, value in golden.mids.items()},
            **{f"grad/{name}": value for name, value in golden.grads.items()},
        }
        self.open = set(self._references)

    def compare(self, stage, ours, kind="forward", absolute=None):
        """Compare with the recorded tensor of that name ("out/main"), by default relative to its largest value."""
        reference = np.asarray(self._references[stage], np.float64)
        self.open.discard(stage)
        self.add(stage, np.asarray(ours, np.float64), reference, kind, absolute)

    def add(self, stage, ours, reference, kind="forward", absolute=None):
        """Compare two arrays. `absolute`: a limit on max |error| instead of the relative one."""
        if ours.shape != reference.shape:
            shapes = f"{stage} (shape {ours.shape}, recorded {reference.shape})"
            self.rows.append(Row(shapes, np.inf, np.inf, "shape", 0))
            return
        error = float(np.abs(ours - reference).max()) if ours.size else 0.0
        error = error if np.isfinite(error) else np.inf
        relative = error / max(float(np.abs(reference).max()) if ours.size else 0.0, 1e-30)
        if absolute is not None:
            self.rows.append(Row(stage, error, relative, "absolute", absolute))
        else:
            self.rows.append(Row(stage, error, relative, "relative", self.relative[kind]))

    def compare_gradient(self, stage, ours, largest, largest_mix):
        """Gradients, with the exceptions for sums that cancel.

        Args:
            largest: largest norm of any gradient of this loss; one that is 1e-6 of it or less is rounding noise around
                zero, of which only the size can be judged.
            largest_mix: the same among mix factors, whose gradients are sums over all pixels that nearly cancel.
        """
        reference = np.abs(self._references[stage]).max()
        if stage.endswith("mix_factor") and not self.float16:
            absolute = max(MIX_FACTOR_OF_LARGEST * largest_mix, MIX_FACTOR_RELATIVE * reference)
            self.compare(stage, ours, absolute=absolute)
        elif reference <= NOISE_OF_LARGEST * largest:
            self.compare(stage, ours, absolute=NOISE_OF_LARGEST * largest)
        else:
            self.compare(stage, ours, "gradient")

    def leave_out(self, *stages):
        """Stages that have no meaning at this precision."""
        self.open.difference_update(stages)

    def close(self):
        """Add a failed row for every recorded tensor that nothing was compared with."""
        for stage in sorted(self.open):
            self.rows.append(Row(f"{stage} (not replayed)", np.inf, np.inf, "missing", 0))
