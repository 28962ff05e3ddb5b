"""How close fewer steps come: PSNR of the tiny model's videos against 100 Euler steps from the same noise.

python benchmarks/steps.py --pictures PICTURE_OR_VIDEO... --output_dir=outputs/steps

Every way of sampling gets the same number of calls of the network (Heun takes two for a step). Results: report.json and
a table on the screen.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jsonargparse import ArgumentParser
from tiny_model import ROOT, pictures
from tqdm import tqdm

from gm import ops
from gm.data.metrics import psnr
from gm.data.outputs import make_folder, write_json
from gm.data.videos import to_uint8
from gm.errors import run_cli
from gm.pipeline import ImageToVideo

REFERENCE = {"sampling_steps": 100, "sampler": "euler"}
CALLS = (4, 6, 8, 10, 12, 16, 25)


class Method(NamedTuple):
    """changes: of the pipeline's options. calls_per_step: of the network."""

    changes: dict
    calls_per_step: int = 1


METHODS = {
    "euler, karras": Method({"sampler": "euler"}),
    "euler, ays": Method({"sampler": "euler", "schedule": "ays"}),
    "heun, karras": Method({"sampler": "heun"}, 2),
    "dpmpp_2m, karras": Method({"sampler": "dpmpp_2m"}),
    "dpmpp_2m, ays": Method({"sampler": "dpmpp_2m", "schedule": "ays"}),
    "euler, karras, every 2nd call whole (DeepCache)": Method({"sampler": "euler", "cache_interval": 2}),
}


def video(pipeline, picture, conditioning, changes):
    """(frames uint8, final latents) of one way of sampling; the seed is the same in all."""
    options = pipeline.options(**changes)
    for step in pipeline.steps(picture, options, conditioning):
        latents = step.latents
    return to_uint8(pipeline.decode(latents, options))


def steps_for(method, calls):
    """Heun's last step takes one call, so that n steps take 2 n - 1."""
    return (calls + method.calls_per_step - 1) // method.calls_per_step


def table(report):
    lines = [f"| calls of the network | {' | '.join(map(str, CALLS))} |", "|---|" + "---|" * len(CALLS)]
    for name in METHODS:
        cells = (f"{np.median(list(report[name][str(calls)].values())):.1f}" for calls in CALLS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", nargs="+", required=True, help="picture and video files")
    parser.add_argument("--config", default=os.fspath(ROOT / "configs" / "svd_tiny.yaml"))
    parser.add_argument("--checkpoint", default=os.fspath(ROOT / "assets" / "svd_tiny.safetensors"))
    parser.add_argument("--output_dir", default="outputs/steps")
    options = parser.parse_args(argv)
    ops.set_device()
    make_folder(options.output_dir)
    pipeline = ImageToVideo(options.config, options.checkpoint)
    report = {name: {str(calls): {} for calls in CALLS} for name in METHODS}
    shown = pictures(options.pictures, pipeline.config.sampling.height)
    for picture_name, picture in tqdm(shown.items(), unit="picture", file=sys.stderr):
        conditioning = pipeline.condition(picture, pipeline.options())
        expected = video(pipeline, picture, conditioning, REFERENCE)
        for name, method in METHODS.items():
            for calls in CALLS:
                changes = {**method.changes, "sampling_steps": steps_for(method, calls)}
                found = video(pipeline, picture, conditioning, changes)
                report[name][str(calls)][picture_name] = psnr(found, expected)
        write_json({"reference": REFERENCE, "psnr": report}, Path(options.output_dir) / "report.json")
    print(table(report))


if __name__ == "__main__":
    run_cli(main)
