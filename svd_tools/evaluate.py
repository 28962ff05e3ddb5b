"""Measure generated videos: fidelity to the input picture, motion, flicker, drift. Needs no downloaded weights.

python svd_tools/evaluate.py outputs/*.mp4 --image assets/demo.png
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gm.console import progress, say
from gm.data.frame_folder import open_clip
from gm.data.images import fit_image, load_image
from gm.data.metrics import MEANINGS, evaluate
from gm.data.outputs import write_json
from gm.errors import UserError, run_cli
from gm.parser import Parser

if TYPE_CHECKING:
    import numpy as np


def evaluate_file(
    path: str | Path, image: np.ndarray | None = None, frames_fps: float | None = None
) -> dict[str, float]:
    """`gm.data.metrics.evaluate` of a video file or folder of frames; image: uint8 picture of any size, fitted as
    image_to_video.py does; frames_fps: frames per second of a folder of frames.

    UserError if it cannot be read, has a single frame, or is a folder and `frames_fps` is not given.
    """
    with open_clip(path) as video:
        if video.length < 2:
            raise UserError(f"{path}: has a single frame; there is nothing to measure")
        fps = frames_fps if video.fps is None else video.fps
        if fps is None:
            raise UserError(f"{path}: a folder of pictures states no frame rate: give it by --frames_fps")
        frames = video.frames(range(video.length))
    if image is not None:
        image = fit_image(image, frames.shape[1], frames.shape[2])
    return evaluate(frames, fps, image)


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Text: a row for each metric, a column for each of {video: numbers}; videos of one name with their paths."""
    names = list(results)
    last = Counter(Path(name).name for name in names)
    heads = [Path(name).name if last[Path(name).name] == 1 else name for name in names]
    width = max(12, *map(len, heads))
    lines = [" " * 22 + "".join(f"{head:>{width + 2}}" for head in heads)]
    for metric, meaning in MEANINGS.items():
        if metric in results[names[0]]:
            values = "".join(f"{results[name][metric]:>{width + 2}.3f}" for name in names)
            lines.append(f"{metric:22}{values}  {meaning}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("videos", nargs="+", help="video files, or folders of frames")
    parser.add_argument("--frames_fps", type=float, help="frames per second of folders of frames")
    parser.add_argument("--image", help="the input picture, for how faithful the first frame is")
    parser.add_argument("--json", help="write the numbers to this file too")
    options = parser.parse_args(argv)
    if options.frames_fps is not None and not 0 < options.frames_fps < math.inf:
        raise UserError(f"--frames_fps must be above 0, not {options.frames_fps}")
    image = None if options.image is None else load_image(options.image)
    results, faults = {}, []
    for path in progress(options.videos, "measuring", "video"):
        try:
            results[path] = evaluate_file(path, image, options.frames_fps)
        except UserError as error:
            faults.append(f"left out: {error}")
    if not results:
        raise UserError("\n  ".join(["no video could be measured:", *faults]))
    print(table(results))
    if options.json:
        finite = {
            path: {k: v if math.isfinite(v) else None for k, v in found.items()} for path, found in results.items()
        }
        write_json(finite, options.json)
        print(f"{options.json}: the same as JSON, null where a number is infinite or undefined")
    for fault in faults:
        say(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    run_cli(main)
