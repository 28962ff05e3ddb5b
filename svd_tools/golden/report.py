"""What a replay finds: one row for each recorded tensor, judged by limits that the recording alone decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from svd_tools.golden.limits import PRECISIONS

if TYPE_CHECKING:
    from svd_tools.golden.reader import Golden

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
    def value(self) -> float:
        """What is judged."""
        return {"absolute": self.max_error, "relative": self.relative, "share": self.share}.get(self.judged, np.inf)

    @property
    def passed(self) -> bool:
        # An error without end is none that a limit allows, whatever the limit.
        return bool(np.isfinite(self.value) and self.value <= self.limit < np.inf)


class Report:
    """The rows of one golden file; `open` holds the names of what was recorded and nothing was compared with yet.

    precision: a name of `svd_tools.golden.limits.PRECISIONS`, whose limits count.
    """

    def __init__(self, golden: Golden, precision: str) -> None:
        self.rows: list[Row] = []
        self.limits = PRECISIONS[precision].limits
        self._references = {
            **{f"out/{name}": value for name, value in golden.outputs.items()},
            **{f"mid/{name}": value for name, value in golden.mids.items()},
            **{f"grad/{name}": value for name, value in golden.grads.items()},
        }
        self._norms = golden.grad_norms
        self.open = {*self._references, *(_norms_stage(group) for group in self._norms)}

    def compare(self, stage: str, ours: np.ndarray, kind: str = "forward") -> None:
        """Compare with the recorded tensor of that name ("out/main").

        kind: "forward", "loss" and "sampler" are judged relative to the largest recorded value, "preprocessing" by the
        largest error, "bytes" by the largest error and by the share of values that differ.
        """
        if kind == "bytes":
            self._add(stage, ours, "absolute", self.limits["bytes"])
            if "share of bytes" in self.limits:
                self._add(stage, ours, "share", self.limits["share of bytes"])
        else:
            self._add(stage, ours, "absolute" if kind == "preprocessing" else "relative", self.limits[kind])

    def compare_gradients(self, group: str, found: Mapping[str, np.ndarray]) -> None:
        """All recorded gradients of one probe loss, and the norms of those of all parameters where they are recorded.

        Args:
            group: what the recorded names of that loss's gradients begin with, after grad/ ("vres.", "per_video/").
            found: {recorded name without the group: ours}; one that is missing stays open.
        """
        prefix = f"grad/{group}"
        recorded = {stage[len(prefix) :]: stage for stage in self._references if stage.startswith(prefix)}
        parameters = {name: stage for name, stage in recorded.items() if not name.startswith("@")}
        norms = self._norms.get(group) or {n: np.linalg.norm(self._references[s]) for n, s in parameters.items()}
        noise = self.limits["noise"] * max(norms.values())
        mix_noise = self.limits["noise"] * max((n for name, n in norms.items() if _is_mix(name)), default=0.0)
        for name, stage in recorded.items():
            if name not in found:
                continue
            size = float(np.abs(self._references[stage]).max())
            if _is_mix(name):
                self._add(stage, found[name], "absolute", max(mix_noise, self.limits["mix factor"] * size))
            elif size <= noise:
                self._add(stage, found[name], "absolute", noise)
            else:
                self._add(stage, found[name], "relative", self.limits["gradient"])
        if group in self._norms and not norms.keys() - found.keys():
            self._add_norms(_norms_stage(group), norms, found, noise, mix_noise)

    def _add(self, stage: str, ours: np.ndarray, judged: str, limit: float) -> None:
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

    def _add_norms(
        self, stage: str, norms: Mapping[str, float], found: Mapping[str, np.ndarray], noise: float, mix_noise: float
    ) -> None:
        """One row for all norms: the worst, each relative to itself and what is rounding noise beside it."""
        self.open.discard(stage)
        limit = self.limits["gradient"]
        worst = error = 0.0
        for name, norm in norms.items():
            own, floor = (self.limits["mix factor"], mix_noise) if _is_mix(name) else (limit, noise)
            difference = abs(float(np.linalg.norm(np.asarray(found[name], np.float64))) - norm)
            difference = difference if np.isfinite(difference) else np.inf
            error, worst = max(error, difference), max(worst, difference / (own * norm + floor))
        self.rows.append(Row(stage, error, worst * limit, "relative", limit))

    def leave_out(self, *stages: str) -> None:
        """Stages that have no meaning at this precision."""
        self.open.difference_update(stages)

    def close(self) -> None:
        """Add a failed row for everything recorded that nothing was compared with, and for a file of nothing."""
        for stage in sorted(self.open):
            self.rows.append(Row(f"{stage} (not replayed)", np.inf, np.inf, "missing", 0))
        if not self.rows:
            self.rows.append(Row("(nothing was recorded)", np.inf, np.inf, "missing", 0))


def _is_mix(name: str) -> bool:
    return name.endswith("mix_factor")


def _norms_stage(group: str) -> str:
    return f"{NORMS}, {group.rstrip('/')}" if group else NORMS
