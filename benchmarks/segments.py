"""Longer videos: drift of colour and sharpness over four segments, against naive chaining from the last frame.

python benchmarks/segments.py --output_dir=outputs/segments

On drawn pictures. Ways: "overlap" is what --segments does (`gm.segments`, `gm.diffusion.seam`); "uncorrected" is the
same without what it does to the colours; "naive" begins each segment with the last frame of the
one before and knows nothing else; "drawn" is no model's, but a camera that pushes in on the picture as far as the
overlap's video moved: what drifts there is content alone. Measures are svd_tools/evaluate.py's, over as many frames of
all as the shortest one has, because drift grows with them. The chroma (C*ab of CIE 15) says how coloured the same
points are, which their mean does not see: red that turns redder beside green that turns greener. "seam" is the RMS
difference of the two frames at a seam over that of a usual pair of neighbours. A second table follows the videos: at
equal quarters of that length, against the first frame. Results: report.json after every video, tables on the screen, a
sheet of each; the same command goes on where it was stopped.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
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
from gm.data.flow import one_more, picture_flow
from gm.data.metrics import evaluate, same_points_drift
from gm.data.motion import motion_score
from gm.data.outputs import make_folder, write_json, write_png
from gm.data.videos import contact_sheet, to_uint8
from gm.errors import UserError, run_cli
from gm.pipeline import ImageToVideo
from gm.segments import Chain

SEGMENTS, OTHER_WAYS = 4, ("uncorrected", "naive")
DRIFTS = ("followed_colour_drift", "followed_chroma_drift", "colour_drift", "contrast_drift", "sharpness_drift")
SHOWN = (*DRIFTS, "motion_score", "seam")


def longer(pipeline, image, options, overlap, way):
    """(frames, indices of the frames before the seams)."""
    naive, latents = way == "naive", None
    chain, seams = Chain(image, 1 if naive else overlap), []
    for k in range(SEGMENTS):
        part = replace(options, seed=options.seed + k)
        known = chain.known(functools.partial(pipeline.encode, options=part)) if way == "overlap" else latents
        seen = known[0] if way == "overlap" and k > 0 else None
        conditioning = pipeline.condition(chain.image, part, latents=seen)
        *_, step = pipeline.steps(chain.image, part, conditioning, known=known)
        pixels = pipeline.decode(step.latents, part)
        frames = to_uint8(pixels)
        if naive:
            frames_before = frames[:1] if k == 0 else chain.frames  # a segment's first frame is the last one again
            chain.frames, chain.image = np.concatenate([frames_before, frames[1:]]), frames[-1]
        else:
            chain.sampled(step.latents)
            chain.decoded(frames, frames)
            if way == "uncorrected":
                chain.image, latents = frames[-overlap], step.latents[-overlap:]
        seams.append(len(chain.frames) - 1)
    return chain.frames, [seam - (0 if naive else overlap // 2) for seam in seams[:-1]]


def drawn(image, like, fps):
    """A camera that pushes in on the picture: as many frames as `like` has, and as fast as that moves."""
    rate = motion_score(like, fps) / 100 / procedural.MEAN_RADIUS
    return procedural.push_in(image, len(like), len(image), math.exp(rate / fps), (0.5, 0.5))


def drift(first, frame, to_first):
    """{a name of `DRIFTS`: number} of a frame against the first one: evaluate's, and the deviation of the colours from
    their mean, log2 of the ratio. to_first: flow between them."""
    found = evaluate(np.stack([first, frame]), 1.0)
    deviations = [np.mean(np.std(picture, (0, 1))) + 1e-3 for picture in (frame, first)]
    return {
        **same_points_drift(first, frame, to_first),
        "colour_drift": found["colour_drift"],
        "contrast_drift": math.log2(deviations[0] / deviations[1]),
        "sharpness_drift": found["sharpness_drift"],
    }


def measure(frames, seams, fps):
    jumps = np.array([np.sqrt(np.mean((x.astype(np.float64) - y) ** 2)) for x, y in zip(frames, frames[1:])])
    places, on_the_way = np.linspace(0, len(frames) - 1, SEGMENTS + 1).astype(int)[1:], []
    to_first = np.zeros((*frames[0].shape[:2], 2), np.float32)
    for k, (before, frame) in enumerate(zip(frames, frames[1:]), 1):
        to_first = one_more(to_first, picture_flow(frame, before))
        if k in places:
            on_the_way.append(drift(frames[0], frame, to_first))
    return {
        **on_the_way[-1],
        "on_the_way": on_the_way,
        "motion_score": motion_score(frames, fps),
        "frames": len(frames),
        "seam": float(np.mean(jumps[seams]) / np.median(jumps)) if seams else 1.0,
    }


def table(report, ways):
    """Medians over the pictures, of the drifts' size; and with signs on the way. "drawn" goes with all `ways`."""
    ways = [*ways, "drawn"]
    lines = ["| | " + " | ".join(name.replace("_", " ") for name in SHOWN) + " |", "|---|" + "---|" * len(SHOWN)]
    for way in ways:
        cells = (f"{np.median([abs(found[way][name]) for found in report.values()]):.2f}" for name in SHOWN)
        lines.append(f"| {way} | {' | '.join(cells)} |")
    for name in DRIFTS if "naive" in ways else ():
        less = sum(abs(found["overlap"][name]) < abs(found["naive"][name]) for found in report.values())
        lines.append(f"less {name.replace('_', ' ')} with an overlap than naive in {less} of {len(report)} pictures")
    lines += ["", "| | a quarter | half | three quarters | the end |", "|---|---|---|---|---|"]
    for way in ways:
        for name in DRIFTS:
            found = np.median([[at[name] for at in one[way]["on_the_way"]] for one in report.values()], 0)
            lines.append(f"| {way}, {name.replace('_', ' ')} | {' | '.join(f'{value:+.2f}' for value in found)} |")
    return "\n".join(lines)


def earlier(path, settings):
    """The pictures of an earlier report with the same settings."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["settings"] != settings:
        raise UserError(f"{path} is of other settings: name another --output_dir")
    return found["pictures"]


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", default=os.fspath(ROOT / "configs" / "svd_tiny.yaml"))
    parser.add_argument("--checkpoint", default=os.fspath(ROOT / "assets" / "svd_tiny.safetensors"))
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--side", type=int, default=128, help="of the pictures in pixels")
    parser.add_argument("--overlap", type=int, default=4)
    parser.add_argument("--others", nargs="*", default=list(OTHER_WAYS), choices=OTHER_WAYS, help="ways beside overlap")
    parser.add_argument("--motion_bucket_id", type=float, default=127.0)
    parser.add_argument("--sampling_steps", type=int, help="by default the config's")
    parser.add_argument("--output_dir", default="outputs/segments")
    options = parser.parse_args(argv)
    ops.set_device()
    make_folder(options.output_dir)
    pipeline = ImageToVideo(options.config, options.checkpoint)
    settings = pipeline.options(sampling_steps=options.sampling_steps, motion_bucket_id=options.motion_bucket_id)
    told = {**vars(settings), "side": options.side, "overlap": options.overlap}
    ways = [*options.others, "overlap"]
    report_path = Path(options.output_dir) / "report.json"
    report = earlier(report_path, told)
    length = SEGMENTS * (settings.num_frames - options.overlap) + options.overlap  # of "overlap", the shortest
    for number, way in tqdm(list(itertools.product(range(options.pictures), ways)), unit="video", file=sys.stderr):
        found = report.setdefault(str(number), {})
        if way in found:
            continue
        picture = procedural.picture(np.random.default_rng(100 + number), options.side)
        made = {way: longer(pipeline, picture, settings, options.overlap, way)}
        if way == "overlap":
            made["drawn"] = drawn(picture, made[way][0], settings.fps), []
        for name, (frames, seams) in made.items():
            frames, seams = frames[:length], [seam for seam in seams if seam < length - 1]
            found[name] = measure(frames, seams, settings.fps)
            write_png(contact_sheet(frames[::4], 14), Path(options.output_dir) / f"{number:02d}_{name}.png")
        write_json({"settings": told, "pictures": report}, report_path)
    print(table(report, ways))


if __name__ == "__main__":
    run_cli(main)
