"""Time of loading every part of a checkpoint against that of reading its file, in turn.

python benchmarks/load.py --config=configs/svd.yaml --checkpoint=svd.safetensors

Loaded is what image_to_video.py needs, in float32: with --narrow as --low_memory does it. The file is in the system's
cache, so the figure is the program's own work; a slower disk only brings the two nearer to each other.

Two more figures tell what the machine itself takes: the file read into memory and held there, and memory as large as
the weights in float32, with huge pages and from as many threads, only asked for and touched. Loading float16
into float32 can't be faster.
"""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jsonargparse import ArgumentParser

from gm import ops
from gm.errors import run_cli
from gm.model import load_model_config
from gm.weights import Weights

PARTS = ("clip", "condition_encoder", "unet", "decoder")
_CHUNK = 2**24


def read(path):
    """Read the whole file into the same few megabytes of memory."""
    buffer = bytearray(_CHUNK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def hold(path):
    """Read the whole file into memory of its own size."""
    return np.fromfile(path, np.uint8)


def ask(count):
    """Get memory for that many float32 numbers from the system, page by page."""
    memory = np.empty(count, np.float32)

    def touch(first):
        memory[first : first + _CHUNK : 1024] = 0

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(touch, range(0, count, _CHUNK)))


def load(config, path, narrow):
    """Load every part, and touch the pages of those that are only mapped."""
    weights = Weights(config, path)
    cells = [weights.load(part, narrow=narrow) for part in PARTS]
    for cell in cells:
        for p in cell.get_parameters():
            p.asnumpy().reshape(-1)[::1024].sum()


def seconds(run):
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="of the model")
    parser.add_argument("--checkpoint", required=True, help="its weights")
    parser.add_argument("--narrow", type=bool, default=False, help="leave float16 weights so")
    parser.add_argument("--pairs", type=int, default=3, help="how often each is done")
    options = parser.parse_args(argv)
    ops.set_device("CPU")
    config, path = load_model_config(options.config), options.checkpoint
    weights = Weights(config, path)
    count = sum(weights.size(part) for part in PARTS)
    read(path)
    tasks = {
        "reading the file": lambda: read(path),
        "reading and holding it": lambda: hold(path),
        f"asking for {4 * count / 1e9:.1f} GB": lambda: ask(count),
        "loading": lambda: load(config, path, options.narrow),
    }
    times = np.array([[seconds(task) for task in tasks.values()] for _ in range(options.pairs)])
    print(f"medians of {options.pairs}, each in turn; ratio: of loading to it, by turns")
    for label, column in zip(tasks, times.T):
        print(f"{label:24s}{np.median(column):6.2f} s  ratio {np.median(times[:, -1] / column):.2f}")


if __name__ == "__main__":
    run_cli(main)
