"""Fine-tune the tiny model's temporal layers on clips that all pan to the right, and see whether new pictures do so.

python benchmarks/tiny_finetune.py --output_dir=outputs/tiny_finetune --pictures PICTURE_OR_VIDEO...

Draws the clips, labels them with svd_tools/label_videos.py, trains with train.py (temporal_only, from a cache), and
measures the mean horizontal motion of videos of the given and of freshly drawn pictures, before and after. When the
camera turns right, what is seen moves left: motion_right below 0.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from tiny_model import pictures
from tqdm import tqdm

from gm import ops
from gm.data.metrics import evaluate
from gm.data.motion import score
from gm.data.outputs import make_folder, write_json, write_png
from gm.data.procedural import pan, picture
from gm.data.videos import contact_sheet, write_video
from gm.errors import run_cli
from gm.model import load_model_config
from gm.pipeline import ImageToVideo
from svd_tools import label_videos

ROOT = Path(__file__).resolve().parents[1]
CONFIG, CHECKPOINT = ROOT / "configs" / "svd_tiny.yaml", ROOT / "assets" / "svd_tiny.safetensors"
SLOWEST, FASTEST = 100, 205  # motion buckets of the clips
LENGTH = 16  # frames


def write_clips(folder, count, size, fps, draw=pan):
    """`count` clips of a camera that moves at different speeds, and labels.csv, whose path is returned.

    draw: function of (picture, frames, pixels of the side, share of the side in each frame).
    """
    make_folder(folder)
    random = np.random.default_rng((0, 77))
    for index in range(count):
        speed = score(random.uniform(SLOWEST, FASTEST)) / 100  # sides per second
        frames = draw(picture(random, 3 * size), LENGTH, size, speed / fps)
        write_video(frames, Path(folder) / f"clip{index:03d}.mp4", fps)
    labels = Path(folder) / "labels.csv"
    label_videos.main([str(folder), f"--output={labels}"])
    return labels


def train_arguments(folder, labels, size, steps, learning_rate, **more):
    """The command line of train.py. more: further options below train, or others for these."""
    given = {
        "svd_config": CONFIG,
        "train.pretrained": CHECKPOINT,
        "train.output_dir": Path(folder) / "run",
        "train.temporal_only": True,
        "train.epochs": 10000,
        "train.max_steps": steps,
        "train.resume": "latest",
        "train.cache": Path(folder) / "cache",
        "train.ema": False,
        "train.dataset.init_args.data_dir": labels.parent,
        "train.dataset.init_args.metadata": labels,
        "train.dataset.init_args.frames": 14,
        "train.dataset.init_args.step": 1,
        "train.dataset.init_args.height": size,
        "train.dataset.init_args.width": size,
        "train.loader.batch_size": 2,
        "train.loss.p_mean": 0.7,
        "train.optimizer.learning_rate": learning_rate,
        "train.schedule.name": "cosine",
        "train.schedule.warmup_steps": 10,
        "train.schedule.end_factor": 0.1,
        "train.checkpoint.every": 50,
        **{f"train.{name}": value for name, value in more.items()},
    }
    return [f"--{name}={value}" for name, value in given.items()]


def measure(shown, delta, steps, sheet=None):
    """{name: metrics} of a video of each picture."""
    pipeline = ImageToVideo(CONFIG, CHECKPOINT, delta)
    found, rows = {}, []
    for name, image in tqdm(shown.items(), desc="after" if delta else "before", unit="picture"):
        frames = pipeline(image, sampling_steps=steps)
        found[name] = evaluate(frames, pipeline.options().fps, image)
        rows.append(np.concatenate([image[None], frames[::3]]))
    if sheet is not None:
        write_png(contact_sheet(np.concatenate(rows[:6]), len(rows[0])), sheet)
    return found


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", nargs="*", default=[], help="picture and video files to animate")
    parser.add_argument("--drawn", type=int, default=8, help="freshly drawn pictures beside them")
    parser.add_argument("--clips", type=int, default=32, help="to train on")
    parser.add_argument("--size", type=int, default=128, help="pixels of the side")
    parser.add_argument("--steps", type=int, default=200, help="of training")
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--sampling_steps", type=int, default=10)
    parser.add_argument("--output_dir", default="outputs/tiny_finetune")
    options = parser.parse_args(argv)
    ops.set_device()
    folder = Path(options.output_dir)
    fps = load_model_config(CONFIG).sampling.fps
    labels = write_clips(folder / "clips", options.clips, options.size, fps)
    shown = pictures(options.pictures, options.size)
    random = np.random.default_rng(4711)
    shown.update({f"drawn_{i}": picture(random, options.size) for i in range(options.drawn)})
    report = {"before": measure(shown, None, options.sampling_steps)}
    arguments = train_arguments(folder, labels, options.size, options.steps, options.learning_rate)
    subprocess.run([sys.executable, str(ROOT / "train.py"), *arguments], check=True, env=os.environ)
    delta = folder / "run" / "weights" / "delta.safetensors"
    report["after"] = measure(shown, delta, options.sampling_steps, folder / "after.png")
    summary = {
        when: {
            "pictures": len(found),
            "share that pans right": float(np.mean([one["motion_right"] < 0 for one in found.values()])),
            "mean motion_right": float(np.mean([one["motion_right"] for one in found.values()])),
        }
        for when, found in report.items()
    }
    write_json({"summary": summary, **report}, folder / "report.json")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    run_cli(main)
