"""Time this project against PyTorch (diffusers, transformers) with the same weights, on the same machine, in one run.

python3 -m venv build/torch && build/torch/bin/pip install -r benchmarks/requirements.txt
python benchmarks/compare.py --torch_python=build/torch/bin/python --cases=[unet_medium,train_medium]

For each case both sides load the same weights and inputs, each in a process of its own; their results must agree to
LIMIT. After a first call, which compiles, they are called in turn, so that all else the machine does meets both.
Reported are the medians, the ratio of the pairs of calls (the other's time over ours, above 1 is faster here), the
share of the machine's measured speed of a matrix product, and each process's peak memory. Exit status 1 if results
differ.

The weights are random, except in tiny_pipeline: there the small trained model makes the demo picture's video with its
config's settings, from the picture to pixels. PyTorch is given what CLIP sees and the noise; this project makes them in
every call. --openvino then compares with OpenVINO too, which is given PyTorch's networks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from cases import CASES, prepare
from jsonargparse import ArgumentParser
from report import check_count, check_known, write_report

from gm.data.outputs import make_folder
from gm.errors import UserError, run_cli

HERE = Path(__file__).resolve().parent
OPENVINO_KINDS = ("unet", "decode", "encode", "clip")
LIMIT = 1e-4  # of max |difference| / max |PyTorch's value|
_REST = 1.0  # seconds before each call


class Side:
    """One process of the comparison. It answers with lines that begin with @@ and hold JSON."""

    def __init__(self, python, script, case, log, env=os.environ):
        self.script = script
        self.process = subprocess.Popen(
            [python, str(HERE / script), json.dumps(case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=env,  # os.environ has not what mindspore, once imported, set beside it: OMP_NUM_THREADS=1
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def answer(self):
        for line in self.process.stdout:
            if line.startswith("@@"):
                return json.loads(line[2:])
        raise UserError(f"{self.script} ended without an answer; its output is in the log")

    def call(self):
        """{"seconds" of one call, "peak_memory" in bytes so far}, and with our side the "processor"'s seconds.

        After a rest: threads that wait for more work by spinning, or work that a call leaves behind, would otherwise
        fall into the other side's time.
        """
        time.sleep(_REST)
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.answer()


def compare(name, case, options, folder):
    """Yield a row, a dict, for each peer of one `Case`: PyTorch, and OpenVINO where options.openvino asks for it.

    One peer at a time, with a process of ours for each, so that no side takes the memory of those that are called.
    options: torch_python, pairs, compile_cache, output_dir as of the command line. folder: for weights, which later
    cases use again.
    """
    case = prepare(case, folder)
    peers = ["torch"]
    if getattr(options, "openvino", None) and case["kind"] in OPENVINO_KINDS:
        peers.append("openvino")
        case["precision"] = options.openvino
    results = {side: str(Path(folder) / f"{side}.npy") for side in ("ours", *peers)}
    with open(Path(options.output_dir) / f"{name}.log", "w", encoding="utf-8") as log:
        for peer in peers:
            row = {"case": name, "peer": peer, **_measure(case, peer, results, options, log)}
            if peer == "torch":
                reference, gflop = np.load(results["torch"]), row["gflop"]
            row["gflop"] = gflop  # PyTorch counts
            row["error"] = _error(np.load(results["ours"]), reference)
            row["peer_error"] = _error(np.load(results[peer]), reference)
            yield row


def _measure(case, peer, results, options, log):
    """What the two sides, each in a process, needed for the calls; the peer begins, as to load it takes more memory."""
    with ExitStack() as stack:
        sides = {}
        for label, python in ((peer, options.torch_python), ("ours", sys.executable)):
            about = {**case, "results": results[label], "compile_cache": options.compile_cache}
            sides[label] = stack.enter_context(Side(python, f"compare_{label}.py", about, log))
            sides[label].first = sides[label].answer()
        calls = [{label: side.call() for label, side in sides.items()} for _ in range(options.pairs)]
    seconds = {label: [call[label]["seconds"] for call in calls] for label in sides}
    medians = {label: float(np.median(values)) for label, values in seconds.items()}
    return {
        "gflop": sides[peer].first.get("gflop"),
        "matmul_gflops": max(side.first["matmul_gflops"] for side in sides.values()),
        "seconds": seconds,
        "median": medians,
        "ratio": float(np.median(np.divide(seconds[peer], seconds["ours"]))),
        "first_call": {label: side.first["seconds"] for label, side in sides.items()},
        "peak_memory": {label: calls[-1][label]["peak_memory"] for label in sides},
    }


def _error(ours, theirs):
    if ours.shape != theirs.shape:
        raise UserError(f"the results have the shapes {ours.shape} here and {theirs.shape} in PyTorch")
    return float(np.abs(ours.astype(np.float64) - theirs).max() / np.abs(theirs).max())


def table(rows):
    lines = [
        "| case | against | GFLOP | seconds here | there | ratio, median of pairs | share of matmul speed, both | "
        "peak memory, both | largest relative difference from PyTorch, both |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sides = ("ours", row["peer"])
        seconds = " | ".join(f"{row['median'][side]:.2f}" for side in sides)
        shares = " ".join(f"{row['gflop'] / row['median'][side] / row['matmul_gflops']:.0%}" for side in sides)
        memory = " ".join(f"{row['peak_memory'][side] / 1e9:.2f} GB" for side in sides)
        lines.append(
            f"| {row['case']} | {row['peer']} | {row['gflop']:.0f} | {seconds} | **{row['ratio']:.2f}** | "
            f"{shares} | {memory} | {row['error']:.0e} {row['peer_error']:.0e} |"
        )
    return "\n".join(lines)


def agreement(rows):
    """Exit status: 1, and a line that names the cases, where results differ by more than LIMIT."""
    bad = [row["case"] for row in rows if not row["error"] <= LIMIT]
    if bad:
        print(f"results differ by more than {LIMIT:g}: {', '.join(bad)}")
    return 1 if bad or not rows else 0


def add_compile_cache(parser):
    parser.add_argument(
        "--compile_cache",
        help="folder where this project's graphs are kept: given a second time, "
        "peak memory is that of a run that compiles nothing",
    )


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--torch_python", required=True, help="the python of the PyTorch environment")
    parser.add_argument("--cases", type=list[str], default=["unet_medium"], help=f"of {', '.join(CASES)}")
    parser.add_argument("--pairs", type=int, default=5, help="calls of each side")
    parser.add_argument(
        "--openvino", choices=("float32", "bfloat16"), help="compare with OpenVINO too, in that precision"
    )
    add_compile_cache(parser)
    parser.add_argument("--output_dir", default="outputs/compare", help="folder for the logs and report.json")
    options = parser.parse_args(argv)
    check_known("--cases", options.cases, CASES)
    check_count("--pairs", options.pairs)
    make_folder(options.output_dir)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in options.cases:
            for row in compare(case, CASES[case], options, folder):
                rows.append(row)
                print(json.dumps(row), file=sys.stderr)
                write_report(rows, Path(options.output_dir) / "report.json")
    print(table(rows))
    return agreement(rows)


if __name__ == "__main__":
    run_cli(main)
