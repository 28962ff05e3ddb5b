"""Every operation of the networks in plain operators that run on all devices: the definition of right.

Letters of the shapes: n = b*t frames (video-major), c channels, h w pixels, s = h*w, t frames of one video.
Statistics of norms and the softmax are computed in float32 whatever the inputs are; results have the inputs' dtype.
"""

from __future__ import annotations

import math
from typing import Callable

import mindspore as ms
from mindspore import Parameter, Tensor, ops

# Scores held at once by `attention`: 2**26 float32 values are 256 MiB. One frame and head of SVD at 576x1024 has
# 9216**2 = 85M of them and the whole first level 24 GB in float16, so they are never all held. More are not faster.
# `gm.ops.set_memory_budget` changes it.
MAX_SCORES = 2**26

_matmul_transposed = ops.MatMul(transpose_b=True)
_bmm_transposed = ops.BatchMatMul(transpose_b=True)
_bias_add = ops.BiasAdd()
_adam = ops.AdamWeightDecay()
_map = ops.HyperMap()


def transpose(x: Tensor, *axes: int) -> Tensor:
    """x with its axes reordered, as a dense copy.

    Dense because a reshape of a transposed view corrupts the heap in PyNative on CPU with blocking launches (mindspore
    2.8.0: `malloc_consolidate(): unaligned fastbin chunk detected` when the process ends).
    """
    return x.transpose(axes).contiguous()


def when_needed(weight: Tensor, x: Tensor) -> Tensor:
    """The weight, for something that is computed from it alone, but not before `x` is there.

    Without that, graph mode computes such values (a slice, a copy for each frame) for all layers before the first and
    holds them: 2.5 GB for SVD at 8 frames of 32x32 latents, 5 GB more at 50.
    """
    return ops.depend(weight, x)


def widened(weight: Tensor, x: Tensor) -> Tensor:
    """The weight in the dtype of `x`, where it is kept in a narrower one (`gm.precision.kept_narrow`): exact.

    Not before `x` is there, so that one wide weight at a time is held.
    """
    return weight if weight.dtype == x.dtype else when_needed(weight, x).astype(x.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., c_in), weight (c_out, c_in), bias (c_out,) -> (..., c_out)."""
    y = _matmul_transposed(x.reshape(-1, x.shape[-1]), weight)
    if bias is not None:
        y = _bias_add(y, bias)
    return y.reshape(x.shape[:-1] + (weight.shape[0],))


def add_linear(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """residual (..., c_out) + linear(x (..., c_in)), as one operation because one pass over memory can add both."""
    return residual + linear(x, weight, bias)


def linear_to_tokens(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Channels first to last on the way: x (n, c_in, s) -> (n, s, c_out)."""
    return linear(transpose(x, 0, 2, 1), weight, bias)


def add_linear_to_channels(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Channels last to first on the way: residual (n, c_out, s) + linear(x (n, s, c_in))."""
    return residual + transpose(linear(x, weight, bias), 0, 2, 1)


def add_per_channel(x: Tensor, values: Tensor) -> Tensor:
    """x (n, c, ...) + values (n, c); or (n, c, t): one for each frame of a video x (n, c, t, s)."""
    return x + values.reshape(values.shape + (1,) * (x.ndim - values.ndim))


def add_to_tokens(x: Tensor, values: Tensor) -> Tensor:
    """x (n, s, c) + values (n, 1, c) or (n, s, c)."""
    return x + values


def mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """share * first + (1 - share) * second: first and second (n, ...), share (1,) or (n, 1, ...)."""
    return second + share * (first - second)


def affine_per_channel(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (n, c, ...) * scale (n, c) + shift (n, c)."""
    shape = scale.shape + (1,) * (x.ndim - 2)
    return x * scale.reshape(shape) + shift.reshape(shape)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: tuple[int, int, int, int] = (1, 1, 1, 1),
) -> Tensor:
    """x (n, c_in, h, w), weight (c_out, c_in, kh, kw), zero padding (top, bottom, left, right)."""
    y = ops.Conv2D(weight.shape[0], weight.shape[2:], 1, "pad", padding, stride)(x, weight)
    return y if bias is None else _bias_add(y, bias)


def temporal_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The (3, 1, 1) convolution over time with one zero frame at either end: x (b, c_in, t, s), weight (o, i, 3, 1, 1).

    A 2-D convolution with kernel (3, 1): float32 Conv3d does not exist on Ascend and is 16 times slower on CPU.
    """
    kernel = when_needed(weight, x).reshape(weight.shape[0], weight.shape[1], 3, 1)
    return conv2d(x, kernel, bias, 1, (1, 1, 0, 0))


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """x (b, c, ...): statistics over each group's channels and all trailing axes."""
    y = x.astype(ms.float32).reshape(x.shape[0], groups, -1)
    y = y - ops.mean(y, -1, True)
    y = y * ops.rsqrt(ops.mean(y * y, -1, True) + eps)
    shape = (1, x.shape[1]) + (1,) * (x.ndim - 2)
    y = y.reshape(x.shape) * weight.reshape(shape) + bias.reshape(shape)
    return y.astype(x.dtype)


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, added: Tensor | None = None
) -> Tensor:
    """silu(group_norm(...)), as one operation because one pass over memory can do it.

    added: what `add_per_channel` adds to x before.
    """
    x = x if added is None else add_per_channel(x, added)
    return silu(group_norm(x, weight, bias, groups, eps))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x (..., c): statistics over the last axis."""
    y = x.astype(ms.float32)
    y = y - ops.mean(y, -1, True)
    y = y * ops.rsqrt(ops.mean(y * y, -1, True) + eps)
    return (y * weight + bias).astype(x.dtype)


def log(x: Tensor) -> Tensor:
    """Natural logarithm."""
    return ops.log(x)


def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return x * ops.sigmoid(x)


def gelu(x: Tensor) -> Tensor:
    """The exact form, x * Phi(x). (`ops.gelu` and `nn.GELU()` default to the tanh approximation, 4.7e-4 away.)"""
    return x * 0.5 * (1.0 + ops.erf(x * math.sqrt(0.5)))


def geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """value * gelu(gate) with [value, gate] = linear(x): x (..., c), weight (2 * inner, c) -> (..., inner).

    The weight is cut instead of the result: it is the smaller of the two wherever time is spent.
    """
    inner = weight.shape[0] // 2
    weight = when_needed(weight, x)
    return linear(x, weight[:inner], bias[:inner]) * gelu(linear(x, weight[inner:], bias[inner:]))


def feed_forward(
    residual: Tensor, x: Tensor, wide: Tensor, wide_bias: Tensor, narrow: Tensor, bias: Tensor, training: bool = False
) -> Tensor:
    """residual (..., c) + linear(geglu(x (..., c), wide (2 * inner, c), wide_bias), narrow (c, inner), bias).

    training: a form may keep for the backward pass what it would else compute again there; the result is the same.
    """
    return add_linear(residual, geglu(x, wide, wide_bias), narrow, bias)


def softmax(scores: Tensor) -> Tensor:
    """Over the last axis."""
    return ops.softmax(scores.astype(ms.float32), -1).astype(scores.dtype)


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (m, sq, d), k and v (m, sk, d) -> (m, sq, d), q already scaled."""
    return ops.bmm(softmax(_bmm_transposed(q, k)), v)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention without mask, scale 1/sqrt(head size): q (n, sq, c), k and v (n, sk, c) -> (n, sq, c).

    Works in pieces of at most `MAX_SCORES` scores: several whole (frame, head) pairs at a time, or parts of the
    queries of one pair.
    """
    return attention_by(transpose, q, k, v, heads)


def attention_by(transpose: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """`attention` with the given form of `transpose`, by which its heads are parted and joined."""
    n, sq, c = q.shape
    sk, head = k.shape[1], c // heads
    q = transpose((q * head**-0.5).reshape(n, sq, heads, head), 0, 2, 1, 3).reshape(n * heads, sq, head)
    k = transpose(k.reshape(n, sk, heads, head), 0, 2, 1, 3).reshape(n * heads, sk, head)
    v = transpose(v.reshape(n, sk, heads, head), 0, 2, 1, 3).reshape(n * heads, sk, head)
    rows = max(1, MAX_SCORES // sk)
    if n * heads * sq <= rows:
        out = _softmax_attention(q, k, v)
    else:
        pairs = max(1, rows // sq)
        queries = -(-sq // -(-sq // rows))
        pieces = []
        for i in range(0, n * heads, pairs):
            for j in range(0, sq, queries):
                queries_of_part = q[i : i + pairs, j : j + queries]
                pieces.append(_softmax_attention(queries_of_part, k[i : i + pairs], v[i : i + pairs]))
        out = ops.cat([piece.reshape(-1, head) for piece in pieces], 0)
    return transpose(out.reshape(n, heads, sq, head), 0, 2, 1, 3).reshape(n, sq, c)


def attention_over_pixels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Single-head attention without mask, scale 1/sqrt(c): q, k, v (n, c, s) -> (n, c, s)."""
    q, k, v = transpose(q, 0, 2, 1), transpose(k, 0, 2, 1), transpose(v, 0, 2, 1)
    return transpose(attention(q, k, v, 1), 0, 2, 1)


def upsample_nearest(x: Tensor) -> Tensor:
    """x (n, c, h, w) -> (n, c, 2h, 2w)."""
    n, c, h, w = x.shape
    x = ops.broadcast_to(x.reshape(n, c, h, 1, w, 1), (n, c, h, 2, w, 2))
    return x.contiguous().reshape(n, c, 2 * h, 2 * w)  # contiguous: see transpose


def square_sum(tensors: tuple[Tensor, ...]) -> Tensor:
    """Sum of the squares of all numbers of some tensors with an axis at least, float32 ()."""
    return ops.addn(_map(_square_sum, tensors))


def _square_sum(x: Tensor) -> Tensor:
    # Of rows first: over all axes at once, MindSpore's CPU kernel takes four times as long.
    rows = x.reshape(x.shape[0], -1)
    return ops.reduce_sum(ops.reduce_sum(rows * rows, -1))


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
    """Update float32 parameters in place, and clear the sums of their gradients, which must be finite.

    With g = sum * factor: m += (1 - beta1) * (g - m), v += (1 - beta2) * (g * g - v) and
    w -= rate * (m / (sqrt(v) + eps) + decay * w), the decay for weights with two axes or more.

    Args:
        weights, first, second, sums: of the same shapes: w, m, v and the sums. None may be there twice.
        rate, eps, decay, factor: float32 ().

    Returns a number that is there when all is done: a graph that does not return it leaves the update out.
    """
    function = ops.partial(_adamw, rate, beta1, beta2, eps, decay, factor)
    return ops.depend(rate, _map(function, weights, first, second, sums))


def _adamw(
    rate: Tensor,
    beta1: float,
    beta2: float,
    eps: Tensor,
    decay: Tensor,
    factor: Tensor,
    weight: Parameter,
    first: Parameter,
    second: Parameter,
    total: Parameter,
) -> Tensor:
    decayed = decay * (1.0 if len(weight.shape) > 1 else 0.0)
    updated = _adam(weight, first, second, rate, beta1, beta2, eps, decayed, total * factor)
    # Taken from itself, as it is finite here. Zeros of its shape would be a constant: all of them, twice all gradients.
    # And here, while they are in the processor's cache.
    return ops.depend(updated, ops.assign_sub(total, total))
