"""What the tiny model can do, on pictures that it has not seen: fidelity, motion control, coherence, contact sheets.

python benchmarks/tiny_model.py --pictures PICTURE_OR_VIDEO... --output_dir=outputs/tiny_model

Each picture is cut to a square of 128x128 pixels; of a video the first and the middle frame are taken. Results:
report.json, a table on the screen, and a contact sheet of each picture, one row for each motion bucket.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from mindspore import Tensor
from tqdm import tqdm

from gm import ops
from gm.data.images import fit_image, load_image, to_signed
from gm.data.metrics import evaluate, psnr
from gm.data.outputs import make_folder, write_json, write_png
from gm.data.video_reader import SUFFIXES, open_video
from gm.data.videos import contact_sheet, to_uint8
from gm.diffusion.latents import decode_in_chunks, split_moments
from gm.errors import run_cli
from gm.pipeline import ImageToVideo

ROOT = Path(__file__).resolve().parents[1]
BUCKETS = (16, 64, 127, 200)


def pictures(paths, side):
    """{name: uint8 (side, side, 3)}."""
    found = {}
    for path in map(Path, paths):
        if path.name.lower().endswith(SUFFIXES):
            with open_video(path) as video:
                for index in (0, video.length // 2):
                    found[f"{path.stem}_{index}"] = fit_image(video.frames([index])[0], side, side)
        else:
            found[path.stem] = fit_image(load_image(path), side, side)
    return found


def autoencoder_psnr(pipeline, picture):
    """dB of a picture that goes through the conditioner's encoder and the decoder, alone."""
    moments = pipeline.condition_encoder(Tensor(to_signed(picture))).asnumpy()
    decoded = decode_in_chunks(pipeline.decoder, split_moments(moments)[0], 1)
    return psnr(to_uint8(decoded)[0], picture)


def rank_correlation(values):
    """Spearman's correlation of `values` with their order (no ties)."""
    ranks = np.argsort(np.argsort(values))
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


def coherence(found):
    """Of one bucket's metrics {picture: metrics}: whether the frames hang together."""

    def values(name):
        return np.array([metrics[name] for metrics in found.values()])

    drift = values("sharpness_drift")
    return {
        "first frame PSNR, median dB": float(np.median(values("first_frame_psnr"))),
        "share where following the flow brings the last frame nearer to the first": float(
            np.mean(values("followed_closure") > values("loop_closure"))
        ),
        "sharpness drift, median": float(np.median(drift)),
        "sharpness drift, lowest": float(drift.min()),
        "sharpness drift, highest": float(drift.max()),
        **{
            f"{name.replace('_', ' ')}, median": float(np.median(values(name)))
            for name in ("warping_error", "flicker", "colour_drift")
        },
    }


def summary(report):
    """The figures that the tiny model is judged by, from {picture: {"autoencoder_psnr", bucket: metrics}}."""
    scores = np.array([[found[str(b)]["motion_score"] for b in BUCKETS] for found in report.values()])
    return {
        "pictures": len(report),
        "autoencoder PSNR, median dB": float(np.median([found["autoencoder_psnr"] for found in report.values()])),
        **{f"motion score at {b}, mean": float(m) for b, m in zip(BUCKETS, scores.mean(0))},
        "rank correlation of mean score and bucket": rank_correlation(scores.mean(0)),
        "share higher at 200 than at 16": float((scores[:, -1] > scores[:, 0]).mean()),
        **{f"at {b}": coherence({name: found[str(b)] for name, found in report.items()}) for b in BUCKETS[2:]},
    }


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", nargs="+", required=True, help="picture and video files")
    parser.add_argument("--config", default=os.fspath(ROOT / "configs" / "svd_tiny.yaml"))
    parser.add_argument("--checkpoint", default=os.fspath(ROOT / "assets" / "svd_tiny.safetensors"))
    parser.add_argument("--sampling_steps", type=int, help="by default the config's")
    parser.add_argument("--output_dir", default="outputs/tiny_model")
    options = parser.parse_args(argv)
    ops.set_device()
    make_folder(options.output_dir)
    pipeline = ImageToVideo(options.config, options.checkpoint)
    settings = pipeline.options(sampling_steps=options.sampling_steps)
    report = {}
    for name, picture in tqdm(pictures(options.pictures, 128).items(), unit="picture", file=sys.stderr):
        report[name] = {"autoencoder_psnr": autoencoder_psnr(pipeline, picture)}
        rows = []
        for bucket in BUCKETS:
            frames = pipeline(picture, settings, motion_bucket_id=bucket)
            report[name][str(bucket)] = evaluate(frames, settings.fps, picture)
            rows.append(np.concatenate([picture[None], frames[::3]]))
        write_png(contact_sheet(np.concatenate(rows), len(rows[0])), Path(options.output_dir) / f"{name}.png")
        write_json({"summary": summary(report), "pictures": report}, Path(options.output_dir) / "report.json")
    print(json.dumps(summary(report), indent=2))


if __name__ == "__main__":
    run_cli(main)
