"""The camera moves in assets/camera_moves: makes these LoRA files for svd_tiny from nothing, and measures what they do.

python benchmarks/camera_moves.py --output_dir=outputs/camera_moves
python benchmarks/camera_moves.py --weights_dir=assets/camera_moves/svd_tiny   # measures what is there

The way that anybody would go with videos of one's own, command by command: a folder of clips, here drawn ones
(gm/data/procedural.py); svd_tools/label_videos.py; train.py with LoRA; image_to_video.py with --SVD.delta. The
pictures are others than the clips were drawn from. Measured is `gm.data.flow.camera_flow`, in % of the side per second:
of a camera that turns right what is seen moves to the left. Results: a LoRA file for each move, report.json after each,
a table on the screen, a sheet of some of the videos.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
from jsonargparse import ArgumentParser
from tiny_finetune import CONFIG, ROOT, train_arguments, write_clips
from tiny_model import pictures

from gm.data.flow import camera_flow
from gm.data.images import load_image
from gm.data.metrics import psnr, sharpness
from gm.data.outputs import make_folder, write_json, write_png
from gm.data.procedural import MEAN_RADIUS, draw_back, pan, picture
from gm.data.videos import contact_sheet
from gm.errors import run_cli
from gm.model import load_model_config

AXES = ("right", "down", "growth")
SEED = 4711  # of the pictures


class Move(NamedTuple):
    """draw: as `write_clips` takes it. axis, sign: what of `camera_flow` it changes, and which way."""

    draw: Callable
    axis: str
    sign: int


def _draw_back(canvas, frames, size, step):
    """At the mean speed `step` over the picture."""
    return draw_back(canvas, frames, size, math.exp(step / MEAN_RADIUS))


MOVES = {
    "pan_left": Move(partial(pan, direction=(-1, 0)), "right", 1),
    "pan_right": Move(partial(pan, direction=(1, 0)), "right", -1),
    "tilt_up": Move(partial(pan, direction=(0, -1)), "down", 1),
    "draw_back": Move(_draw_back, "growth", -1),
}


def train(name, options):
    """Returns the LoRA file of a move, trained on drawn clips."""
    folder, sampling = Path(options.output_dir) / name, load_model_config(CONFIG).sampling
    labels = write_clips(folder / "clips", options.clips, options.size, sampling.fps, MOVES[name].draw)
    # Where things move to is learnt at noise levels at which nothing of them shows.
    arguments = train_arguments(
        folder,
        labels,
        options.size,
        options.steps,
        options.learning_rate,
        **{"lora.rank": options.rank, "loader.batch_size": 1, "loss.p_mean": 2.0, "loss.dropout": 0.0, "seed": 1},
    )
    subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], check=True, env=os.environ)
    made = Path(options.output_dir) / f"{name}.safetensors"
    shutil.copyfile(folder / "run" / "weights" / "delta.safetensors", made)
    return made


def fresh(folder):
    """The folder, or the first with a number behind it, that is not there: an earlier call's pictures and videos, or
    half of them, are none of this one's."""
    names = (folder.with_name(f"{folder.name}_{number}") for number in itertools.count(1))
    return next(path for path in itertools.chain([folder], names) if not path.exists())


def animate(shown, folder, delta, options):
    """{picture's name: frames uint8 (t, h, w, 3)} by image_to_video.py. shown: folder of pictures."""
    folder = fresh(folder)
    arguments = [f"--image={shown}", f"--output_dir={folder}", "--output_type=frames"]
    arguments += [f"--SVD.delta={delta}"] if delta else []
    arguments += [f"--SVD.sampling_steps={options.sampling_steps}"] if options.sampling_steps else []
    subprocess.run([sys.executable, str(ROOT / "image_to_video.py"), *arguments], check=True, env=os.environ)
    return {
        path.stem: np.stack([load_image(frame) for frame in sorted(folder.glob(f"{path.stem}_*_frames/*.png"))])
        for path in sorted(shown.glob("*.png"))
    }


def measure(videos, shown, fps):
    """{picture: {what: number}}."""
    found = {}
    for name, frames in videos.items():
        flow = 100 * fps * camera_flow(frames)
        found[name] = {
            **dict(zip(AXES, map(float, flow))),
            "first_frame_psnr": psnr(frames[0], load_image(shown / f"{name}.png")),
            "sharpness_drift": math.log2((sharpness(frames[-1]) + 1e-3) / (sharpness(frames[0]) + 1e-3)),
        }
    return found


def table(report):
    """Markdown: along its own axis each move without and with the LoRA, then the other axes and the picture's looks."""
    lines = [
        "| move | meant | without | with | pictures with that sign | the other two | first frame, dB | sharpness "
        "drift |",
        "|---|---|---|---|---|---|---|---|",
    ]
    plain = list(report["without"].values())
    for name, move in MOVES.items():
        found = list(report.get(name, {}).values())
        if not found:
            continue

        def values(axis, found=found):
            return np.array([one[axis] for one in found])

        along, others = values(move.axis), [axis for axis in AXES if axis != move.axis]
        spread = f"{along.mean():+.1f} ({along.min():+.1f} to {along.max():+.1f})"
        lines.append(
            f"| {name} | {move.axis} {'+' if move.sign > 0 else '-'} | {values(move.axis, plain).mean():+.1f} | "
            f"{spread} | {(move.sign * along > 0).sum()} of {len(along)} | "
            f"{', '.join(f'{axis} {values(axis).mean():+.1f}' for axis in others)} | "
            f"{np.median(values('first_frame_psnr')):.1f} | {np.median(values('sharpness_drift')):+.2f} |"
        )
    looks = [np.median([one[what] for one in plain]) for what in ("first_frame_psnr", "sharpness_drift")]
    return "\n".join([*lines, f"without: first frame {looks[0]:.1f} dB, sharpness drift {looks[1]:+.2f}"])


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--moves", nargs="+", default=list(MOVES), choices=list(MOVES))
    parser.add_argument("--weights_dir", help="folder of LoRA files to be measured; by default they are trained")
    parser.add_argument(
        "--pictures", nargs="*", default=[str(ROOT / "assets" / "demo.png")], help="picture and video files to animate"
    )
    parser.add_argument("--drawn", type=int, default=9, help="freshly drawn pictures beside them")
    parser.add_argument("--clips", type=int, default=24, help="to train on")
    parser.add_argument("--size", type=int, default=64, help="pixels of their side; 128 takes four times as long")
    parser.add_argument("--steps", type=int, default=240, help="of training")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=4e-3)
    parser.add_argument("--sampling_steps", type=int, help="by default the config's")
    parser.add_argument("--output_dir", default="outputs/camera_moves")
    options = parser.parse_args(argv)
    folder, sampling = Path(options.output_dir), load_model_config(CONFIG).sampling
    shown, random = fresh(folder / "pictures"), np.random.default_rng(SEED)
    make_folder(shown)
    drawn = {f"drawn{i}": picture(random, sampling.height) for i in range(options.drawn)}
    for name, image in {**pictures(options.pictures, sampling.height), **drawn}.items():
        write_png(image, shown / f"{name}.png")
    report = {}
    for name in ("without", *options.moves):
        delta = None
        if name != "without":
            delta = Path(options.weights_dir) / f"{name}.safetensors" if options.weights_dir else train(name, options)
        videos = animate(shown, folder / f"{name}_videos", delta, options)
        report[name] = measure(videos, shown, sampling.fps)
        write_json(report, folder / "report.json")
        rows = [frames[::3] for frames in list(videos.values())[:5]]
        write_png(contact_sheet(np.concatenate(rows), len(rows[0])), folder / f"{name}.png")
    print(table(report))


if __name__ == "__main__":
    run_cli(main)
