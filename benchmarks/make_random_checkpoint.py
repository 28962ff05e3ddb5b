"""Write a random checkpoint with exactly the keys and shapes of the original release, for full-size runs.

python benchmarks/make_random_checkpoint.py --variant svd --out /tmp/random.safetensors
"""

from __future__ import annotations

import gzip
import json
import math
import sys
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from tqdm import tqdm

from gm.checkpoint.writer import write_safetensors
from gm.errors import UserError, run_cli

MANIFESTS = Path(__file__).resolve().parent.parent / "tests" / "reference"
# A prime number of normals: no row length of a weight divides it, so the rows of a matrix stay different.
_BLOCK = 4_194_301


def shapes_of(variant):
    """dict from every key of the published checkpoint of `variant` to its shape."""
    shapes = _manifest("manifest_sgm")
    if variant == "svd_image_decoder":
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("first_stage_model.")}
        shapes.update(_manifest("manifest_image_decoder"))
    return shapes


def _manifest(name):
    with gzip.open(MANIFESTS / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        return {key: tuple(shape) for key, shape in json.load(file).items()}


def mean_and_deviation(name, shape):
    """Of the normal distribution of one parameter, so that activations stay finite through the real networks."""
    last = name.rsplit(".", 1)[-1]
    if last == "logit_scale":
        return math.log(100), 0.0  # CLIP's own value
    if last == "mix_factor":
        return 0.0, 1.0
    if last.endswith("bias") or "embedding" in name.split(".model.")[-1]:
        return 0.0, 0.02
    if len(shape) == 1:  # gain of a norm
        return 1.0, 0.1
    fan_in = shape[0] if last in ("proj", "text_projection") else math.prod(shape[1:])  # those two are used as x @ w
    return 0.0, 0.7 / math.sqrt(fan_in)


def normals(block, index, seed, size):
    """`size` numbers from the block of normals, cyclically from an offset that belongs to the tensor."""
    offset = np.random.default_rng([seed, index]).integers(len(block))
    repeats = -(-(offset + size) // len(block))
    return np.tile(block, repeats)[offset : offset + size]


def write(path, variant, dtype, seed):
    """Write the checkpoint; the same seed gives the same file. Holds one tensor in memory at a time.

    Every tensor is a scaled piece of one block of 4 million normals: drawing all 2.4 billion would take minutes and
    tell no more about speed or memory.
    """
    shapes = shapes_of(variant)
    order = {name: index for index, name in enumerate(shapes)}
    block = np.random.default_rng(seed).standard_normal(_BLOCK, dtype=np.float32)

    def read(name):
        shape = shapes[name]
        mean, deviation = mean_and_deviation(name, shape)
        values = normals(block, order[name], seed, math.prod(shape))
        return (values * np.float32(deviation) + np.float32(mean)).astype(dtype).reshape(shape)

    total = sum(math.prod(shape) for shape in shapes.values()) * np.dtype(dtype).itemsize
    with tqdm(total=total, unit="B", unit_scale=True, desc=path.name, file=sys.stderr) as bar:
        entries = [(name, shape, dtype) for name, shape in shapes.items()]
        size = write_safetensors(path, entries, read, {"origin": f"random, seed {seed}"}, bar.update)
    print(f"{path}: {len(shapes)} keys, {size} bytes")


def main(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=("svd", "svd_image_decoder"), default="svd", help="which keys and shapes")
    parser.add_argument("--out", required=True, help="the safetensors file to write")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="type of all tensors")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    options = parser.parse_args(argv)
    path = Path(options.out)
    if path.exists():
        raise UserError(f"{path} is already there: delete it or choose another name")
    if not path.parent.is_dir():
        raise UserError(f"no such folder: {path.parent}")
    write(path, options.variant, options.dtype, options.seed)


if __name__ == "__main__":
    run_cli(main)
