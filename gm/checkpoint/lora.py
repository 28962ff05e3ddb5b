"""Low-rank changes of linear layers (LoRA, Hu et al. 2021) as tensors of a file: W + alpha / rank * up @ down."""

from __future__ import annotations

import numpy as np

DOWN, UP, WEIGHT = ".lora_down.weight", ".lora_up.weight", ".weight"


def low_rank(names):
    """{name of the weight that is changed: (name of its down, name of its up)} of a file's tensor names."""
    layers = [name[: -len(DOWN)] for name in names if name.endswith(DOWN)]
    return {layer + WEIGHT: (layer + DOWN, layer + UP) for layer in layers if layer + UP in set(names)}


def merged(weight, down, up, alpha):
    """The changed weight, float32: weight (out, in), down (rank, in), up (out, rank)."""
    product = np.asarray(up, np.float32) @ np.asarray(down, np.float32)
    return np.asarray(weight, np.float32) + np.float32(alpha / len(down)) * product
