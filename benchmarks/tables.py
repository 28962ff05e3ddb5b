"""The tables of docs/performance.md and benchmarks/results/README.md, from the files in benchmarks/results/.

python benchmarks/tables.py          print them
python benchmarks/tables.py --write  put them into the pages, between their marks <!-- table NAME --> and <!-- end -->
"""

from __future__ import annotations

import argparse
import json
import re
from functools import partial
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
ALL = RESULTS / "README.md"
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
CLIPS = {
    "train": "from a cache",
    "train_recompute": "from a cache, blocks recomputed",
    "train_encode": "frames encoded in the step",
}
LATENTS = {"small": "4 frames of 16x16", "medium": "4 frames of 32x32", "medium_14": "14 frames of 32x32"}
FIRST_CALLS = {
    "tiny": "the default command: svd_tiny, 14 frames of 128x128, 12 steps",
    "medium": "a fifth of SVD's width, 4 frames of 256x256, 2 steps",
    "full": "SVD's size, 4 frames of 256x256, 2 steps",
}
STAGES = ("starting", "conditioning", "sampling", "decoding", "writing")


def load(name):
    """What a benchmark wrote: {"date", "machine", "rows", …}."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def peers(name="peers"):
    """[(row, date)] of a file's comparisons of `CASES`, peer by peer."""
    report = load(name)
    found = {(row["peer"], row["case"]): (row, report["date"]) for row in report["rows"]}
    return [found[peer, case] for peer in PEERS for case in CASES if (peer, case) in found]


def peers_table(name="peers"):
    lines = [
        "| against | | seconds here | there | times as fast | memory here | there | measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, date in peers(name):
        peer = row["peer"]
        seconds = " | ".join(f"{row['median'][side]:.2f}" for side in ("ours", peer))
        memory = " | ".join(f"{row['peak_memory'][side] / 1e9:.1f} GB" for side in ("ours", peer))
        lines.append(
            f"| {PEERS[peer]} | {CASES[row['case']]} | {seconds} | **{row['ratio']:.2f}** | {memory} | {date} |"
        )
    return lines


def training_table():
    rows = {row["case"]: row for row in load("peers")["rows"]}
    lines = [
        "| latents | clips | seconds for a step here | PyTorch | ratio, median of pairs | peak memory here | PyTorch | "
        "largest relative difference of the losses |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, latents in LATENTS.items():
        for kind, clips in CLIPS.items():
            row = rows[f"{kind}_{size}"]
            seconds = " | ".join(f"{row['median'][side]:.2f}" for side in ("ours", "torch"))
            memory = " | ".join(f"{row['peak_memory'][side] / 1e9:.1f} GB" for side in ("ours", "torch"))
            lines.append(
                f"| {latents} | {clips} | {seconds} | **{row['ratio']:.2f}** | {memory} | {row['error']:.0e} |"
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


def threads_table():
    lines = [
        "| bound to | `OMP_NUM_THREADS` | `threads_num` | `dispatch_threads_num` | median, s | minimum | "
        "processor, s | the first row's result |",
        "|---" * 8 + "|",
    ]
    for row in load("threads")["rows"]:
        cores, *numbers = (row["setting"][name] or "" for name in ("cores", "omp", "kernel", "dispatch"))
        settings = " | ".join(map(str, (f"{cores} core" if cores else "", *numbers)))
        seconds = f"{median(row['seconds']):.2f} | {min(row['seconds']):.2f} | {median(row['processor']):.2f}"
        lines.append(f"| {settings} | {seconds} | {'bit for bit' if row['same'] else 'other rounding'} |")
    return lines


TABLES = {
    PAGE: {
        "peers": peers_table,
        "peers avx2": partial(peers_table, "peers_avx2"),
        "first calls": first_calls_table,
        "memory": memory_table,
        "training memory": training_memory_table,
    },
    ALL: {"training": training_table, "threads": threads_table},
}


def filled(path):
    """The text of a page of TABLES with its tables as the files say."""
    page = path.read_text(encoding="utf-8")
    for name, table in TABLES[path].items():
        place = re.compile(rf"(<!-- table {name} -->\n)(?:.*?\n)??(<!-- end -->)", re.DOTALL)
        lines = "".join(f"{line}\n" for line in table())
        page, times = place.subn(rf"\g<1>{lines}\g<2>", page)
        if times != 1:
            raise SystemExit(f"{path.name} has {times} places for the table {name!r}")
    return page


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put them into the pages")
    if parser.parse_args().write:
        for path in TABLES:
            path.write_text(filled(path), encoding="utf-8")
    else:
        print("\n\n".join("\n".join(table()) for tables in TABLES.values() for table in tables.values()))


if __name__ == "__main__":
    main()
