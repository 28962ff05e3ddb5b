"""Run the full-size model on random weights, from conversion to the video, and print time and memory of every stage.

python benchmarks/full_size.py --folder=build/full_size

Writes a random checkpoint with the keys and shapes of svd.safetensors (float16) where the folder has none yet, converts
it as it is and to float32, and runs image_to_video.py on each: 256x256 pixels, 4 frames, 2 steps. Every program runs as
a process of its own, with the same options that a user would give. The files stay for the next time: 18.5 GB.

The table has the seconds of each stage as image_to_video.py writes them to its JSON file. A stage includes loading the
components that it is the first to use, and in graph mode (--mode=0) compiling them; with 2 steps that is most of
"sampling". Peak memory is the process's largest resident set: pages of the memory-mapped checkpoint count as well,
though the system can take them back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from jsonargparse import ArgumentParser
from report import check_known

from gm.data.outputs import make_folder
from gm.errors import UserError, run_cli
from gm.files import require_space

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "svd.yaml"
DISK_SPACE = 18.6e9  # all three checkpoints
STAGES = ("conditioning", "sampling", "decoding", "writing")


class Run(NamedTuple):
    """weights: original, float16 or float32, see `prepare`."""

    weights: str
    mode: int
    amp_level: str


RUNS = {
    "original": Run("original", 0, "O0"),
    "float16": Run("float16", 0, "O0"),
    "float32": Run("float32", 0, "O0"),
    "pynative": Run("float32", 1, "O0"),
    "O2": Run("float16", 0, "O2"),
}


def program(*arguments):
    """Run one of the project's programs; its output goes where ours does."""
    status = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=False, env=os.environ).returncode
    if status < 0:
        raise UserError(f"{Path(arguments[0]).name} was ended by signal {-status}; 9 mostly means: out of memory")
    if status:
        raise UserError(f"{Path(arguments[0]).name} failed, see above")


def prepare(folder):
    """{weights: path} of the random checkpoint and of what convert.py makes of it; made where absent."""
    original = folder / "random.safetensors"
    paths = {"original": original, **{dtype: folder / dtype / original.name for dtype in ("float16", "float32")}}
    there = sum(path.stat().st_size for path in paths.values() if path.exists())
    require_space(folder, DISK_SPACE - there)
    if not original.exists():
        program(ROOT / "benchmarks/make_random_checkpoint.py", "--out", original)
    for dtype in ("float16", "float32"):
        if not paths[dtype].exists():
            program(
                ROOT / "svd_tools/convert.py",
                "--pt_weights_file",
                original,
                "--config",
                CONFIG,
                "--out_dir",
                folder / dtype,
                "--dtype",
                dtype,
            )
    return paths


def run(name, paths, image):
    """What image_to_video.py wrote about one run of `RUNS`: the content of its JSON file."""
    weights, mode, amp_level = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        program(
            ROOT / "image_to_video.py",
            "--compile_cache=off",
            f"--SVD.config={CONFIG}",
            f"--SVD.checkpoint={paths[weights]}",
            "--SVD.num_frames=4",
            "--SVD.sampling_steps=2",
            f"--image={image}",
            "--height=256",
            "--width=256",
            f"--output_dir={folder}",
            f"--mode={mode}",
            f"--amp_level={amp_level}",
        )
        return json.loads(next(Path(folder).glob("*.json")).read_text(encoding="utf-8"))


def table(results):
    """{name: JSON content, or the error's message} as Markdown."""
    lines = [
        f"| weights | mode | amp_level | {' | '.join(STAGES)} | all, s | peak memory, GB |",
        "|---" * (len(STAGES) + 5) + "|",
    ]
    for name, about in results.items():
        weights, mode, amp_level = RUNS[name]
        if isinstance(about, str):
            lines.append(f"| {weights} | {mode} | {amp_level} | {about} |")
            continue
        seconds = [about["seconds"][stage] for stage in STAGES]
        cells = [f"{value:.1f}" for value in (*seconds, sum(seconds), about["peak_memory_bytes"] / 1e9)]
        lines.append(f"| {' | '.join([weights, str(mode), amp_level, *cells])} |")
    return "\n".join(lines)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="for the checkpoints; made if it is not there")
    parser.add_argument("--image", default=str(ROOT / "assets" / "demo.png"), help="the picture")
    parser.add_argument("--runs", type=list[str], default=list(RUNS), help="which of them to do, in this order")
    options = parser.parse_args(argv)
    check_known("--runs", options.runs, RUNS)
    if not Path(options.image).is_file():
        raise UserError(f"no such picture: {options.image}")
    folder = Path(options.folder).resolve()
    make_folder(folder)
    paths = prepare(folder)
    results = {}
    for name in options.runs:
        print(
            f"== {name}: {RUNS[name].weights} weights, --mode={RUNS[name].mode} --amp_level={RUNS[name].amp_level}",
            flush=True,
        )
        try:
            results[name] = run(name, paths, Path(options.image).resolve())
        except UserError as error:  # the other runs still tell something
            results[name] = str(error)
    print(table(results))
    return int(any(isinstance(about, str) for about in results.values()))


if __name__ == "__main__":
    run_cli(main)
