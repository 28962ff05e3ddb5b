"""Read the invisible watermark back, and what a file's metadata say of its making.

python svd_tools/watermark.py outputs/photo_000.mp4

Videos, folders of frames and pictures. docs/watermark.md says how often the mark outlives what. The exit status is 0
where every file has the mark, and 1 where one has not: which does not prove that it never had.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gm.console import progress
from gm.data import frame_folder
from gm.data.images import load_image
from gm.data.watermark import FOUND, agreement, fits, votes
from gm.errors import UserError, run_cli
from gm.parser import Parser
from gm.results import read_about

_BATCH = 16  # frames read at a time


def frames_of(path: str | Path) -> Iterator[np.ndarray]:
    """The frames of a video, of a folder of frames or of a picture, uint8 (h, w, 3): a generator. UserError for what
    cannot be read."""
    if Path(path).suffix.lower() in frame_folder.SUFFIXES:
        yield load_image(path)
        return
    with frame_folder.open_clip(path) as video:
        for start in range(0, video.length, _BATCH):
            yield from video.frames(range(start, min(start + _BATCH, video.length)))


def size_of(path: str | Path) -> tuple[int, int]:
    """(height, width) of the first frame in pixels."""
    height, width = next(frames_of(path)).shape[:2]
    return height, width


def read(path: str | Path) -> tuple[int, list[int]]:
    """(bits that agree with the mark, of 48, by all frames together; such bits of each frame's own, a list)."""
    counts = [votes(frame) for frame in progress(frames_of(path), Path(path).name, "frame")]
    return agreement(np.sum(counts, 0)), [agreement(one) for one in counts]


def report(path: str | Path) -> tuple[bool, str]:
    """(whether the mark is there, text)."""
    height, width = size_of(path)
    found = False
    if fits(height, width):
        together, each = read(path)
        found = together >= FOUND
        whole = sum(bits == 48 for bits in each)
        lines = [
            f"{path}: watermark {'found' if found else 'not found'}: {together} of 48 bits, by chance 24, found from "
            f"{FOUND} on; {whole} of {len(each)} frames have all 48"
        ]
    else:
        lines = [f"{path}: no watermark: frames of {width}x{height} (width x height) are too small to have one"]
    about = "" if Path(path).is_dir() else read_about(path)
    lines.append(f"  metadata: {about or 'nothing about its making'}")
    return found, "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("files", nargs="+", help="videos, folders of frames, pictures")
    options = parser.parse_args(argv)
    missing, faults = 0, []
    for path in options.files:
        try:
            found, text = report(path)
            missing += not found
            print(text)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n  ".join([f"{len(faults)} of {len(options.files)} files could not be read:", *faults]))
    return 1 if missing else 0


if __name__ == "__main__":
    run_cli(main)
