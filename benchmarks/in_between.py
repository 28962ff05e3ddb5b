"""Videos from picture A to picture B: how near they come to both, and how smoothly, on pairs of frames of a drawn clip.

python benchmarks/in_between.py --output_dir=outputs/in_between

Ways: plain sampling from A; Time Reversal Fusion (`gm.diffusion.between`, --end_image); ViBiDSampler's turns; a
cross-fade of A and B. B is the frame that comes as many frames after A as the video is long, so that a model that knows
the motion could do it. Results: report.json, a table on the screen, a sheet of each video.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from tiny_model import ROOT
from tqdm import tqdm

from gm import ops
from gm.data import procedural
from gm.data.metrics import psnr, sharpness
from gm.data.motion import bucket
from gm.data.outputs import make_folder, write_json, write_png
from gm.data.videos import contact_sheet, to_uint8
from gm.diffusion.between import reverse
from gm.diffusion.guidance import guided
from gm.diffusion.sampling import initial_latents
from gm.diffusion.schedules import SCHEDULES
from gm.errors import run_cli
from gm.pipeline import ImageToVideo


def turns(pipeline, options, first, last, noise):
    """Latents by ViBiDSampler's turns (Yang et al. 2024, algorithm 1), without its guidance: in every step the video is
    denoised from A, noised again to the step's level, and denoised in reversed time from B."""
    unguided = np.ones((options.num_frames, 1, 1, 1), np.float32)
    from_first, from_last = (guided(pipeline.denoiser, one, unguided, options.num_frames) for one in (first, last))
    sigmas = SCHEDULES[options.schedule](options.sampling_steps)
    random = np.random.default_rng((options.seed, 1))
    x = initial_latents(noise, sigmas)
    for sigma, following in zip(sigmas, sigmas[1:]):
        x = from_first(x, sigma) + sigma * random.standard_normal(x.shape, np.float32)
        x = reverse(from_last(reverse(x), sigma)) + following * random.standard_normal(x.shape, np.float32)
    return x


def ways(pipeline, options, first, last):
    """{way: frames uint8 (t, h, w, 3)} from picture A to picture B."""
    pixel_noise, noise = pipeline.noise(first, options)
    a, b = (pipeline.condition(picture, options, pixel_noise) for picture in (first, last))
    found = {}
    for way, end in (("plain", None), ("fusion", b)):
        *_, step = pipeline.steps(first, options, a, end=end)
        found[way] = step.latents
    found["turns"] = turns(pipeline, options, a, b, noise)
    found = {way: to_uint8(pipeline.decode(latents, options)) for way, latents in found.items()}
    share = np.linspace(0, 1, options.num_frames)[:, None, None, None]
    found["cross-fade"] = np.rint(first * (1 - share) + last * share).astype(np.uint8)
    return found


def measure(frames, truth):
    """{what: number} of a video against the clip's own frames between A and B."""
    jumps = [np.sqrt(np.mean((x.astype(np.float64) - y) ** 2)) for x, y in zip(frames, frames[1:])]
    middle = len(frames) // 2
    return {
        "first frame against A, dB": min(psnr(frames[0], truth[0]), 99.0),
        "last frame against B, dB": min(psnr(frames[-1], truth[-1]), 99.0),
        "largest jump, RMS of 255": max(jumps),
        "middle against the clip's, dB": psnr(frames[middle], truth[middle]),
        "fine detail of the middle, of the clip's": sharpness(frames[middle]) / sharpness(truth[middle]),
    }


def table(report):
    """The medians over the pairs, as Markdown."""
    names = list(next(iter(report.values()))[0])
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for way, found in report.items():
        lines.append(
            f"| {way} | "
            + " | ".join(f"{np.median([f[name] for f in found]):.1f}" for name in names[:4])
            + f" | {np.median([f[names[4]] for f in found]):.2f} |"
        )
    return "\n".join(lines)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", default=os.fspath(ROOT / "configs" / "svd_tiny.yaml"))
    parser.add_argument("--checkpoint", default=os.fspath(ROOT / "assets" / "svd_tiny.safetensors"))
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--bucket", type=float, default=160.0, help="the most motion of the drawn clip")
    parser.add_argument("--sampling_steps", type=int, help="by default the config's")
    parser.add_argument("--seed", type=int, default=5, help="of the clip")
    parser.add_argument("--output_dir", default="outputs/in_between")
    options = parser.parse_args(argv)
    ops.set_device()
    make_folder(options.output_dir)
    pipeline = ImageToVideo(options.config, options.checkpoint)
    settings = pipeline.options(sampling_steps=options.sampling_steps)
    length, side = settings.num_frames, pipeline.config.sampling.height
    clip = procedural.clip(
        np.random.default_rng(options.seed), length + options.pairs - 1, side, settings.fps, options.bucket
    )
    settings = pipeline.options(sampling_steps=options.sampling_steps, motion_bucket_id=float(bucket(clip.motion)))
    report = {}
    for pair in tqdm(range(options.pairs), unit="pair", file=sys.stderr):
        truth = clip.frames[pair : pair + length]
        for way, frames in {**ways(pipeline, settings, truth[0], truth[-1]), "the clip": truth}.items():
            report.setdefault(way, []).append(
                measure(frames, truth)
                if way != "the clip"
                else {**measure(frames, truth), "middle against the clip's, dB": 99.0}
            )
            name = f"{pair:02d}_{way.replace(' ', '_')}.png"
            write_png(contact_sheet(frames, length), Path(options.output_dir) / name)
        write_json({"bucket": settings.motion_bucket_id, "ways": report}, Path(options.output_dir) / "report.json")
    print(table(report))


if __name__ == "__main__":
    run_cli(main)
