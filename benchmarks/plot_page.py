"""Draw docs/performance.png from the files in benchmarks/results/; in the environment of benchmarks/requirements.txt.

build/torch/bin/python benchmarks/plot_page.py
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import tables  # noqa: E402
from matplotlib import pyplot  # noqa: E402

COLOURS = {"torch": "tab:orange", "openvino": "tab:green"}
SHORT = {
    "unet_medium": "UNet, fifth of the width, 4 frames",
    "unet_medium_14": "the same, 14 frames",
    "unet_full": "UNet of SVD, 4 frames",
    "unet_full_14": "the same, 14 frames",
    "decode": "VAE decoder, 4 frames",
    "encode": "VAE encoder",
    "clip": "CLIP",
    "tiny_pipeline": "svd_tiny, picture to video",
    "train_small": "training step, 4 frames of 128x128",
    "train_medium": "the same, 256x256",
    "train_medium_14": "the same, 14 frames",
}


def draw_peers(panel):
    """A bar for each comparison: how many times as fast as the peer."""
    found = tables.peers()
    labels = [SHORT[row["case"]] for row, _ in found]
    bars = panel.barh(
        range(len(found)),
        [row["ratio"] for row, _ in found],
        color=[COLOURS[row["peer"]] for row, _ in found],
    )
    panel.bar_label(bars, fmt="%.2f", padding=3)
    panel.axvline(1, color="black", linewidth=1)
    panel.set(yticks=range(len(found)), yticklabels=labels, xlabel="times as fast as the peer", xlim=(0, 2.8))
    panel.invert_yaxis()
    panel.legend(
        [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()],
        [tables.PEERS[peer] for peer in COLOURS],
        loc="lower right",
    )


def draw_first_calls(panel):
    """Processor seconds from the command to the video, the first and the second time."""
    rows = tables.load("first_call")["rows"]
    bars = panel.barh(
        range(len(rows)),
        [row["processor"] for row in rows],
        color=["tab:gray" if row["run"] == "first" else "tab:blue" for row in rows],
    )
    panel.bar_label(bars, fmt="%.0f", padding=3)
    panel.set(
        yticks=range(len(rows)),
        yticklabels=[f"{row['case']}, {row['run']} run" for row in rows],
        xlabel="command to video, processor seconds",
    )
    panel.margins(x=0.15)
    panel.invert_yaxis()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=str(tables.PAGE.with_suffix(".png")), help="the picture to write")
    options = parser.parse_args()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    draw_peers(left)
    draw_first_calls(right)
    figure.savefig(options.output, dpi=80)


if __name__ == "__main__":
    main()
