"""How often the invisible watermark is read back after what happens to videos: H.264, another size, a crop, a GIF.

python benchmarks/watermark.py --output_dir=outputs/watermark

Drawn clips of 576x1024 (and --pictures, which are given the same camera) are marked, written as the program writes
them and changed by ffmpeg. "found" is svd_tools/watermark.py's decision over a clip, "frames" the share of single
frames that have all 48 bits, "bits" the share of right bits over a clip, 50 by chance. The last row is the same without
a mark.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from jsonargparse import ArgumentParser
from tqdm import tqdm

from gm.data.images import fit_image, load_image
from gm.data.outputs import make_folder, write_json
from gm.data.procedural import picture, push_in
from gm.data.videos import to_uint8, write_gif, write_video
from gm.data.watermark import FOUND, embed_watermark
from gm.errors import run_cli
from svd_tools.watermark import read

SIZE, FRAMES, FPS = (576, 1024), 5, 7
# name: ffmpeg's options for a second file made of the program's own, None for that itself.
CHANGES = {
    "as written (H.264, crf 17)": None,
    "H.264 again, crf 23": ["-crf", "23"],
    "H.264 again, crf 28": ["-crf", "28"],
    "H.264 again, crf 35": ["-crf", "35"],
    "to 75 % and back, crf 17": ["-vf", "scale=768:432,scale=1024:576", "-crf", "17"],
    "to 75 %, crf 17": ["-vf", "scale=768:432", "-crf", "17"],
    "to 50 %, crf 17": ["-vf", "scale=512:288", "-crf", "17"],
    "8 pixels cut off each side, crf 17": ["-vf", "crop=1008:560:8:8", "-crf", "17"],
    "a tenth cut off the right and the bottom, crf 17": ["-vf", "crop=920:518:0:0", "-crf", "17"],
    "3 pixels cut off the left and the top, crf 17": ["-vf", "crop=1020:572:3:3", "-crf", "17"],
}


def change(source, target, options):
    """Another H.264 file of a video by ffmpeg."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-loglevel",
        "error",
        "-y",
        "-i",
        str(source),
        *options,
        "-c:v",
        "libx264",
        "-pix_fmt",
        "yuv420p",
        str(target),
    ]
    subprocess.run(command, check=True, env=os.environ)


def clips(count, pictures, seed):
    """{name: frames float32 (t, 3, h, w) in [-1, 1]}."""
    random = np.random.default_rng(seed)
    canvases = {f"drawn {k}": picture(random, SIZE[1]) for k in range(count)}
    canvases.update({Path(path).stem: fit_image(load_image(path), SIZE[1], SIZE[1]) for path in pictures})
    rows = slice((SIZE[1] - SIZE[0]) // 2, (SIZE[1] + SIZE[0]) // 2)
    shown = {name: push_in(canvas, FRAMES, SIZE[1], 1.01, (0.5, 0.5))[:, rows] for name, canvas in canvases.items()}
    return {name: frames.transpose(0, 3, 1, 2) / np.float32(127.5) - 1 for name, frames in shown.items()}


def results(frames, folder):
    """{what happened: `svd_tools.watermark.read`} of one clip, and "no mark" for the same without one."""
    marked, found = to_uint8(frames, embed_watermark), {}
    own, other = folder / "own.mp4", folder / "other.mp4"
    write_video(marked, own, FPS)
    for name, options in CHANGES.items():
        if options is not None:
            change(own, other, options)
        found[name] = read(own if options is None else other)
    write_gif(marked, folder / "own.gif", FPS)
    found["GIF"] = read(folder / "own.gif")
    write_video(to_uint8(frames), own, FPS)
    found["no mark"] = read(own)
    return found


def table(report):
    lines = ["| what happened | found | frames | bits |", "|---|---|---|---|"]
    for name in next(iter(report.values())):
        found = [clip[name] for clip in report.values()]
        each = np.concatenate([frames for _, frames in found])
        together = np.array([bits for bits, _ in found])
        lines.append(
            f"| {name} | {np.sum(together >= FOUND)} of {len(found)} | {np.mean(each == 48):.0%} "
            f"| {np.mean(together) / 48:.0%} |"
        )
    return "\n".join(lines)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20, help="that are drawn")
    parser.add_argument("--pictures", nargs="*", default=[], help="picture files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", default="outputs/watermark")
    options = parser.parse_args(argv)
    make_folder(options.output_dir)
    folder, report = Path(options.output_dir), {}
    made = clips(options.clips, options.pictures, options.seed)
    for name, frames in tqdm(made.items(), unit="clip", file=sys.stderr):
        report[name] = results(frames, folder)
        write_json(report, folder / "report.json")
    print(table(report))


if __name__ == "__main__":
    run_cli(main)
