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
_matmul = ops.MatMul()
_matmul_transposed_a = ops.MatMul(transpose_a=True)
_NARROW = 512  # channels up to which weights may be read anew for every 64 tokens
_SHORT = 28  # tokens up to which attention by loops beats matrix products and transpositions; SVD-XT has 25 frames


def _like(*indices: int) -> Callable:
    """Function (inputs) -> the inputs at `indices`: for shapes and types alike."""
    return lambda *inputs: inputs[indices[0]] if len(indices) == 1 else tuple(inputs[i] for i in indices)


def _halved(projected: list[int], bias: list[int]) -> list[int]:
    return [*projected[:-1], projected[-1] // 2]


def _convolved(x: list[int], weight: list[int], bias: list[int]) -> list[int]:
    return [x[0], weight[0], *x[2:]]


def _convolved_back(weight: list[int], dout: list[int]) -> list[int]:
    return [dout[0], weight[1], *dout[2:]]


def _weight_and_bias(x: list[int], weight: list[int], dout: list[int]) -> tuple[list[int], list[int]]:
    return weight, weight[:1]


def _with_two_rows(x: list[int], weight: list[int], *_: Any) -> tuple[list[int], list[int]]:
    return x, [2, *weight]


def _one_token(x: list[int]) -> list[int]:
    return [x[0], 1, x[2]]


def _doubled(x: list[int]) -> list[int]:
    return [x[0], x[1], 2 * x[2], 2 * x[3]]


def _halved_back(dout: list[int]) -> list[int]:
    return [dout[0], dout[1], dout[2] // 2, dout[3] // 2]


def _of_one(kernel: Callable) -> Callable:
    """The backward pass of a kernel of one tensor, by a kernel that is given it and `dout`."""

    def bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (kernel(x, dout),)

    return bprop


def _of_two(kernel: Callable) -> Callable:
    """The same, of two tensors."""

    def bprop(a: Tensor, b: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return kernel(a, b, dout)

    return bprop


def _of_three(kernel: Callable) -> Callable:
    """The same, of three."""

    def bprop(a: Tensor, b: Tensor, c: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return kernel(a, b, c, dout)

    return bprop


def _gradient(kernel: Callable) -> Callable:
    """The same, of three and a constant."""

    def bprop(a: Tensor, b: Tensor, c: Tensor, known: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (*kernel(a, b, c, known, dout), ops.zeros_like(known))

    return bprop


def _gradient_of_added(kernel: Callable) -> Callable:
    """The same, with one more tensor behind the constant."""

    def bprop(
        a: Tensor, b: Tensor, c: Tensor, known: Tensor, added: Tensor, out: Tensor, dout: Tensor
    ) -> tuple[Tensor, ...]:
        da, db, dc, dadded = kernel(a, b, c, known, added, dout)
        return da, db, dc, ops.zeros_like(known), dadded

    return bprop


@ms.jit_class
class _Kernels:
    """The primitives of everything in a library that a network calls, each with its gradient."""

    def __init__(self, library: str) -> None:
        def kernel(name: str, shape: Callable, outputs: Callable, bprop: Callable | None = None) -> Any:
            return ops.Custom(f"{library}:{name}", shape, outputs, func_type="aot", bprop=bprop)

        def gradient(name: str) -> Any:
            return kernel(f"{name}Gradient", _like(0, 1, 2), _like(0, 1, 2))

        layer_norm_gradient = kernel("LayerNormGradient", _with_two_rows, _like(0, 1))
        long_gradient, pixel_gradient = gradient("LongAttention"), gradient("PixelAttention")

        input_gradient = kernel("ConvolutionInputGradient", _convolved_back, _like(0))
        weight_gradient = kernel("ConvolutionWeightGradient", _weight_and_bias, _like(1, 2))

        def convolution_bprop(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
            return (input_gradient(weight, dout), *weight_gradient(x, weight, dout))

        def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
            dx, sums = layer_norm_gradient(x, weight, eps, dout)
            return dx, sums[0], sums[1]

        geglu_gradient = kernel("GegluGradient", _like(0, 1), _like(0, 1))
        sum_of_tokens = kernel("SumOfTokens", _one_token, _like(0))
        upsample_gradient = kernel("UpsampleNearestGradient", _halved_back, _like(0))

        def add_to_tokens_bprop(x: Tensor, values: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
            return dout, sum_of_tokens(dout)

        def add_biased_bprop(
            x: Tensor, bias: Tensor, residual: Tensor, out: Tensor, dout: Tensor
        ) -> tuple[Tensor, ...]:
            return dout, sum_of_tokens(dout.reshape(1, -1, dout.shape[-1])).reshape(-1), dout

        def feed_forward_bprop(
            residual: Tensor,
            x: Tensor,
            wide: Tensor,
            wide_bias: Tensor,
            narrow: Tensor,
            bias: Tensor,
            out: Tensor,
            dout: Tensor,
        ) -> tuple[Tensor, ...]:
            tokens, dy = x.reshape(-1, x.shape[-1]), dout.reshape(-1, dout.shape[-1])
            projected = reference.linear(tokens, wide)  # again: it is wide, and was not kept
            dprojected, dwide_bias = geglu_gradient(projected, wide_bias, _matmul(dy, narrow))
            dnarrow = _matmul_transposed_a(dy, self.geglu(projected, wide_bias))
            dbias = sum_of_tokens(dy.reshape(1, -1, dy.shape[-1])).reshape(-1)
            dx = _matmul(dprojected, wide).reshape(x.shape)
            return dout, dx, _matmul_transposed_a(dprojected, tokens), dwide_bias, dnarrow, dbias

        def upsample_bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
            return (upsample_gradient(dout),)

        def long_bprop(q: Tensor, k: Tensor, v: Tensor, heads: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
            return (*long_gradient(q, k, v, heads, out, dout), ops.zeros_like(heads))

        def pixel_bprop(q: Tensor, k: Tensor, v: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
            return pixel_gradient(q, k, v, out, dout)

        def of_first(name: str, bprop: Callable) -> Any:
            """Its result has the first input's shape and type."""
            return kernel(name, _like(0), _like(0), bprop)

        self.short_attention = of_first("ShortAttention", _gradient(gradient("ShortAttention")))
        self.long_attention = of_first("LongAttention", long_bprop)
        self.pixel_attention = of_first("PixelAttention", pixel_bprop)
        self.convolution = kernel("Convolution", _convolved, _like(0), convolution_bprop)
        self.geglu = kernel("Geglu", _halved, _like(0), _of_two(geglu_gradient))
        self.silu = of_first("Silu", _of_one(kernel("SiluGradient", _like(0), _like(0))))
        self.add_to_tokens = of_first("AddToTokens", add_to_tokens_bprop)
        self.add_biased = of_first("AddBiased", add_biased_bprop)
        self.feed_forward = of_first("FeedForward", feed_forward_bprop)
        self.mix = of_first("Mix", _of_three(gradient("Mix")))
        self.upsample = kernel("UpsampleNearest", _doubled, _like(0), upsample_bprop)
        self.layer_norm = of_first("LayerNorm", _gradient(layer_norm))
        self.group_norm = of_first("GroupNorm", _gradient(gradient("GroupNorm")))
        self.group_norm_silu = of_first("GroupNormSilu", _gradient(gradient("GroupNormSilu")))
        added_gradient = kernel("AddGroupNormSiluGradient", _like(0, 1, 2, 4), _like(0, 1, 2, 4))
        self.add_group_norm_silu = of_first("AddGroupNormSilu", _gradient_of_added(added_gradient))


_made = functools.cache(_Kernels)
_kernels: Any = None  # those of `use`


def use(library: str) -> None:
    """Make the shared library at this path the one that the forms below call."""
    global _kernels
    _kernels = _made(library)


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


def feed_forward(residual: Tensor, x: Tensor, wide: Tensor, wide_bias: Tensor, narrow: Tensor, bias: Tensor) -> Tensor:
    """`reference.feed_forward`: where it is narrow, some tokens at a time, and backward its first product once more."""
    if x.dtype != _FLOAT:
        return reference.feed_forward(residual, x, wide, wide_bias, narrow, bias)
    if x.shape[-1] > _NARROW:
        return add_linear(residual, geglu(x, wide, wide_bias), narrow, bias)
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
