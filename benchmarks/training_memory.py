"""What the memory of a training step is taken by, from the kernel's account of the process (/proc/self/smaps).

python benchmarks/training_memory.py --case=train_medium --compile_cache=build/kept

The case is one of compare.py's, computed as there. With --compile_cache given a second time, it is a step whose graphs
were found, which no compiling has left anything of. Linux only.
"""

from __future__ import annotations

import math
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import compare_ours
import numpy as np
from compare import CASES, add_compile_cache, prepare
from jsonargparse import ArgumentParser
from report import check_known, write_report

from gm import ops
from gm.compile_cache import compile_cache
from gm.console import peak_memory
from gm.data.outputs import make_folder
from gm.errors import run_cli
from gm.model import load_model_config
from gm.training.step import is_temporal
from gm.weights import Weights

STEPS = 3


def resident():
    """{kind: bytes} of the process's resident pages: "mapped weights", "heap", "large pieces", "libraries"."""
    found, kind = Counter(), ""
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        mapping = re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)", line)
        if mapping:
            name = mapping[1]
            known = {"[heap]": "heap", "": "large pieces"}  # what malloc asks the system for one by one
            kind = "mapped weights" if name.endswith(".safetensors") else known.get(name, "libraries")
        elif line.startswith("Rss:"):
            found[kind] += 1024 * int(line.split()[1])
    return found


def measure(case, cache):
    """{what: bytes}, whether the graphs were found, and the largest resident memory."""
    ops.set_device("CPU", ops.GRAPH_MODE)
    program = sum(resident().values())
    weights = Weights(load_model_config(case["config"], case["changes"]), case["weights"])
    inputs = dict(np.load(case["inputs"]))
    with compile_cache(cache, lambda: {"case": case["kind"], "model": case["model"], "frames": case["frames"]}) as kept:
        step = compare_ours.train(weights, inputs, case["frames"], case["kind"])
        before = resident()
        for _ in range(STEPS):
            step()
    after = resident()
    shapes = [shape for name, shape in weights.parameters["unet"].items() if is_temporal(name)]
    trained = 4 * sum(map(math.prod, shapes))
    parts = {
        "program and libraries, before there is a network": program,
        "pages of the mapped weights": after["mapped weights"],
        "trained weights, of their own": trained,
        "sums of gradients": trained,
        "two moments": 2 * trained,
        "graphs, and what compiling them leaves": after["heap"] - before["heap"],
        "activations, gradients of the step, work space": after["large pieces"] - before["large pieces"],
    }
    parts["not told apart"] = sum(after.values()) - sum(parts.values())
    return parts, kept, peak_memory()


def table(parts):
    return "\n".join(["| | GB |", "|---|---|", *(f"| {what} | {size / 1e9:.2f} |" for what, size in parts.items())])


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="train_medium", help="train_… of compare.py")
    add_compile_cache(parser)
    parser.add_argument("--output_dir", default="outputs/training_memory", help="folder for report.json")
    options = parser.parse_args(argv)
    check_known("--case", [options.case], [name for name in CASES if name.startswith("train_")])
    make_folder(options.output_dir)
    with tempfile.TemporaryDirectory() as folder:
        case = prepare(CASES[options.case], folder)
        parts, kept, peak = measure(case, options.compile_cache)
    rows = [{"case": options.case, "kept": kept, "parts": parts, "peak_memory": peak}]
    write_report(rows, Path(options.output_dir) / "report.json")
    print(table(parts))
    print(f"peak memory {peak / 1e9:.2f} GB, graphs {'found' if kept else 'compiled'}", file=sys.stderr)


if __name__ == "__main__":
    run_cli(main)
