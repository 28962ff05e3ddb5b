"""The tables of docs/performance.md, from the files in benchmarks/results/.

python benchmarks/tables.py          print them
python benchmarks/tables.py --write  put them into the page, between its marks <!-- table NAME --> and <!-- end -->
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
PEERS = {"torch": "PyTorch", "openvino": "OpenVINO"}
CASES = {
    "unet_medium": "UNet of a fifth of the width, 4 frames of 256x256 pixels",
    "unet_medium_14": "the same, 14 frames",
    "unet_full": "UNet of SVD, 4 frames of 256x256",
    "unet_full_14": "the same, 14 frames",
    "decode": "temporal VAE decoder, 4 frames of 256x256",
    "encode": "VAE encoder, 1 frame of 256x256",
    "clip": "CLIP",
    "tiny_pipeline": "svd_tiny, picture to video",
    "train_small": "training step, temporal layers, a fifth of the width, 4 frames of 128x128",
    "train_medium": "the same, 4 frames of 256x256",
    "train_medium_14": "the same, 14 frames of 256x256",
}
FIRST_CALLS = {
    "tiny": "the default command: svd_tiny, 14 frames of 128x128, 12 steps",
    "medium": "a fifth of SVD's width, 4 frames of 256x256, 2 steps",
    "full": "SVD's size, 4 frames of 256x256, 2 steps",
}
STAGES = ("starting", "conditioning", "sampling", "decoding", "writing")


def load(name):
    """What a benchmark wrote: {"date", "machine", "rows", …}."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def ratio(row, peer):
    """The median of the pairs' ratios, above 1 where this project is faster."""
    return row.get("ratios", {}).get(peer, row["ratio"])


def peers():
    """[(peer, row, date)] of all comparisons, in the order of `CASES`."""
    found = {}
    report = load("peers")
    for row in report["rows"]:
        found.update({(peer, row["case"]): (row, report["date"]) for peer in PEERS if peer in row["median"]})
    return [(peer, *found[peer, case]) for peer in PEERS for case in CASES if (peer, case) in found]


def peers_table():
    lines = [
        "| against | | seconds here | there | times as fast | memory here | there | measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for peer, row, date in peers():
        seconds = " | ".join(f"{row['median'][side]:.2f}" for side in ("ours", peer))
        memory = " | ".join(f"{row['peak_memory'][side] / 1e9:.1f} GB" for side in ("ours", peer))
        lines.append(
            f"| {PEERS[peer]} | {CASES[row['case']]} | {seconds} | **{ratio(row, peer):.2f}** | {memory} | {date} |"
        )
    return lines


def first_calls_table():
    head = [f"{stage}, s" for stage in STAGES]
    lines = [
        f"| | run | {' | '.join(head)} | on the clock, s | processor, s | peak memory |",
        "|---" * (len(STAGES) + 5) + "|",
    ]
    for row in load("first_call")["rows"]:
        stages = " | ".join(f"{row['seconds'].get(stage, 0):.1f}" for stage in STAGES)
        lines.append(
            f"| {FIRST_CALLS[row['case']]} | {row['run']} | {stages} | {row['wall']:.1f} | "
            f"**{row['processor']:.1f}** | {row['peak_memory'] / 1e9:.1f} GB |"
        )
    return lines


def memory_table():
    rows = load("memory")["rows"]
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    lines = [
        f"| SVD's size, 4 frames of 256x256, measured (estimated) | {' | '.join(stages)} |",
        "|---" * (len(stages) + 1) + "|",
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        found = {
            row["stage"]: f"{row['measured'] / 1e9:.1f} ({row['predicted'] / 1e9:.1f}) GB"
            for row in rows
            if row["case"] == case
        }
        mode = "PyNative" if "pynative" in case else "graph mode"
        lines.append(f"| {mode} | {' | '.join(found[stage] for stage in stages)} |")
    return lines


def training_memory_table():
    rows = load("training_memory")["rows"]
    kinds = ["its graphs found" if row["kept"] else "compiling its graphs" for row in rows]
    lines = [f"| GB resident | {' | '.join(kinds)} |", "|---" * (len(rows) + 1) + "|"]
    for what in rows[0]["parts"]:
        sizes = " | ".join(f"{row['parts'][what] / 1e9:.2f}" for row in rows)
        lines.append(f"| {what} | {sizes} |")
    most = " | ".join(f"**{row['peak_memory'] / 1e9:.2f}**" for row in rows)
    lines.append(f"| **at most** | {most} |")
    return lines


TABLES = {
    "peers": peers_table,
    "first calls": first_calls_table,
    "memory": memory_table,
    "training memory": training_memory_table,
}


def filled(page):
    """The page's text with its tables as the files say."""
    for name, table in TABLES.items():
        place = re.compile(rf"(<!-- table {name} -->\n)(?:.*?\n)??(<!-- end -->)", re.DOTALL)
        lines = "".join(f"{line}\n" for line in table())
        page, times = place.subn(rf"\g<1>{lines}\g<2>", page)
        if times != 1:
            raise SystemExit(f"the page has {times} places for the table {name!r}")
    return page


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put them into the page")
    if parser.parse_args().write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join("\n".join(table()) for table in TABLES.values()))


if __name__ == "__main__":
    main()
