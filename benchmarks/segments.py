"""Longer videos: drift of colour and sharpness over four segments, against naive chaining from the last frame.

python benchmarks/segments.py --output_dir=outputs/segments

On drawn pictures. Ways: "overlap" is what --segments does (`gm.segments`, `gm.diffusion.seam`); "naive" begins each
segment with the last frame of the one before and knows nothing else. Measures are svd_tools/evaluate.py's, over as many
frames of both as the shorter one has, because drift grows with them; "seam" is the RMS difference of the two frames at
a seam over that of a usual pair of neighbours. Results: report.json after every picture, a table on the screen, a sheet
of each video.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from tiny_model import ROOT
from tqdm import tqdm

from gm import ops
from gm.data import procedural
from gm.data.metrics import evaluate
from gm.data.outputs import make_folder, write_json, write_png
from gm.data.videos import contact_sheet, to_uint8
from gm.errors import run_cli
from gm.pipeline import ImageToVideo
from gm.segments import Chain

SEGMENTS = 4
SHOWN = ("colour_drift", "sharpness_drift", "flicker", "motion_score", "seam")


def longer(pipeline, image, options, overlap, naive):
    """(frames, indices of the frames before the seams)."""
    chain, seams = Chain(image, overlap), []
    for k in range(SEGMENTS):
        part = replace(options, seed=options.seed + k)
        conditioning = pipeline.condition(chain.image, part)
        *_, step = pipeline.steps(chain.image, part, conditioning, known=None if naive else chain.known)
        pixels = pipeline.decode(step.latents, part)
        if naive and k > 0:  # its first frame is the last one again
            frames = to_uint8(pixels)
            chain.frames, chain.image = np.concatenate([chain.frames, frames[1:]]), frames[-1]
        else:
            chain.sampled(step.latents)
            chain.decoded(to_uint8(pixels), to_uint8(pixels[-overlap:][:1])[0])
        seams.append(len(chain.frames) - 1)
    return chain.frames, [seam - (0 if naive else overlap // 2) for seam in seams[:-1]]


def measure(frames, seams, fps):
    jumps = np.array([np.sqrt(np.mean((x.astype(np.float64) - y) ** 2)) for x, y in zip(frames, frames[1:])])
    return {**evaluate(frames, fps), "seam": float(np.mean(jumps[seams]) / np.median(jumps))}


def table(report):
    """Medians over the pictures, of the drifts' size."""
    lines = ["| | " + " | ".join(name.replace("_", " ") for name in SHOWN) + " |", "|---|" + "---|" * len(SHOWN)]
    for way in ("overlap", "naive"):
        cells = (f"{np.median([abs(found[way][name]) for found in report.values()]):.2f}" for name in SHOWN)
        lines.append(f"| {way} | {' | '.join(cells)} |")
    less = sum(found["overlap"]["colour_drift"] < found["naive"]["colour_drift"] for found in report.values())
    return "\n".join([*lines, f"less colour drift with an overlap in {less} of {len(report)} pictures"])


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", default=os.fspath(ROOT / "configs" / "svd_tiny.yaml"))
    parser.add_argument("--checkpoint", default=os.fspath(ROOT / "assets" / "svd_tiny.safetensors"))
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--side", type=int, default=128, help="of the pictures in pixels")
    parser.add_argument("--overlap", type=int, default=4)
    parser.add_argument("--motion_bucket_id", type=float, default=127.0)
    parser.add_argument("--sampling_steps", type=int, help="by default the config's")
    parser.add_argument("--output_dir", default="outputs/segments")
    options = parser.parse_args(argv)
    ops.set_device()
    make_folder(options.output_dir)
    pipeline = ImageToVideo(options.config, options.checkpoint)
    settings = pipeline.options(sampling_steps=options.sampling_steps, motion_bucket_id=options.motion_bucket_id)
    report = {}
    for number in tqdm(range(options.pictures), unit="picture", file=sys.stderr):
        picture, found = procedural.picture(np.random.default_rng(100 + number), options.side), {}
        made = {way: longer(pipeline, picture, settings, overlap, way == "naive")
                for way, overlap in (("overlap", options.overlap), ("naive", 1))}
        shortest = min(len(frames) for frames, _ in made.values())
        for way, (frames, seams) in made.items():
            frames, seams = frames[:shortest], [seam for seam in seams if seam < shortest - 1]
            found[way] = measure(frames, seams, settings.fps)
            write_png(contact_sheet(frames[::4], 14), Path(options.output_dir) / f"{number:02d}_{way}.png")
        report[str(number)] = found
        write_json({"settings": vars(settings), "pictures": report}, Path(options.output_dir) / "report.json")
    print(table(report))


if __name__ == "__main__":
    run_cli(main)
