"""Measure generated videos: fidelity to the input picture, motion, flicker, drift. Needs no downloaded weights.

python svd_tools/evaluate.py outputs/*.mp4 --image assets/demo.png
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from jsonargparse import ArgumentParser
from tqdm import tqdm

from gm.data.images import fit_image, load_image
from gm.data.metrics import MEANINGS, evaluate
from gm.data.outputs import write_json
from gm.data.video_reader import open_video
from gm.errors import UserError, run_cli


def evaluate_file(path, image=None):
    """`gm.data.metrics.evaluate` of a video file; image: uint8 picture of any size, fitted as image_to_video.py does.

    UserError if the file cannot be read or has a single frame.
    """
    with open_video(path) as video:
        if video.length < 2:
            raise UserError(f"{path}: has a single frame; there is nothing to measure")
        frames, fps = video.frames(range(video.length)), video.fps
    if image is not None:
        image = fit_image(image, *frames.shape[1:3])
    return evaluate(frames, fps, image)


def table(results):
    """Text: a row for each metric, a column for each of {video: numbers}."""
    names = list(results)
    width = max([12, *(len(Path(name).name) for name in names)])
    lines = [" " * 18 + "".join(f"{Path(name).name:>{width + 2}}" for name in names)]
    for metric, meaning in MEANINGS.items():
        if metric in results[names[0]]:
            values = "".join(f"{results[name][metric]:>{width + 2}.3f}" for name in names)
            lines.append(f"{metric:18}{values}  {meaning}")
    return "\n".join(lines)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+", help="video files")
    parser.add_argument("--image", help="the input picture, for how faithful the first frame is")
    parser.add_argument("--json", help="write the numbers to this file too")
    options = parser.parse_args(argv)
    image = None if options.image is None else load_image(options.image)
    results, faults = {}, []
    for path in tqdm(options.videos, unit="video", file=sys.stderr, disable=len(options.videos) == 1):
        try:
            results[path] = evaluate_file(path, image)
        except UserError as error:
            faults.append(f"left out: {error}")
    if not results:
        raise UserError("\n  ".join(["no video could be measured:", *faults]))
    print(table(results))
    if options.json:
        finite = {path: {k: v if math.isfinite(v) else None for k, v in found.items()}
                  for path, found in results.items()}
        write_json(finite, options.json)
        print(f"{options.json}: the same as JSON, null where a number is infinite or undefined")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    run_cli(main)
