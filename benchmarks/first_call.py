"""Time from the command to the video, in its first run and in its second, stage by stage.

python benchmarks/first_call.py --cases=[tiny,medium]
python benchmarks/first_call.py --cases=[full] --folder=build/first_call

Each pair of runs has a cache of its own (XDG_CACHE_HOME): in the first run nothing is there, so that kernels and
networks are compiled; in the second, both are. Both must give the same files, bit for bit. tiny is the program's
default command; medium is SVD's architecture at a fifth of the width, full has its size; both have random weights, 4
frames of 256x256 pixels and 2 steps. Seconds on the clock, and of the processor, which tell more on a busy machine (the
C++ compiler's that it starts are among them). A stage loads what it is the first to use, and compiles it; "starting" is
all that no stage is.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cases import MEDIUM, write_weights
from jsonargparse import ArgumentParser
from make_random_checkpoint import write as write_checkpoint
from omegaconf import OmegaConf
from report import check_count, check_known, write_report
from tqdm import tqdm

from gm.data.outputs import make_folder
from gm.errors import UserError, run_cli
from gm.files import require_space
from gm.model import load_model_config

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("starting", "conditioning", "sampling", "decoding", "writing")
_FULL_SIZE = 4.9e9  # bytes of the random checkpoint, in float16
_SHORT = ("--SVD.num_frames=4", "--SVD.sampling_steps=2", "--height=256", "--width=256")


class Case(NamedTuple):
    """weights: function of a folder, that returns (config, checkpoint), or None for the program's own choice."""

    weights: object
    options: tuple = ()


def medium(folder):
    config, weights = folder / "medium.yaml", folder / "medium.safetensors"
    if not weights.exists():
        settings = load_model_config(ROOT / "configs/svd.yaml", MEDIUM)
        OmegaConf.save(settings, config)
        write_weights(settings, weights)
    return config, weights


def full(folder):
    weights = folder / "random.safetensors"
    if not weights.exists():
        require_space(folder, _FULL_SIZE)
        write_checkpoint(weights, "svd", "float16", 0)
    return ROOT / "configs/svd.yaml", weights


CASES = {"tiny": Case(None), "medium": Case(medium, _SHORT), "full": Case(full, _SHORT)}


def run(case, folder, cache):
    """(figures, hashes of what it wrote) of one run in a process of its own."""
    files = case.weights(folder) if case.weights else ()
    named = [f"--SVD.{name}={path}" for name, path in zip(("config", "checkpoint"), files)]
    with tempfile.TemporaryDirectory() as output:
        command = [
            sys.executable,
            ROOT / "image_to_video.py",
            f"--image={ROOT / 'assets/demo.png'}",
            f"--output_dir={output}",
            *named,
            *case.options,
        ]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            command,
            env={**os.environ, "XDG_CACHE_HOME": str(cache)},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise UserError(f"image_to_video.py failed:\n{done.stderr[-2000:]}")
        about = json.loads(next(Path(output).glob("*.json")).read_text(encoding="utf-8"))
    seconds = {"starting": wall - sum(about["seconds"].values()), **about["seconds"]}
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = {"wall": wall, "processor": processor, "seconds": seconds, "peak_memory": about["peak_memory_bytes"]}
    return figures, about["files"]


def measure(name, case, folder, pairs):
    """The two rows of a case, for the run with the median time on the clock of the first and of the second runs."""
    runs = {"first": [], "second": []}
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as cache:
            results = {which: run(case, folder, cache) for which in runs}
        if results["first"][1] != results["second"][1]:
            raise UserError(f"{name}: the second run's files are others than the first's")
        for which, (figures, _) in results.items():
            runs[which].append(figures)
    ratios = {
        what: float(np.median([first[what] / second[what] for first, second in zip(*runs.values())]))
        for what in ("wall", "processor")
    }
    return [
        {
            "case": name,
            "run": which,
            "pairs": pairs,
            "ratios": ratios,
            **sorted(found, key=lambda one: one["wall"])[pairs // 2],
        }
        for which, found in runs.items()
    ]


def table(rows):
    lines = [
        f"| case | run | {', s | '.join(STAGES)}, s | all, s | processor, s | peak memory |",
        "|---" * (len(STAGES) + 5) + "|",
    ]
    for row in rows:
        cells = [f"{row['seconds'].get(stage, 0):.1f}" for stage in STAGES]
        lines.append(
            f"| {row['case']} | {row['run']} | {' | '.join(cells)} | **{row['wall']:.1f}** | "
            f"{row['processor']:.1f} | {row['peak_memory'] / 1e9:.1f} GB |"
        )
    return "\n".join(lines)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=list[str], default=["tiny", "medium"], help=f"of {', '.join(CASES)}")
    parser.add_argument("--pairs", type=int, default=1, help="first and second runs")
    parser.add_argument("--folder", type=Path, default=Path("build/first_call"), help="for the weights, which stay")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/first_call"), help="for report.json")
    options = parser.parse_args(argv)
    check_known("--cases", options.cases, CASES)
    check_count("--pairs", options.pairs)
    make_folder(options.folder)
    make_folder(options.output_dir)
    rows = []
    for name in tqdm(options.cases, unit="case", file=sys.stderr):
        rows += measure(name, CASES[name], options.folder.resolve(), options.pairs)
        write_report(rows, options.output_dir / "report.json")
    print(table(rows))


if __name__ == "__main__":
    run_cli(main)
