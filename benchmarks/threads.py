"""Time of the medium UNet against cores and thread settings, this project's and MindSpore's, in turn in one run.

python benchmarks/threads.py --output_dir=outputs/threads
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from cases import CASES, prepare
from compare import Side, add_compile_cache
from jsonargparse import ArgumentParser
from report import check_count, write_report
from tqdm import tqdm

from gm.data.outputs import make_folder
from gm.errors import run_cli


class Setting(NamedTuple):
    """None: left alone. cores: that the process is bound to; omp: OMP_NUM_THREADS; kernel, dispatch: mindspore's
    device_context.cpu.op_tuning.threads_num and runtime.dispatch_threads_num."""

    cores: int | None = None
    omp: int | None = None
    kernel: int | None = None
    dispatch: int | None = None


SETTINGS = (
    Setting(),
    Setting(omp=1),
    Setting(kernel=1),
    Setting(kernel=2, dispatch=1),
    Setting(kernel=2, dispatch=2),
    Setting(omp=1, kernel=1, dispatch=1),
    Setting(cores=1),
    Setting(cores=1, omp=1, kernel=1, dispatch=1),
)


def start(setting, case, log):
    """The side of compare.py that is ours, under a setting."""
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if setting.omp:
        env["OMP_NUM_THREADS"] = str(setting.omp)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[: setting.cores])  # what is started inherits it
    try:
        threads = {"kernel": setting.kernel, "dispatch": setting.dispatch}
        return Side(sys.executable, "compare_ours.py", {**case, "threads": threads}, log, env)
    finally:
        os.sched_setaffinity(0, before)


def table(rows):
    lines = [f"| {' | '.join(Setting._fields)} | median, s | minimum | processor, s | same result |", "|---" * 8 + "|"]
    for row in rows:
        setting = " | ".join(str(row["setting"][name] or "") for name in Setting._fields)
        least, median, processor = min(row["seconds"]), np.median(row["seconds"]), np.median(row["processor"])
        lines.append(f"| {setting} | {median:.2f} | {least:.2f} | {processor:.2f} | {row['same']} |")
    return "\n".join(lines)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=15, help="calls under each setting")
    add_compile_cache(parser)
    parser.add_argument("--output_dir", default="outputs/threads", help="folder for the log and report.json")
    options = parser.parse_args(argv)
    check_count("--calls", options.calls)
    make_folder(options.output_dir)
    rows = [{"setting": setting._asdict(), "seconds": [], "processor": []} for setting in SETTINGS]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        case = {**prepare(CASES["unet_medium"], folder), "compile_cache": options.compile_cache}
        log = stack.enter_context(open(Path(options.output_dir) / "threads.log", "w", encoding="utf-8"))
        results = [Path(folder) / f"{number}.npy" for number in range(len(SETTINGS))]
        sides = [
            stack.enter_context(start(setting, {**case, "results": str(path)}, log))
            for setting, path in zip(SETTINGS, results)
        ]
        for side in sides:
            side.answer()
        for _ in tqdm(range(options.calls), unit="call", file=sys.stderr):
            for row, side in zip(rows, sides):
                answer = side.call()
                row["seconds"].append(answer["seconds"])
                row["processor"].append(answer["processor"])
        for row, path in zip(rows, results):
            row["same"] = np.array_equal(np.load(path), np.load(results[0]))
    write_report(rows, Path(options.output_dir) / "report.json")
    print(table(rows))


if __name__ == "__main__":
    run_cli(main)
