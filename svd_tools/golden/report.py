"""What a replay finds: one row for each recorded tensor, judged by limits that the recording alone decides."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# All but float16's are about ten times the difference between the original code in float32 and in float64, most of them
# suggested by the authors of the golden files. For float16, whose numbers are 4.9e-4 apart, they are ours: eight times
# what the CPU shows, there being no recording in float16.
# Relative to the largest recorded value of the tensor:
RELATIVE = {"forward": 2e-5, "gradient": 5e-5, "loss": 1e-5, "sampler": 5e-5}
RELATIVE_FLOAT16 = {"forward": 2e-2, "sampler": 5e-2}
# A mix factor's gradient is a sum over all pixels that nearly cancels.
MIX_FACTOR_RELATIVE = 9e-4
# Of the largest norm of any recorded gradient of the same loss: rounding noise, and so is what is no larger.
NOISE_OF_LARGEST = 1e-6
# Absolute:
PREPROCESSING = 1e-4
BYTES, BYTES_FLOAT16 = 1, 8
# Share of bytes that differ at all: truncation turns rounding noise into steps of 1.
SHARE_OF_BYTES = 3e-3
NORMS = "grad norms of all parameters"


class Row(NamedTuple):
    """max_error and relative (to max |reference|) of one stage; `limit` is on `judged`, one of the two or the share."""

    stage: str
    max_error: float
    relative: float
    judged: str
    limit: float
    share: float = 0.0  # of values that differ

    @property
    def passed(self):
        value = {"absolute": self.max_error, "relative": self.relative, "share": self.share}.get(self.judged, np.inf)
        # An error without end is none that a limit allows, whatever the limit.
        return bool(np.isfinite(value) and value <= self.limit < np.inf)


class Report:
    """The rows of one golden file; `open` holds the names of what was recorded and nothing was compared with yet.

    dtype: "float16" for replays of networks in that precision.
    """

    def __init__(self, golden, dtype):
        self.rows = []
        self.float16 = dtype == "float16"
        self._references = {
            **{f"out/{name}": value for name, value in golden.outputs.items()},
            **{f"mid/{name}": value for name, value in golden.mids.items()},
            **{f"grad/{name}": value for name, value in golden.grads.items()},
        }
        self._norms = golden.grad_norms
        self.open = {*self._references, *(_norms_stage(group) for group in self._norms)}

    def compare(self, stage, ours, kind="forward"):
        """Compare with the recorded tensor of that name ("out/main").

        kind: "forward", "loss" and "sampler" are judged relative to the largest recorded value, "preprocessing" by the
        largest error, "bytes" by the largest error and by the share of values that differ.
        """
        if kind == "bytes":
            self._add(stage, ours, "absolute", BYTES_FLOAT16 if self.float16 else BYTES)
            if not self.float16:
                self._add(stage, ours, "share", SHARE_OF_BYTES)
        elif kind == "preprocessing":
            self._add(stage, ours, "absolute", PREPROCESSING)
        else:
            self._add(stage, ours, "relative", (RELATIVE_FLOAT16 if self.float16 else RELATIVE)[kind])

    def compare_gradients(self, group, found):
        """All recorded gradients of one probe loss, and the norms of those of all parameters where they are recorded.

        Args:
            group: what the recorded names of that loss's gradients begin with, after grad/ ("vres.", "per_video/").
            found: {recorded name without the group: ours}; one that is missing stays open.
        """
        prefix = f"grad/{group}"
        recorded = {stage[len(prefix):]: stage for stage in self._references if stage.startswith(prefix)}
        parameters = {name: stage for name, stage in recorded.items() if not name.startswith("@")}
        norms = self._norms.get(group) or {n: np.linalg.norm(self._references[s]) for n, s in parameters.items()}
        noise = NOISE_OF_LARGEST * max(norms.values())
        mix_noise = NOISE_OF_LARGEST * max((n for name, n in norms.items() if _is_mix(name)), default=0.0)
        for name, stage in recorded.items():
            if name not in found:
                continue
            size = float(np.abs(self._references[stage]).max())
            if _is_mix(name):
                self._add(stage, found[name], "absolute", max(mix_noise, MIX_FACTOR_RELATIVE * size))
            elif size <= noise:
                self._add(stage, found[name], "absolute", noise)
            else:
                self._add(stage, found[name], "relative", RELATIVE["gradient"])
        if group in self._norms and not norms.keys() - found.keys():
            self._add_norms(_norms_stage(group), norms, found, noise, mix_noise)

    def _add(self, stage, ours, judged, limit):
        self.open.discard(stage)
        reference, ours = np.asarray(self._references[stage], np.float64), np.asarray(ours, np.float64)
        if ours.shape != reference.shape or not reference.size:
            shapes = f"{stage} (shape {ours.shape}, recorded {reference.shape})"
            self.rows.append(Row(shapes, np.inf, np.inf, "shape", 0))
            return
        with np.errstate(invalid="ignore"):  # infinity less infinity: not a number, which fails
            errors = np.abs(ours - reference)
        largest = max(float(np.abs(reference).max()), 1e-30)
        error = float(errors.max())
        self.rows.append(Row(stage, error, error / largest, judged, limit, float(np.mean(errors != 0))))

    def _add_norms(self, stage, norms, found, noise, mix_noise):
        """One row for all norms: the worst, each relative to itself and what is rounding noise beside it."""
        self.open.discard(stage)
        limit = RELATIVE["gradient"]
        worst = error = 0.0
        for name, norm in norms.items():
            own, floor = (MIX_FACTOR_RELATIVE, mix_noise) if _is_mix(name) else (limit, noise)
            difference = abs(float(np.linalg.norm(np.asarray(found[name], np.float64))) - norm)
            difference = difference if np.isfinite(difference) else np.inf
            error, worst = max(error, difference), max(worst, difference / (own * norm + floor))
        self.rows.append(Row(stage, error, worst * limit, "relative", limit))

    def leave_out(self, *stages):
        """Stages that have no meaning at this precision."""
        self.open.difference_update(stages)

    def close(self):
        """Add a failed row for everything recorded that nothing was compared with, and for a file of nothing."""
        for stage in sorted(self.open):
            self.rows.append(Row(f"{stage} (not replayed)", np.inf, np.inf, "missing", 0))
        if not self.rows:
            self.rows.append(Row("(nothing was recorded)", np.inf, np.inf, "missing", 0))


def _is_mix(name):
    return name.endswith("mix_factor")


def _norms_stage(group):
    return f"{NORMS}, {group.rstrip('/')}" if group else NORMS
