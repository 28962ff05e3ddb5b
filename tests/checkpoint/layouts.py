"""A small model's weights in the layouts that others use, written by hand from the table of names that benchmarks use.

The table, benchmarks/key_map.json.gz, was checked against the real files; its names are those of SVD itself, so the
small model here has SVD's structure and other widths.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[2]
SUFFIX = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}


@cache
def key_map():
    """{part: {diffusers name: [original name, change]}}."""
    with gzip.open(ROOT / "benchmarks/key_map.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)


@cache
def manifest(name="manifest_sgm"):
    """{name: shape} of the original release."""
    with gzip.open(ROOT / f"tests/reference/{name}.json.gz", "rt", encoding="utf-8") as file:
        return {name: tuple(shape) for name, shape in json.load(file).items()}


def small(shape):
    """A shape with the same ratios, small: what is a third of something else stays so."""
    return tuple(max(1, n // 320) if n >= 320 else min(n, 3) for n in shape)


def original(seed=0, dtype=np.float32):
    """{original name: array} of every key of the release, small."""
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(small(shape)).astype(dtype) for name, shape in manifest().items()}


def to_diffusers(arrays):
    """{part: {diffusers name: array}} of {original name: array}."""
    found = {}
    for part, names in key_map().items():
        tensors = found[part] = {}
        for name, (source, change) in names.items():
            if source not in arrays:
                continue
            value = arrays[source]
            if change and change.startswith("rows["):
                third = len(value) // 3
                value = value[third * int(change[5]) : third * (int(change[5]) + 1)]
            elif change == "transpose":
                value = value.T
            elif change:
                value = value[:, :, 0, 0]
            tensors[name] = np.ascontiguousarray(value)
    return found


def write_folder(folder, arrays, variant=""):
    """A diffusers folder of {original name: array}."""
    for part, tensors in to_diffusers(arrays).items():
        (folder / part).mkdir(parents=True)
        save_file(tensors, folder / part / f"{SUFFIX[part]}{variant}.safetensors")
    return folder


def write_shards(folder, stem, tensors, count=3):
    """Shards with their index; returns the path of the index."""
    folder.mkdir(parents=True, exist_ok=True)
    names, places = list(tensors), {}
    for i in range(count):
        shard = f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors"
        save_file({name: tensors[name] for name in names[i::count]}, folder / shard)
        places.update(dict.fromkeys(names[i::count], shard))
    path = folder / f"{stem}.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return path
