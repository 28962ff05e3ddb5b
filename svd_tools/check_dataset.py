"""Check a list of clips as train.py does before it begins, and say what it holds.

python svd_tools/check_dataset.py LABELS.csv --data_dir=VIDEOS --frames=14 --step=4

Files are looked for, not opened. --deep decodes every frame of every file.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import logging
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import cv2

from gm.data import statistics
from gm.data.frame_folder import open_clip
from gm.data.metadata import read_metadata
from gm.data.rows import by_file
from gm.data.spread import spread
from gm.data.table import listing
from gm.errors import UserError, run_cli
from gm.files import PATH
from gm.parser import Parser

if TYPE_CHECKING:
    import numpy as np

    from gm.data.metadata import Metadata
    from gm.data.rows import Clip

_CHUNK = 8  # frames held at a time


def decode_all(
    clips: Iterable[Clip], workers: int = 2, scheduler: str | None = None
) -> tuple[list[tuple[int, str]], list[tuple[int, int]]]:
    """([(line, what is wrong)], [(h, w) of what is trained on of each clip whose file opens]): every frame of their
    files is decoded. workers, scheduler: as of `gm.data.spread.spread`."""
    faults: list[tuple[int, str]] = []
    sizes: list[tuple[int, int]] = []
    done = spread(
        _decoded,
        by_file(clips),
        workers,
        scheduler,
        desc="decoding",
        unit="file",
        given_up=lambda same, reason: ([(same[0].line, f"{same[0].path}: {reason}")], []),
    )
    for found, shapes in done:
        faults += found
        sizes += shapes
    return faults, sizes


def _decoded(same: list[Clip]) -> tuple[list[tuple[int, str]], list[tuple[int, int]]]:
    """What `decode_all` gives, of the clips of one file."""
    cv2.setNumThreads(1)
    found: list[tuple[int, str]] = []
    size: tuple[int, int] | None = None
    try:
        with open_clip(same[0].path) as video:
            length, size = video.length, video.size
            wrong = ((clip.line, clip.wrong_length(length, "frames") or clip.wrong_crop(size)) for clip in same)
            found = [(line, reason) for line, reason in wrong if reason]
            for start in range(0, length, _CHUNK):
                video.frames(range(start, min(start + _CHUNK, length)))
    except UserError as error:  # of the file: one row's fault names it
        found.append((same[0].line, str(error)))
    return found, [clip.crop.size if clip.crop else size for clip in same] if size else []


def summary(
    metadata: Metadata,
    numbers: Mapping[str, np.ndarray],
    frames: int,
    step: int,
    batch_size: int,
    height: int,
    width: int,
) -> str:
    """Text: how many samples an epoch has, what is dropped, and what has to be enlarged."""
    clips, dropped = metadata.clips, metadata.dropped
    span = (frames - 1) * step + 1
    files = len({clip.path for clip in (*clips, *dropped)})
    lines = [
        f"{len(clips) + len(dropped)} rows of {files} files",
        f"an epoch has {len(clips)} samples, one of each row, of {frames} frames, {step} apart: "
        f"{math.ceil(len(clips) / batch_size)} batches of {batch_size}",
        f"they can begin at {sum(clip.length - span + 1 for clip in clips)} frames",
        f"dropped: {len(dropped)} rows shorter than frames * step = {frames * step} frames",
    ]
    heights, widths = numbers.get("height"), numbers.get("width")
    if heights is None or widths is None or len(heights) != len(widths) or not len(heights):
        lines.append("sizes are not in the list: --deep, or label_videos.py --split_scenes, tells them")
    else:
        scale = [max(height / h, width / w) for h, w in zip(heights.tolist(), widths.tolist())]
        enlarged = sum(value > 1 for value in scale)
        lines.append(
            f"for {height}x{width} (height x width) {enlarged} of {len(scale)} rows are enlarged, by at most "
            f"{max(1.0, *scale):.2f}"
        )
        lost = [1 - height * width / (value * value * h * w) for value, h, w in zip(scale, heights, widths)]
        lines.append(
            f"cropping takes {100 * sum(lost) / len(lost):.0f} % of their pixels away, of the worst row "
            f"{100 * max(lost):.0f} %"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("labels", type=PATH, help="the CSV file")
    parser.add_argument("--data_dir", default=".", help="the folder that the paths start from, as in train.py")
    parser.add_argument("--frames", type=int, default=14, help="frames of a sample")
    parser.add_argument("--step", type=int, default=1, help="distance between them, in frames of the video")
    parser.add_argument("--height", type=int, default=576, help="pixels of a sample")
    parser.add_argument("--width", type=int, default=1024, help="pixels of a sample")
    parser.add_argument("--batch_size", type=int, default=1, help="samples of a batch, over all devices")
    parser.add_argument("--deep", action="store_true", help="decode every frame of every file")
    parser.add_argument("--workers", type=int, default=2, help="files decoded at the same time")
    parser.add_argument(
        "--scheduler", help="address of a Dask scheduler whose workers decode instead, such as tcp://HEAD:8786"
    )
    parser.add_argument("--picture", type=PATH, help="write histograms to this PNG (needs requirements-data.txt)")
    options = parser.parse_args(argv)
    for name in ("frames", "step", "height", "width", "batch_size", "workers"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} must be at least 1, not {getattr(options, name)}")
    if options.picture is not None:
        statistics.require_matplotlib()
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    data_dir = os.path.abspath(options.data_dir) if options.scheduler else options.data_dir
    metadata = read_metadata(options.labels, data_dir, options.frames, options.step)
    faults: list[tuple[int, str]] = []
    sizes: list[tuple[int, int]] | None = None
    if options.deep:
        faults, sizes = decode_all([*metadata.clips, *metadata.dropped], options.workers, options.scheduler)
    numbers = statistics.collect(options.labels, metadata, sizes)
    print(statistics.table(numbers))
    print(summary(metadata, numbers, options.frames, options.step, options.batch_size, options.height, options.width))
    if options.picture is not None:
        statistics.write_picture(numbers, options.picture)
        print(f"histograms are in {options.picture}")
    if faults:
        raise UserError(f"{options.labels}: {listing(faults, 'fault')}")
    print("every frame of every file can be read" if options.deep else "no fault is found; --deep decodes every file")
    return 0


if __name__ == "__main__":
    run_cli(main)
