"""Forms for the CPU that call the C++ kernels of `gm.ops.native`, with their gradients; float32, else `gm.ops.cpu`.

`use` opens the library and must come first. A kernel reads its input once or twice where plain operators read and write
it five to ten times.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

import mindspore as ms
from mindspore import Parameter, Tensor

from gm.ops import cpu, reference
from gm.ops.arguments import complement, constant, of_length
from gm.ops.primitives import Primitives

_FLOAT = ms.float32
_NARROW = 512  # channels up to which weights may be read anew for every 64 tokens
_SHORT = 28  # tokens up to which attention by loops beats matrix products and transpositions; SVD-XT has 25 frames

_made = functools.cache(Primitives)
_kernels: Any = None  # those of `use`


def use(library: str) -> None:
    """Make the shared library at this path the one that the forms below call."""
    global _kernels
    _kernels = _made(library)


def transpose(x: Tensor, *axes: int) -> Tensor:
    """`reference.transpose`; of the two axes in the middle of four on all cores, and so is its gradient."""
    if x.dtype != _FLOAT or axes != (0, 2, 1, 3):
        return cpu.transpose(x, *axes)
    return _kernels.swap_middle_axes(x)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: tuple[int, int, int, int] = (1, 1, 1, 1),
) -> Tensor:
    """`reference.conv2d`: kernels of three by three that keep the size without the matrix that im2col makes of x."""
    keeps_size = weight.shape[2:] == (3, 3) and stride == 1 and padding == (1, 1, 1, 1)
    if x.dtype != _FLOAT or not keeps_size:
        return reference.conv2d(x, weight, bias, stride, padding)
    return _kernels.convolution(x, weight, of_length(weight.shape[0]) if bias is None else bias)


def temporal_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`reference.temporal_conv` in the same way."""
    return _kernels.convolution(x, weight, bias) if x.dtype == _FLOAT else reference.temporal_conv(x, weight, bias)


def geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`reference.geglu`: both halves in one product, then one pass."""
    if x.dtype != _FLOAT:
        return reference.geglu(x, weight, bias)
    return _kernels.geglu(reference.linear(x, weight), bias)


def gelu(x: Tensor) -> Tensor:
    """`reference.gelu` in one pass."""
    return _kernels.gelu(x) if x.dtype == _FLOAT else reference.gelu(x)


def silu(x: Tensor) -> Tensor:
    """`reference.silu` in one pass."""
    return _kernels.silu(x) if x.dtype == _FLOAT else reference.silu(x)


def add_to_tokens(x: Tensor, values: Tensor) -> Tensor:
    """`reference.add_to_tokens` in one pass, where the values are the same for all tokens of a frame."""
    if x.dtype != _FLOAT or values.shape[1] != 1:
        return cpu.add_to_tokens(x, values)
    return _kernels.add_to_tokens(x, values)


def add_linear(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`reference.add_linear`: the product, then one pass for both sums."""
    if x.dtype != _FLOAT:
        return reference.add_linear(residual, x, weight, bias)
    product = reference.linear(x.reshape(-1, x.shape[-1]), weight)
    return _kernels.add_biased(product, bias, residual.reshape(product.shape)).reshape(residual.shape)


def linear_to_tokens(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`reference.linear_to_tokens`: where a frame is smaller than the weights, one product for all frames."""
    if x.dtype != _FLOAT or x.shape[2] > weight.shape[0]:
        return cpu.linear_to_tokens(x, weight, bias)
    return reference.linear(_kernels.turn(x), weight, bias)


def add_linear_to_channels(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`reference.add_linear_to_channels` in the same way, then one pass for the rest."""
    if x.dtype != _FLOAT or x.shape[1] > weight.shape[0]:
        return cpu.add_linear_to_channels(residual, x, weight, bias)
    return _kernels.add_to_channels(reference.linear(x, weight), bias, residual)


def feed_forward(
    residual: Tensor, x: Tensor, wide: Tensor, wide_bias: Tensor, narrow: Tensor, bias: Tensor, training: bool = False
) -> Tensor:
    """`reference.feed_forward`: where it is narrow, some tokens at a time; nothing wide is kept but in training."""
    if x.dtype != _FLOAT:
        return reference.feed_forward(residual, x, wide, wide_bias, narrow, bias)
    if x.shape[-1] > _NARROW:
        return add_linear(residual, geglu(x, wide, wide_bias), narrow, bias)
    if training:
        return _kernels.feed_forward_kept(residual, x, wide, wide_bias, narrow, bias)[0]
    return _kernels.feed_forward(residual, x, wide, wide_bias, narrow, bias)


def mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """`reference.mix` in one pass instead of three."""
    return _kernels.mix(first, second, share) if first.dtype == _FLOAT else reference.mix(first, second, share)


def upsample_nearest(x: Tensor) -> Tensor:
    """`reference.upsample_nearest` without the broadcast's own arithmetic of places."""
    return _kernels.upsample(x) if x.dtype == _FLOAT else reference.upsample_nearest(x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`reference.layer_norm` in one pass over memory, its gradient too, on all cores."""
    if x.dtype != _FLOAT:
        return cpu.layer_norm(x, weight, bias, eps)
    return _kernels.layer_norm(x, weight, bias, constant(eps))


def _by_group(kernel: Callable, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """The kernel takes the number of groups from the shape."""
    b, c = x.shape[:2]
    return kernel(x.reshape(b, groups, c // groups, -1), weight, bias, constant(eps)).reshape(x.shape)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """`reference.group_norm`; each group is read from memory once if it fits the cache."""
    if x.dtype != _FLOAT:
        return cpu.group_norm(x, weight, bias, groups, eps)
    return _by_group(_kernels.group_norm, x, weight, bias, groups, eps)


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, added: Tensor | None = None
) -> Tensor:
    """`group_norm` and `silu` in the same pass, and what is added to x too."""
    if x.dtype != _FLOAT:
        return cpu.group_norm_silu(x, weight, bias, groups, eps, added)
    if added is None:
        return _by_group(_kernels.group_norm_silu, x, weight, bias, groups, eps)
    shape = (x.shape[0], groups, x.shape[1] // groups, -1)
    y = _kernels.add_group_norm_silu(x.reshape(shape), weight, bias, constant(eps), added.reshape(shape))
    return y.reshape(x.shape)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """`reference.attention` without scores in memory and without transpositions, its gradient too.

    For short sequences, such as the frames of a pixel, by loops over single tokens, else in blocks.
    """
    if q.dtype != _FLOAT:
        return cpu.attention(q, k, v, heads)
    short = q.shape[1] <= _SHORT and k.shape[1] <= _SHORT
    return (_kernels.short_attention if short else _kernels.long_attention)(q, k, v, of_length(heads))


def attention_over_pixels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`reference.attention_over_pixels` without scores in memory and without transpositions."""
    return _kernels.pixel_attention(q, k, v) if q.dtype == _FLOAT else cpu.attention_over_pixels(q, k, v)


def square_sum(tensors: tuple[Tensor, ...]) -> Tensor:
    """`reference.square_sum` in one pass, in float64 from 2048 numbers on."""
    return _kernels.square_sum(*tensors).reshape(())


def adamw(
    weights: tuple[Parameter, ...],
    first: tuple[Parameter, ...],
    second: tuple[Parameter, ...],
    sums: tuple[Parameter, ...],
    rate: Tensor,
    beta1: float,
    beta2: float,
    eps: Tensor,
    decay: Tensor,
    factor: Tensor,
) -> Tensor:
    """`reference.adamw` in one pass over all of them."""
    return _kernels.adamw(
        *weights, *first, *second, *sums, rate, complement(beta1), complement(beta2), eps, decay, factor
    )
