"""Seconds for each video against how many are sampled at once (`--batch`).

python benchmarks/batch.py --batches=[1,2,4] --sampling_steps=4 --side=128

svd_tiny in graph mode, sampling alone. Every size is compiled first; then the batches take turns, so that what else
runs on the machine meets all of them, and the median of the rounds is printed: seconds by the clock, and of the
processors.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from jsonargparse import ArgumentParser
from tqdm import tqdm

from gm import ops
from gm.console import peak_memory
from gm.errors import run_cli
from gm.pipeline import ImageToVideo
from gm.places import ROOT


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=list[int], default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sampling_steps", type=int, default=4)
    parser.add_argument("--side", type=int, default=128, help="pixels of the square frames")
    arguments = parser.parse_args(argv)
    ops.set_device("CPU", ops.GRAPH_MODE)
    pipeline = ImageToVideo(ROOT / "configs/svd_tiny.yaml", ROOT / "assets/svd_tiny.safetensors")
    image = np.random.default_rng(0).integers(0, 256, (arguments.side, arguments.side, 3), np.uint8)
    options = pipeline.options(sampling_steps=arguments.sampling_steps)
    conditioning = pipeline.condition(image, options)

    def sample(batch):
        """(seconds by the clock, of the processors) for each video."""
        clock, processors = time.monotonic(), time.process_time()
        for _ in pipeline.steps_together([image] * batch, [options] * batch, [conditioning] * batch, [None] * batch):
            pass
        return (time.monotonic() - clock) / batch, (time.process_time() - processors) / batch

    found, memory = {batch: [] for batch in arguments.batches}, {}
    for batch in tqdm(sorted(arguments.batches), desc="compiling"):
        sample(batch)
        memory[batch] = peak_memory()
    for _ in tqdm(range(arguments.rounds), desc="measuring"):
        for batch in arguments.batches:
            found[batch].append(sample(batch))
    print("| videos at once | seconds for each | of the processors | of one at a time | peak memory so far |")
    print("|---|---|---|---|---|")
    first = statistics.median(processors for _, processors in found[arguments.batches[0]])
    for batch, rounds in found.items():
        clock, processors = (statistics.median(times) for times in zip(*rounds))
        print(f"| {batch} | {clock:.2f} | {processors:.2f} | {processors / first:.2f} | {memory[batch] / 1e9:.2f} GB |")
    return 0


if __name__ == "__main__":
    run_cli(main)
