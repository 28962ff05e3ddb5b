"""LoRA: instead of an attention layer's weight W, train a product of two thin matrices that is added to it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn

from gm import ops
from gm.checkpoint.lora import DOWN, UP, WEIGHT
from gm.diffusion.denoiser import Denoiser
from gm.errors import UserError
from gm.model import COMPONENTS
from gm.networks.attention import Attention
from gm.training.settings import LORA_TARGETS, Lora
from gm.training.step import is_temporal


class LoraLinear(nn.Cell):
    """x -> x W^T + bias + alpha / rank * (x down^T) up^T. The weight and bias of `linear` are its own and stay."""

    def __init__(self, linear: nn.Cell, name: str, rank: int, alpha: float, seed: int) -> None:
        super().__init__(auto_prefix=False)
        self.weight, self.bias = linear.weight, linear.bias
        out_channels, in_channels = linear.weight.shape
        self.scale = alpha / rank
        dtype = linear.weight.dtype
        self.lora_down = _parameter(name + DOWN, _initial(name + DOWN, (rank, in_channels), seed), dtype)
        self.lora_up = _parameter(name + UP, _initial(name + UP, (out_channels, rank), seed), dtype)

    def construct(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """residual (..., out_channels): what the result is added to, of a layer with a bias."""
        change = ops.linear(ops.linear(x, self.lora_down), self.lora_up)
        if residual is None:
            return ops.linear(x, self.weight, self.bias) + self.scale * change
        return ops.add_linear(residual, x, self.weight, self.bias) + self.scale * change


def initial_lora(name: str, rank: int, shapes: dict[str, tuple[int, ...]], seed: int) -> np.ndarray:
    """Initial values by a parameter's full name; shapes: {full name: shape} of the model."""
    layer = name[: -len(DOWN)] if name.endswith(DOWN) else name[: -len(UP)]
    out_channels, in_channels = shapes[layer + WEIGHT]
    return _initial(name, (rank, in_channels) if name.endswith(DOWN) else (out_channels, rank), seed)


def lora_alpha(settings: Lora) -> float | None:
    """alpha of the section train.lora; None without LoRA."""
    return float(settings.rank if settings.alpha is None else settings.alpha) if settings.rank else None


def _initial(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float32 initial values by the parameter's full name: down uniform, +-1/sqrt(fan_in) (PyTorch's for a linear
    layer), up zero, so that training starts from the unchanged model."""
    if name.endswith(UP):
        return np.zeros(shape, np.float32)
    bound = 1 / math.sqrt(shape[1])
    return np.random.default_rng((seed, zlib.crc32(name.encode()))).uniform(-bound, bound, shape).astype(np.float32)


def _parameter(name: str, values: np.ndarray, dtype: Any) -> Parameter:
    return Parameter(Tensor(values, dtype), name=name)


def lora_layers(shapes: Mapping[str, tuple[int, ...]], temporal_only: bool, targets: Sequence[str]) -> list[str]:
    """Full names, without ".weight", of the layers that LoRA changes, from {full name: shape} of a model."""
    prefix = COMPONENTS["unet"].prefix
    found = []
    for name in shapes:
        layer = name[: -len(WEIGHT)]
        kind = layer[: -len(".0")] if layer.endswith("to_out.0") else layer
        wanted = name.startswith(prefix) and name.endswith(WEIGHT) and (is_temporal(name) or not temporal_only)
        if wanted and kind.rpartition(".")[2] in targets and ".attn" in layer:
            found.append(layer)
    return found


def add_lora(denoiser: Denoiser, settings: Lora, temporal_only: bool, seed: int) -> dict[str, Parameter]:
    """Put LoRA into the attention of a denoiser; returns {full name: parameter} of what is trained, nothing else is.

    settings: the section train.lora. UserError for a model without such layers.
    """
    shapes = {p.name: p.shape for p in denoiser.get_parameters()}
    layers = set(lora_layers(shapes, temporal_only, settings.targets))
    if not layers:
        raise UserError("this model has no attention layers that train.lora could change")
    for p in denoiser.get_parameters():
        p.requires_grad = False
    chosen = {}
    for _, cell in denoiser.cells_and_names():
        if not isinstance(cell, Attention):
            continue
        for target in LORA_TARGETS:
            linear = cell.to_out[0] if target == "to_out" else getattr(cell, target)
            name = linear.weight.name[: -len(WEIGHT)]
            if name in layers:
                layer = LoraLinear(linear, name, settings.rank, lora_alpha(settings) or 0.0, seed)
                _put(cell, target, layer)
                chosen.update({name + DOWN: layer.lora_down, name + UP: layer.lora_up})
    return chosen


def _put(attention: Attention, target: str, layer: LoraLinear) -> None:
    """A layer in the place of another, without what MindSpore then puts before its parameters' names."""
    names = [(p, p.name) for p in layer.get_parameters()]
    if target == "to_out":
        attention.to_out[0] = layer
    else:
        setattr(attention, target, layer)
    for p, name in names:
        p.name = name
