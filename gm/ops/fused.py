"""Forms for the CPU that call the C++ kernels of `gm.ops.native`, with their gradients; float32, else `gm.ops.cpu`.

`use` opens the library and must come first. A kernel reads its input once or twice where plain operators read and write
it five to ten times; none of them keeps anything for the backward pass but its inputs, long attention its result.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

import mindspore as ms
from mindspore import Tensor, ops

from gm.ops import cpu, reference
from gm.ops.arguments import constant, of_length

_FLOAT = ms.float32
_SHORT = 28  # tokens up to which attention by loops beats matrix products and transpositions; SVD-XT has 25 frames
# The kernels, of `use`.
_short_attention: Any = None
_long_attention: Any = None
_pixel_attention: Any = None
_geglu: Any = None
_silu: Any = None
_layer_norm: Any = None
_group_norm: Any = None
_group_norm_silu: Any = None


def _like(*indices: int) -> Callable:
    """Function (inputs) -> the inputs at `indices`: for shapes and types alike."""
    return lambda *inputs: inputs[indices[0]] if len(indices) == 1 else tuple(inputs[i] for i in indices)


def _halved(projected: list[int], bias: list[int]) -> list[int]:
    return [*projected[:-1], projected[-1] // 2]


def _with_two_rows(x: list[int], weight: list[int], *_: Any) -> tuple[list[int], list[int]]:
    return x, [2, *weight]


@functools.cache
def _kernels(library: str) -> dict[str, Any]:
    """{name: primitive} of everything in the library that a network calls, each with its gradient."""

    def kernel(name: str, shape: Callable, outputs: Callable, bprop: Callable | None = None) -> Any:
        return ops.Custom(f"{library}:{name}", shape, outputs, func_type="aot", bprop=bprop)

    geglu_gradient = kernel("GegluGradient", _like(0, 1), _like(0, 1))
    silu_gradient = kernel("SiluGradient", _like(0), _like(0))
    layer_norm_gradient = kernel("LayerNormGradient", _with_two_rows, _like(0, 1))
    group_norm_gradient = kernel("GroupNormGradient", _like(0, 1, 2), _like(0, 1, 2))
    short_gradient = kernel("ShortAttentionGradient", _like(0, 1, 2), _like(0, 1, 2))
    long_gradient = kernel("LongAttentionGradient", _like(0, 1, 2), _like(0, 1, 2))
    pixel_gradient = kernel("PixelAttentionGradient", _like(0, 1, 2), _like(0, 1, 2))
    group_norm_silu_gradient = kernel("GroupNormSiluGradient", _like(0, 1, 2), _like(0, 1, 2))

    def geglu_bprop(projected: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return geglu_gradient(projected, bias, dout)

    def silu_bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (silu_gradient(x, dout),)

    def layer_norm_bprop(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: Tensor,
        out: Tensor,
        dout: Tensor,
    ) -> tuple[Tensor, ...]:
        dx, sums = layer_norm_gradient(x, weight, eps, dout)
        return dx, sums[0], sums[1], ops.zeros_like(eps)

    def group_norm_bprop(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: Tensor,
        out: Tensor,
        dout: Tensor,
    ) -> tuple[Tensor, ...]:
        dx, dweight, dbias = group_norm_gradient(x, weight, bias, eps, dout)
        return dx, dweight, dbias, ops.zeros_like(eps)

    def group_norm_silu_bprop(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: Tensor,
        out: Tensor,
        dout: Tensor,
    ) -> tuple[Tensor, ...]:
        dx, dweight, dbias = group_norm_silu_gradient(x, weight, bias, eps, dout)
        return dx, dweight, dbias, ops.zeros_like(eps)

    def short_bprop(q: Tensor, k: Tensor, v: Tensor, heads: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        dq, dk, dv = short_gradient(q, k, v, heads, dout)
        return dq, dk, dv, ops.zeros_like(heads)

    def long_bprop(q: Tensor, k: Tensor, v: Tensor, heads: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        dq, dk, dv = long_gradient(q, k, v, heads, out, dout)
        return dq, dk, dv, ops.zeros_like(heads)

    def pixel_bprop(q: Tensor, k: Tensor, v: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return pixel_gradient(q, k, v, out, dout)

    return {
        "_short_attention": kernel("ShortAttention", _like(0), _like(0), short_bprop),
        "_long_attention": kernel("LongAttention", _like(0), _like(0), long_bprop),
        "_pixel_attention": kernel("PixelAttention", _like(0), _like(0), pixel_bprop),
        "_geglu": kernel("Geglu", _halved, _like(0), geglu_bprop),
        "_silu": kernel("Silu", _like(0), _like(0), silu_bprop),
        "_layer_norm": kernel("LayerNorm", _like(0), _like(0), layer_norm_bprop),
        "_group_norm": kernel("GroupNorm", _like(0), _like(0), group_norm_bprop),
        "_group_norm_silu": kernel("GroupNormSilu", _like(0), _like(0), group_norm_silu_bprop),
    }


def use(library: str) -> None:
    """Make the shared library at this path the one that the forms below call."""
    global \
        _short_attention, \
        _long_attention, \
        _pixel_attention, \
        _geglu, \
        _silu, \
        _layer_norm, \
        _group_norm, \
        _group_norm_silu
    kernels = _kernels(library)
    _short_attention = kernels["_short_attention"]
    _long_attention = kernels["_long_attention"]
    _pixel_attention = kernels["_pixel_attention"]
    _geglu = kernels["_geglu"]
    _silu = kernels["_silu"]
    _layer_norm = kernels["_layer_norm"]
    _group_norm = kernels["_group_norm"]
    _group_norm_silu = kernels["_group_norm_silu"]


def geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`reference.geglu`: both halves in one product, then one pass."""
    if x.dtype != _FLOAT:
        return reference.geglu(x, weight, bias)
    return _geglu(reference.linear(x, weight), bias)


def silu(x: Tensor) -> Tensor:
    """`reference.silu` in one pass."""
    return _silu(x) if x.dtype == _FLOAT else reference.silu(x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`reference.layer_norm` in one pass over memory, its gradient too, on all cores."""
    if x.dtype != _FLOAT:
        return cpu.layer_norm(x, weight, bias, eps)
    return _layer_norm(x, weight, bias, constant(eps))


def _by_group(kernel: Callable, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """The kernel takes the number of groups from the shape."""
    b, c = x.shape[:2]
    return kernel(x.reshape(b, groups, c // groups, -1), weight, bias, constant(eps)).reshape(x.shape)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """`reference.group_norm`; each group is read from memory once if it fits the cache."""
    if x.dtype != _FLOAT:
        return cpu.group_norm(x, weight, bias, groups, eps)
    return _by_group(_group_norm, x, weight, bias, groups, eps)


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """`group_norm` and `silu` in the same pass."""
    if x.dtype != _FLOAT:
        return cpu.group_norm_silu(x, weight, bias, groups, eps)
    return _by_group(_group_norm_silu, x, weight, bias, groups, eps)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """`reference.attention` without scores in memory and without transpositions, its gradient too.

    For short sequences, such as the frames of a pixel, by loops over single tokens, else in blocks.
    """
    if q.dtype != _FLOAT:
        return cpu.attention(q, k, v, heads)
    short = q.shape[1] <= _SHORT and k.shape[1] <= _SHORT
    return (_short_attention if short else _long_attention)(q, k, v, of_length(heads))


def attention_over_pixels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`reference.attention_over_pixels` without scores in memory and without transpositions."""
    return _pixel_attention(q, k, v) if q.dtype == _FLOAT else cpu.attention_over_pixels(q, k, v)
