"""The primitives of the C++ kernels' library, each with its gradient: what `gm.ops.fused` calls, float32.

None of them keeps anything for the backward pass but its inputs, long attention its result.
"""

from __future__ import annotations

from typing import Any, Callable

import mindspore as ms
from mindspore import Tensor, ops

from gm.ops import reference

_matmul = ops.MatMul()
_matmul_transposed_a = ops.MatMul(transpose_a=True)


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


def _of_feed_forward(geglu: Callable, geglu_gradient: Callable, sum_of_tokens: Callable) -> Callable:
    """The backward pass of the feed-forward part."""

    def bprop(
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
        dnarrow = _matmul_transposed_a(dy, geglu(projected, wide_bias))
        dbias = sum_of_tokens(dy.reshape(1, -1, dy.shape[-1])).reshape(-1)
        dx = _matmul(dprojected, wide).reshape(x.shape)
        return dout, dx, _matmul_transposed_a(dprojected, tokens), dwide_bias, dnarrow, dbias

    return bprop


@ms.jit_class
class Primitives:
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

        def upsample_bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
            return (upsample_gradient(dout),)

        def add_to_tokens_bprop(x: Tensor, values: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
            return dout, sum_of_tokens(dout)

        def add_biased_bprop(
            x: Tensor, bias: Tensor, residual: Tensor, out: Tensor, dout: Tensor
        ) -> tuple[Tensor, ...]:
            return dout, sum_of_tokens(dout.reshape(1, -1, dout.shape[-1])).reshape(-1), dout

        def pixel_bprop(q: Tensor, k: Tensor, v: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
            return pixel_gradient(q, k, v, out, dout)  # unlike others it takes the result too

        def long_bprop(q: Tensor, k: Tensor, v: Tensor, heads: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
            return (*long_gradient(q, k, v, heads, out, dout), ops.zeros_like(heads))

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
        self.feed_forward = of_first("FeedForward", _of_feed_forward(self.geglu, geglu_gradient, sum_of_tokens))
        self.mix = of_first("Mix", _of_three(gradient("Mix")))
        self.upsample = kernel("UpsampleNearest", _doubled, _like(0), upsample_bprop)
        self.layer_norm = of_first("LayerNorm", _gradient(layer_norm))
        self.group_norm = of_first("GroupNorm", _gradient(gradient("GroupNorm")))
        self.group_norm_silu = of_first("GroupNormSilu", _gradient(gradient("GroupNormSilu")))
        added_gradient = kernel("AddGroupNormSiluGradient", _like(0, 1, 2, 4), _like(0, 1, 2, 4))
        self.add_group_norm_silu = of_first("AddGroupNormSilu", _gradient_of_added(added_gradient))
