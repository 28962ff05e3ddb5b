"""What a list of clips holds, as numbers, a table and a picture of histograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gm import places
from gm.errors import UserError
from gm.files import atomic_path

if TYPE_CHECKING:
    from gm.data.metadata import Metadata

_EXTRA = ("motion_score", "black", "frozen", "faded", "overlay")
_UNITS = {
    "length": "frames",
    "duration": "seconds",
    "fps": "frames per second",
    "motion_bucket_id": "0 to 255",
    "motion_score": "% of the side per second",
    "width": "pixels",
    "height": "pixels",
    "aspect": "width / height",
    "black": "share of frames",
    "frozen": "share of frames",
    "faded": "share of frames",
    "overlay": "% of the picture",
}
_PICTURED = ("motion_bucket_id", "length", "duration", "fps", "height", "aspect")
_BINS = 40


def collect(
    csv_path: str | Path, metadata: Metadata, sizes: Sequence[tuple[int, int]] | None = None
) -> dict[str, np.ndarray]:
    """{name: float array without what is not known} of all clips of a list, those that are too short included.

    csv_path: the list, whose further columns are read. metadata: of `gm.data.metadata.read_metadata`. sizes: [(h, w)]
    of clips that were opened, in place of what their rows state.
    """
    clips = [*metadata.clips, *metadata.dropped]
    found = {
        "length": np.array([clip.length for clip in clips], float),
        "motion_bucket_id": np.array([clip.motion_bucket_id for clip in clips], float),
        "fps": np.array([np.nan if clip.fps is None else clip.fps for clip in clips], float),
    }
    found["duration"] = found["length"] / found["fps"]
    table = pd.read_csv(
        csv_path, usecols=lambda name: name.strip() in _EXTRA, dtype=str, encoding="utf-8-sig", compression=None
    )
    for name in table:
        found[name.strip()] = pd.to_numeric(table[name], errors="coerce").to_numpy(float)
    sizes = [clip.size for clip in clips if clip.size is not None] if sizes is None else sizes
    if sizes:
        found["height"], found["width"] = np.array(sizes, float).reshape(-1, 2).T
    if {"width", "height"} <= set(found):
        found["aspect"] = found["width"] / np.maximum(found["height"], 1)
    return {name: found[name][np.isfinite(found[name])] for name in _UNITS if name in found}


def table(numbers: dict[str, np.ndarray]) -> str:
    """Text: a line for each name of `collect` that is known of a clip at least."""
    lines = [f"{'':18}{'known':>9}{'least':>10}{'25 %':>10}{'median':>10}{'75 %':>10}{'most':>10}"]
    for name, values in numbers.items():
        if len(values):
            quantiles = "".join(f"{value:>10.5g}" for value in np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
            lines.append(f"{name:18}{len(values):>9}{quantiles}  {_UNITS[name]}")
    return "\n".join(lines)


def _edges(values: np.ndarray) -> int | np.ndarray:
    """Edges of bars: of whole numbers each bar has equally many."""
    if (values != np.floor(values)).any():
        return _BINS
    step = max(1, -(-(values.max() - values.min() + 1) // _BINS))
    return np.arange(values.min(), values.max() + step + 1, step) - 0.5


def require_matplotlib() -> None:
    """UserError where the picture could not be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UserError(f"the picture is drawn by matplotlib: {places.install('data')}") from error


def write_picture(numbers: dict[str, np.ndarray], path: str | Path) -> None:
    """Histograms of motion, length, duration, frame rate, size and aspect as a PNG. UserError: not there, or not
    written."""
    require_matplotlib()
    from matplotlib.figure import Figure  # not pyplot: that one looks for a screen

    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, name in zip(figure.subplots(2, 3).flat, _PICTURED):
        values = numbers.get(name, np.zeros(0))
        axes.set_title(f"{name} ({_UNITS[name]})")
        axes.set_ylabel("clips")
        if len(values):
            axes.hist(values, _edges(values))
        else:
            axes.text(0.5, 0.5, "not in the list", ha="center", transform=axes.transAxes)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
