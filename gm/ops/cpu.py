"""Faster forms for the CPU, each equal to its namesake in `reference`. Ratios: mindspore 2.8, graph mode, 2 cores."""

import mindspore as ms
from mindspore import ops


def layer_norm(x, weight, bias, eps):
    """`reference.layer_norm` through the LayerNorm primitive (5 times faster in PyNative, 1.5 times in graph mode)."""
    y, _, _ = ops.LayerNorm(-1, -1, eps)(x.astype(ms.float32), weight, bias)
    return y.astype(x.dtype)


def group_norm(x, weight, bias, groups, eps):
    """`reference.group_norm` through the LayerNorm primitive over (group's channels, trailing axes)."""
    y = x.astype(ms.float32).reshape(x.shape[0], groups, -1)
    y, _, _ = ops.LayerNorm(-1, -1, eps)(y, ops.ones((y.shape[2],), ms.float32), ops.zeros((y.shape[2],), ms.float32))
    shape = (1, x.shape[1]) + (1,) * (x.ndim - 2)
    y = y.reshape(x.shape) * weight.reshape(shape) + bias.reshape(shape)
    return y.astype(x.dtype)
