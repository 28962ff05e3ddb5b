"""Time of loading every part of a checkpoint against that of reading its file, in turn.

python benchmarks/load.py --config=configs/svd.yaml --checkpoint=svd.safetensors

Loaded is what image_to_video.py needs, in float32: with --narrow as --low_memory does it. Both find the file in the
system's cache, so the figure is the program's own work; a slower disk only brings the two nearer to each other.
"""

from __future__ import annotations

import gc
import time

import numpy as np
from jsonargparse import ArgumentParser

from gm import ops
from gm.errors import run_cli
from gm.model import Weights, load_model_config

PARTS = ("clip", "condition_encoder", "unet", "decoder")
_CHUNK = 2**24


def read(path):
    """Read the whole file into the same few megabytes of memory."""
    buffer = bytearray(_CHUNK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


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
    config = load_model_config(options.config)
    read(options.checkpoint)
    pairs = [
        (seconds(lambda: read(options.checkpoint)), seconds(lambda: load(config, options.checkpoint, options.narrow)))
        for _ in range(options.pairs)
    ]
    reading, loading = np.median(pairs, axis=0)
    ratio = np.median([b / a for a, b in pairs])
    print(f"reading the file {reading:.2f} s, loading it {loading:.2f} s, ratio {ratio:.2f} (medians of {len(pairs)})")


if __name__ == "__main__":
    run_cli(main)
