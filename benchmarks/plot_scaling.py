"""Draw what scaling.py measured; in the environment of benchmarks/requirements.txt, which has matplotlib.

build/torch/bin/python benchmarks/plot_scaling.py outputs/scaling/report.json --output=docs/scaling.png
"""

import argparse
import json

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

AXES = {"frames": "frames of 32x32 latents", "pixels": "pixels of a latent, 4 frames", "batch": "videos at once"}
ROWS = {
    "seconds": lambda row, side: row["median"][side],
    "peak memory, GB": lambda row, side: row["peak_memory"][side] / 1e9,
}
SIDES = {"ours": "this project", "torch": "PyTorch"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", help="report.json of scaling.py")
    parser.add_argument("--output", required=True, help="the picture to write")
    options = parser.parse_args()
    with open(options.report, encoding="utf-8") as file:
        rows = json.load(file)["rows"]
    figure, panels = pyplot.subplots(len(ROWS), len(AXES), figsize=(10, 5.5), layout="constrained")
    for line, (label, value) in zip(panels, ROWS.items()):
        for panel, (axis, title) in zip(line, AXES.items()):
            points = [row for row in rows if row["axis"] == axis]
            for side, name in SIDES.items():
                panel.plot([p["value"] for p in points], [value(p, side) for p in points], "o-", label=name)
            panel.set(xlabel=title, ylabel=label, ylim=(0, None), xlim=(0, None))
            panel.grid(alpha=0.3)
    panels[0][0].legend()
    figure.savefig(options.output, dpi=80)


if __name__ == "__main__":
    main()
