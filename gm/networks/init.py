"""Initial values for a model that starts from nothing: PyTorch's defaults and the original's zeros."""

from __future__ import annotations

import math
import zlib

import numpy as np
from mindspore import Tensor, nn

# Layers that start at zero, so that an untrained block passes on its input (original: zero_module): the UNet's, and the
# last of the VAE decoder's temporal ResBlocks, which are of the UNet's class.
_ZERO_ANYWHERE = "time_stack.out_layers.3"
_UNET = "model.diffusion_model."
_ZERO_LAYERS = ("out_layers.3", "proj_out", f"{_UNET}out.2")
# What the original gives to the weight between the branches; the VAE decoder's starts at 0.
_UNET_MIX_FACTOR = 0.5
_CLIP_EMBEDDINGS = ("class_embedding", "positional_embedding", "proj")


def initialize(cell: nn.Cell, seed: int) -> nn.Cell:
    """Give a component of `gm.model.build_component` its initial values; returns the cell.

    Convolutions and linear layers: uniform, +-1/sqrt(fan_in), PyTorch's kaiming_uniform with a = sqrt(5), weights and
    biases alike. Norms: 1 and 0. In the UNet the last layer of every ResBlock, every proj_out and the last convolution:
    0, and mix factors 0.5; in the VAE decoder the last layer of every temporal ResBlock: 0. CLIP's attention:
    xavier-uniform and zero biases; its embeddings: normal, width**-0.5.

    Every parameter has a generator of its own, from the seed and its full name: order and subset change nothing.
    """
    parameters = list(cell.get_parameters())
    shapes = {p.name: tuple(p.shape) for p in parameters}
    for p in parameters:
        p.set_data(Tensor.from_numpy(initial_values(p.name, shapes, seed).astype(str(p.dtype).lower(), copy=False)))
    return cell


def initial_values(name: str, shapes: dict[str, tuple[int, ...]], seed: int) -> np.ndarray:
    """float32 array of one parameter: its full checkpoint name, {name: shape} of its component, the seed."""
    layer, _, kind = name.rpartition(".")
    shape = shapes[name]
    random = np.random.default_rng((seed, zlib.crc32(name.encode())))
    if kind == "mix_factor":
        return np.full(shape, _UNET_MIX_FACTOR if name.startswith(_UNET) else 0.0, np.float32)
    if kind in _CLIP_EMBEDDINGS:
        width = shape[0] if kind == "proj" else shape[-1]
        return random.standard_normal(shape, np.float32) * np.float32(width**-0.5)
    if kind == "in_proj_weight":
        return _uniform(random, shape, math.sqrt(6 / (shape[0] + shape[1])))
    if kind == "in_proj_bias" or layer.endswith("attn.out_proj") and kind == "bias":
        return np.zeros(shape, np.float32)
    weight_shape = shapes[f"{layer}.weight"]
    if len(weight_shape) == 1:
        return np.full(shape, float(kind == "weight"), np.float32)
    if layer.endswith(_ZERO_ANYWHERE) or layer.startswith(_UNET) and layer.endswith(_ZERO_LAYERS):
        return np.zeros(shape, np.float32)
    return _uniform(random, shape, 1 / math.sqrt(math.prod(weight_shape[1:])))


def _uniform(random: np.random.Generator, shape: tuple[int, ...], bound: float) -> np.ndarray:
    values = random.random(shape, np.float32)
    values *= np.float32(2 * bound)
    values -= np.float32(bound)
    return values
