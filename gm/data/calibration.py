"""A scale of motion buckets fitted to a collection of clips, in place of the fixed one of `gm.data.motion.bucket`.

Bucket b is the motion that a share b / 254 of the clips do not exceed: 0 is the least, 127 the median and 254 the most
of the collection. So a model that is trained on the clips sees all buckets equally often, and knows what each asks for;
the same bucket of another collection may be another motion. The scale is a small JSON file beside the list of clips,
which train.py copies into its run's folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gm.data.outputs import write_json
from gm.errors import UserError

FORMAT = "svd-mindspore motion calibration 1"
NAME = "calibration.json"  # in a run's folder
MOST = 254  # the bucket of the most motion, so that 127 is the median
_FEWEST = 20  # different scores: with fewer, a quantile says more about single clips than about the collection


@dataclass(frozen=True)
class Calibration:
    """scores: motion scores (see `gm.data.motion`) of the buckets 0, 1 … 254, never falling. clips: that it was fitted
    to."""

    scores: tuple[float, ...]
    clips: int

    @classmethod
    def fit(cls, scores: Sequence[float]) -> Calibration:
        """The scale of a collection's motion scores. UserError where there are too few."""
        different = len(set(scores))
        if different < _FEWEST:
            raise UserError(
                f"a scale of motion needs at least {_FEWEST} clips with different motion scores, not "
                f"{different}: leave out --calibrate, or name the scale of a larger set by --calibration"
            )
        quantiles = np.quantile(np.array(scores, np.float64), np.arange(MOST + 1) / MOST)
        return cls(tuple(float(f"{value:.6g}") for value in quantiles), len(scores))

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """From a file that `save` wrote. UserError if it is none."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            scores, clips = [float(value) for value in found["scores"]], int(found["clips"])
            whole = (
                found["format"] == FORMAT
                and len(scores) == MOST + 1
                and scores[0] >= 0
                and clips > 0
                and all(low <= high < math.inf for low, high in zip(scores, scores[1:]))
                and scores[0] < scores[-1]
            )
        except OSError as error:
            raise UserError(f"cannot read the motion calibration {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no motion calibration: {type(error).__name__}: {error}") from error
        if not whole:
            raise UserError(f"{path} is no motion calibration of this program, or damaged")
        return cls(tuple(scores), clips)

    def save(self, path: str | Path) -> None:
        """Write it as a JSON file."""
        write_json({"format": FORMAT, "clips": self.clips, "scores": self.scores}, path)

    def bucket(self, score: float) -> int:
        """motion_bucket_id, 0..254, of a motion score; of several buckets of the same score the first."""
        scores, buckets = np.unique(self.scores, return_index=True)
        return round(float(np.interp(score, scores, buckets)))

    def describe(self, bucket: float) -> str:
        """What a bucket asks for, in words."""
        score = np.interp(bucket, np.arange(MOST + 1), self.scores)
        share = min(max(bucket / MOST, 0.0), 1.0)
        what = "the median motion" if bucket == MOST // 2 else f"more motion than in {share:.0%}"
        return f"{what} of the {self.clips} clips that the scale was fitted to (score {score:.3g})"


def beside(csv_path: str | Path) -> Path:
    """Where the scale of a list of clips is kept: LABELS.csv → LABELS.calibration.json."""
    return Path(csv_path).with_suffix("." + NAME)


def of_list(csv_path: str | Path) -> Calibration | None:
    """The `Calibration` of a list of clips, None where it has none of its own. UserError if it is damaged."""
    return Calibration.load(beside(csv_path)) if beside(csv_path).exists() else None


def of_weights(path: str | Path) -> tuple[Path, Calibration] | None:
    """(file, `Calibration`) of the run that wrote the weights at `path`, or None: calibration.json in the run's folder,
    or beside the weights. UserError if it is damaged."""
    path = Path(path)
    folders = [path.parent, *([path.parent.parent] if path.parent.name == "weights" else [])]
    for folder in folders:
        if (folder / NAME).is_file():
            return folder / NAME, Calibration.load(folder / NAME)
    return None


def meaning(bucket: float, paths: Iterable[str | Path]) -> tuple[list[str], list[str]]:
    """(lines, warnings) on what a motion bucket asks for, by the scales of the runs that wrote the weights `paths`."""
    lines, warnings = [], []
    for path in paths:
        try:
            found = of_weights(path)
        except UserError as error:
            warnings.append(str(error))
        else:
            if found:
                lines.append(f"motion bucket {bucket:g}: {found[1].describe(bucket)}, {found[0]}")
    return lines, warnings
