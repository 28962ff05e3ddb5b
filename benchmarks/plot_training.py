"""Draw the curves of one or more training runs from their metrics.jsonl: loss, and validation at fixed noise levels.

python benchmarks/plot_training.py RUN_FOLDER... --output=docs/curves.png
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser

from gm.data.statistics import require_matplotlib
from gm.errors import UserError, run_cli


def read(folder):
    """{"train": [(step, loss)], "validation": …} of a run, in order, and its seconds."""
    path = Path(folder) / "metrics.jsonl"
    if not path.exists():
        raise UserError(f"no metrics.jsonl in {folder}: it must be the output folder of a training run")
    curves, seconds, before = {"train": [], "validation": []}, 0.0, 0
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        curves[line["kind"]].append((line["step"], line["loss"]))
        if line["kind"] == "train":
            seconds += line["seconds"] * (line["step"] - before)
            before = line["step"]
    return curves, seconds


def smooth(values, share=0.04):
    """Running mean over that share of the values."""
    width = max(1, int(share * len(values)))
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, "valid")


def draw(axes, name, curves, seconds):
    """One run into its axes, loss on a logarithmic one."""
    lines = {kind: np.array(points, float) for kind, points in curves.items() if points}
    steps, losses = lines["train"].T
    axes.plot(steps, losses, color="lightsteelblue", linewidth=0.8, label="loss")
    axes.plot(steps, smooth(losses), color="royalblue", label="its running mean")
    if "validation" in lines:
        axes.plot(*lines["validation"].T, color="firebrick", label="validation at fixed noise")
    axes.set_yscale("log", base=2)
    axes.set_title(f"{name}: {steps[-1]:.0f} steps, {seconds / 60:.0f} min")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend()


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders with metrics.jsonl")
    parser.add_argument("--output", required=True, help="the PNG file to write")
    options = parser.parse_args(argv)
    require_matplotlib()
    from matplotlib.figure import Figure  # not pyplot: that one looks for a screen

    rows = -(-len(options.runs) // 2)
    figure = Figure(figsize=(12, 4 * rows), layout="constrained")
    for place, run in enumerate(options.runs, 1):
        draw(figure.add_subplot(rows, 2, place), Path(run).name, *read(run))
    figure.savefig(options.output, dpi=80)
    print(options.output)


if __name__ == "__main__":
    run_cli(main)
