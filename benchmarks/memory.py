"""Memory that gm/estimate.py predicts against what a process really takes, for every stage.

python benchmarks/memory.py --cases=[tiny,tiny_pynative,medium,train_tiny]
python benchmarks/memory.py --cases=[full] --checkpoint=svd.safetensors

Each case is a process of its own. After each stage it reads its largest resident memory from the kernel and sets that
back (/proc/self/clear_refs), so that a stage is not told the peak of the one before; Linux only. "medium" is SVD's
architecture at a fifth of the width with random weights. The exit status is 1 if a prediction is off by more than 25 %.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cases import MEDIUM, write_weights
from jsonargparse import ArgumentParser
from report import check_known, write_report
from tqdm import tqdm

from gm.data.outputs import make_folder
from gm.errors import UserError, run_cli
from gm.model import load_model_config

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 0.25
MODELS = {  # config, changes to it, weights: None for random ones
    "tiny": (ROOT / "configs/svd_tiny.yaml", (), ROOT / "assets/svd_tiny.safetensors"),
    "medium": (ROOT / "configs/svd.yaml", MEDIUM, None),
    "full": (ROOT / "configs/svd.yaml", (), None),
}


class Case(NamedTuple):
    """model: of `MODELS`. size: (height, width). options: of a video, or None for training. train: of train.py.
    environment: variables.
    sizes: further ones that are trained on."""

    model: str
    size: tuple
    frames: int
    mode: int = 0
    low_memory: bool = False
    options: dict = {}
    train: tuple | None = None
    environment: dict = {}
    sizes: tuple = ()


CACHED, RECOMPUTED = ("train.cache=FOLDER/cache",), ("train.cache=FOLDER/cache", "train.recompute=True")
PLAIN = {"SVD_KERNELS": "0"}
CASES = {
    "tiny": Case("tiny", (128, 128), 14),
    "tiny_256": Case("tiny", (256, 256), 14),
    "tiny_chunks": Case("tiny", (256, 256), 14, options={"decode_chunk_size": 4}),
    "tiny_low_memory": Case("tiny", (256, 256), 14, 0, True),
    "tiny_plain": Case("tiny", (256, 256), 14, environment=PLAIN),
    "tiny_pynative": Case("tiny", (128, 128), 14, 1),
    "tiny_256_pynative": Case("tiny", (256, 256), 14, 1),
    "medium": Case("medium", (256, 256), 4),
    "medium_large": Case("medium", (512, 320), 4),
    "medium_pynative": Case("medium", (256, 256), 4, 1),
    "full": Case("full", (256, 256), 4),
    "full_pynative": Case("full", (256, 256), 4, 1),
    "train_tiny": Case("tiny", (128, 128), 14, train=CACHED),
    "train_tiny_256": Case("tiny", (256, 256), 14, train=CACHED),
    "train_tiny_recompute": Case("tiny", (128, 128), 14, train=RECOMPUTED),
    "train_tiny_encoders": Case("tiny", (128, 128), 14, train=("train.loader.batch_size=2", "train.ema=True")),
    "train_tiny_pynative": Case("tiny", (128, 128), 14, 1, train=CACHED),
    "train_tiny_256_pynative": Case("tiny", (256, 256), 14, 1, train=CACHED),
    "train_tiny_256_recompute_pynative": Case("tiny", (256, 256), 14, 1, train=RECOMPUTED),
    "train_tiny_sizes": Case("tiny", (128, 128), 14, train=CACHED, sizes=((64, 64), (96, 96))),
    "train_tiny_sizes_pynative": Case("tiny", (128, 128), 14, 1, train=CACHED, sizes=((64, 64), (96, 96))),
    "train_medium": Case("medium", (256, 256), 4, train=CACHED),
    "train_medium_recompute": Case("medium", (256, 256), 4, train=RECOMPUTED),
    "train_medium_pynative": Case("medium", (256, 256), 4, 1, train=CACHED),
    "train_full": Case("full", (128, 128), 4, train=RECOMPUTED),
}


def peak():
    """The largest resident memory since the last call, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return found


def child(case, weights, folder):
    """The rows of one case: [{stage, predicted, measured}], in bytes."""
    from gm import ops

    ops.set_device("CPU", case.mode)
    config = load_model_config(*MODELS[case.model][:2])
    predicted, measured = (video if case.train is None else training)(case, config, weights, folder)
    return [{"stage": stage, "predicted": predicted[stage].total, "measured": measured[stage]} for stage in measured]


def video(case, config, weights, folder):
    from gm import video_memory
    from gm.data.videos import to_uint8
    from gm.pipeline import ImageToVideo

    pipeline, measured = ImageToVideo(config, weights, low_memory=case.low_memory), {}
    options = pipeline.options(num_frames=case.frames, sampling_steps=2, **case.options)
    predicted = video_memory.needed(pipeline, case.size, options)
    image = np.random.default_rng(0).integers(0, 256, (*case.size, 3), np.uint8)
    peak()
    conditioning = pipeline.condition(image, options)
    measured["conditioning"] = peak()
    for step in pipeline.steps(image, options, conditioning):
        latents = step.latents
    measured["sampling"] = peak()
    to_uint8(pipeline.decode(latents, options))
    measured["decoding"] = peak()
    return predicted, measured


def training(case, config, weights, folder):
    from gm.pretraining.clips import ProceduralClips
    from gm.training import loop
    from gm.training.memory import needed
    from gm.training.plan import Plan
    from gm.training.settings import load_settings

    def data(train):
        return {size: ProceduralClips(4, case.frames, size[0], 24.0, 200.0, 0) for size in sizes}, {}

    sizes = [case.size, *case.sizes]
    several = [f"train.dataset.init_args.sizes={json.dumps(sizes)}"] if case.sizes else []
    steps = 2 if len(sizes) == 1 else 4 * len(sizes)  # all of them are met
    given = [
        *several,
        f"train.dataset.init_args.data_dir={folder}",
        f"train.dataset.init_args.metadata={__file__}",
        f"train.max_steps={steps}",
        "train.epochs=100",
        f"train.output_dir={folder}/run",
        f"train.pretrained={weights}",
        f"train.dataset.init_args.frames={case.frames}",
        f"train.dataset.init_args.height={case.size[0]}",
        f"train.dataset.init_args.width={case.size[1]}",
        *case.train,
    ]
    settings = load_settings(ROOT / "configs/svd_train.yaml", [item.replace("FOLDER", str(folder)) for item in given])
    predicted = needed(Plan(settings, config, data))
    peak()
    loop.train(settings, config, ["benchmark"], data)
    return predicted, {"training": peak()}


def measure(name, case, weights, log):
    """The rows of a case from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", name, str(weights), folder]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            check=False,
            env={**os.environ, "SVD_COMPILE_CACHE": "off", **case.environment},
        )
    lines = [line[2:] for line in done.stdout.splitlines() if line.startswith("@@")]
    if not lines:
        raise UserError(f"{name} ended with {done.returncode} and without an answer; its output is in {log.name}")
    return [{"case": name, **row} for row in json.loads(lines[-1])]


def table(rows):
    lines = ["| case | stage | predicted, GB | measured, GB | predicted / measured |", "|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['case']} | {row['stage']} | {row['predicted'] / 1e9:.2f} | {row['measured'] / 1e9:.2f} | "
            f"{row['predicted'] / row['measured']:.2f} |"
        )
    return "\n".join(lines)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=list[str], default=["tiny", "medium"], help=f"of {', '.join(CASES)}")
    parser.add_argument("--checkpoint", help="weights of the full size; by default random ones: 9 GB of disk")
    parser.add_argument("--output_dir", default="outputs/memory", help="folder for report.json, log and weights")
    options = parser.parse_args(argv)
    check_known("--cases", options.cases, CASES)
    make_folder(options.output_dir)
    folder, rows = Path(options.output_dir), []
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        for name in tqdm(options.cases, unit="case", file=sys.stderr):
            model = CASES[name].model
            config, changes, weights = MODELS[model]
            weights = (options.checkpoint if model == "full" else None) or weights or folder / f"{model}.safetensors"
            if not Path(weights).exists():
                write_weights(load_model_config(config, changes), weights)
            rows += measure(name, CASES[name], weights, log)
            write_report(rows, folder / "report.json")
    print(table(rows))
    wrong = [row for row in rows if abs(row["predicted"] / row["measured"] - 1) > LIMIT]
    if wrong:
        named = ", ".join(f"{row['case']} {row['stage']}" for row in wrong)
        print(f"off by more than {LIMIT:.0%}: {named}")
    return int(bool(wrong))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        name, weights, folder = sys.argv[2:]
        print("@@" + json.dumps(child(CASES[name], weights, folder)))
    else:
        run_cli(main)
