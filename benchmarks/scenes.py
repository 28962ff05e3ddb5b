"""How many gradual transitions of drawn videos `label_videos.py --split_scenes` finds, and how well: the table of
docs/datasets.md. From the project's folder: python -m benchmarks.scenes"""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from gm.data.transitions import find_transitions, reduced
from tests.data.drawn_scenes import dissolved, faded

KINDS = {
    "dissolve": dissolved,
    "fade to black": lambda *how: faded(*how, 0),
    "fade to white": lambda *how: faded(*how, 255),
}
SEEDS = range(200, 204)  # others than those that the limits were chosen with


def main():
    lines = ["| kind | frames long | found | false | ends within 2 frames | worst |", "|---|---|---|---|---|---|"]
    for kind, draw in KINDS.items():
        for length in tqdm((8, 15, 30, 60), desc=kind):
            found = total = false = 0
            errors = []
            for seed in SEEDS:
                frames, spans = draw(seed, length)
                shown = find_transitions([reduced(frame) for frame in frames])
                total += len(spans)
                false += sum(not any(start < e and end > s for s, e in spans) for start, end in shown)
                for s, e in spans:
                    hits = [(start, end) for start, end in shown if start < e and end > s]
                    if hits:
                        found += 1
                        errors += [abs(hits[0][0] - s), abs(hits[-1][1] - e)]
            near = f"{np.mean(np.array(errors) <= 2):.0%} | {max(errors)}" if errors else "- | -"
            lines.append(f"| {kind} | {length} | {found} of {total} | {false} | {near} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
