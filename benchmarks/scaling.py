"""Time and memory of the medium UNet against frames, pixels and batch, here and in PyTorch, as compare.py has them.

python benchmarks/scaling.py --torch_python=build/torch/bin/python --output_dir=outputs/scaling
build/torch/bin/python benchmarks/plot_scaling.py outputs/scaling/report.json --output=docs/scaling.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from cases import MEDIUM, Case
from compare import add_compile_cache, agreement, compare
from jsonargparse import ArgumentParser
from report import check_count, write_report
from tqdm import tqdm

from gm.data.outputs import make_folder
from gm.errors import run_cli

FRAMES, SIDE = 4, 32  # of the latents, where they are not what is varied
AXES = {
    "frames": {value: Case("unet", MEDIUM, value, SIDE) for value in (2, 4, 8, 14, 25)},
    "pixels": {side * side: Case("unet", MEDIUM, FRAMES, side) for side in (16, 32, 48, 64)},
    "batch": {value: Case("unet", MEDIUM, FRAMES, SIDE, batch=value) for value in (1, 2, 4)},
}


def table(rows):
    lines = [
        "| varied | value | seconds here | PyTorch | ratio, median of pairs | peak memory here | PyTorch |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds = " | ".join(f"{row['median'][side]:.2f}" for side in ("ours", "torch"))
        memory = " | ".join(f"{row['peak_memory'][side] / 1e9:.2f} GB" for side in ("ours", "torch"))
        lines.append(f"| {row['axis']} | {row['value']} | {seconds} | **{row['ratio']:.2f}** | {memory} |")
    return "\n".join(lines)


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--torch_python", required=True, help="the python of the PyTorch environment")
    parser.add_argument("--pairs", type=int, default=5, help="calls of each side")
    add_compile_cache(parser)
    parser.add_argument("--output_dir", default="outputs/scaling", help="folder for the logs and report.json")
    options = parser.parse_args(argv)
    check_count("--pairs", options.pairs)
    make_folder(options.output_dir)
    rows, measured = [], {}  # the usual size is on every axis and measured once
    points = [(axis, value, case) for axis, cases in AXES.items() for value, case in cases.items()]
    with tempfile.TemporaryDirectory() as folder:
        for axis, value, case in tqdm(points, unit="case", file=sys.stderr):
            if case not in measured:
                measured[case] = next(compare(f"{axis}_{value}", case, options, folder))
            rows.append({**measured[case], "axis": axis, "value": value})
            write_report(rows, Path(options.output_dir) / "report.json")
    print(table(rows))
    return agreement(rows)


if __name__ == "__main__":
    run_cli(main)
