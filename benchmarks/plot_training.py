"""Draw the curves of one or more training runs from their metrics.jsonl: loss, and validation at fixed noise levels.

python benchmarks/plot_training.py RUN_FOLDER... --output=docs/curves.png
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from jsonargparse import ArgumentParser

from gm.data.outputs import write_png
from gm.errors import UserError, run_cli

WIDTH, HEIGHT, MARGIN = 480, 260, 48
INK, GRID = (60, 60, 60), (225, 225, 225)
LOSS, MEAN, VALIDATION = (190, 205, 235), (30, 80, 170), (200, 60, 40)


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


def panel(name, curves, seconds):
    """uint8 (HEIGHT, WIDTH, 3): one run, loss on a logarithmic axis."""
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    lines = {kind: np.array(points, float) for kind, points in curves.items() if points}
    every = np.concatenate([points[:, 1] for points in lines.values()])
    low, high = np.floor(np.log2(every.min())), np.ceil(np.log2(np.percentile(every, 99.5)))
    last = max(points[-1, 0] for points in lines.values())

    def place(points):
        x = MARGIN + (WIDTH - MARGIN - 12) * points[:, 0] / last
        height = HEIGHT - MARGIN - 30
        y = HEIGHT - MARGIN - height * (np.clip(np.log2(points[:, 1]), low, high) - low) / max(high - low, 1)
        return np.round(np.stack([x, y], 1)).astype(np.int32)

    def write(text, x, y, scale=0.38):
        cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, INK, 1, cv2.LINE_AA)

    for power in np.arange(low, high + 1):
        y = int(place(np.array([[0, 2.0**power]]))[0, 1])
        cv2.line(image, (MARGIN, y), (WIDTH - 12, y), GRID)
        write(f"{2.0**power:g}", 4, y + 4, 0.33)
    cv2.polylines(image, [place(lines["train"])], False, LOSS, 1, cv2.LINE_AA)
    averaged = np.stack([lines["train"][:, 0], smooth(lines["train"][:, 1])], 1)
    cv2.polylines(image, [place(averaged)], False, MEAN, 2, cv2.LINE_AA)
    if "validation" in lines:
        cv2.polylines(image, [place(lines["validation"])], False, VALIDATION, 2, cv2.LINE_AA)
    write(f"{name}: {last:.0f} steps, {seconds / 60:.0f} min", MARGIN, 18, 0.45)
    write("loss (blue: running mean), validation at fixed noise (red); steps below", MARGIN, HEIGHT - 10, 0.33)
    write("0", MARGIN, HEIGHT - MARGIN + 16, 0.33)
    write(f"{last:.0f}", WIDTH - 44, HEIGHT - MARGIN + 16, 0.33)
    return image


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders with metrics.jsonl")
    parser.add_argument("--output", required=True, help="the PNG file to write")
    options = parser.parse_args(argv)
    panels = [panel(Path(run).name, *read(run)) for run in options.runs]
    if len(panels) % 2:
        panels.append(np.full_like(panels[0], 255))
    rows = [np.concatenate(panels[i:i + 2], 1) for i in range(0, len(panels), 2)]
    write_png(np.concatenate(rows), options.output)
    print(options.output)


if __name__ == "__main__":
    run_cli(main)
