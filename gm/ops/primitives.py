"""The primitives of the C++ kernels' library, each with its gradient: what `gm.ops.fused` calls, float32.

None of them keeps anything for the backward pass but its inputs, long attention its result, and the feed-forward part
in training its wide values.
"""

from __future__ import annotations

import math
from typing import Any, Callable

import mindspore as ms
from mindspore import Tensor, ops


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


def _one(*_: Any) -> list[int]:
    return [1]


def _with_kept(residual: list[int], x: list[int], wide: list[int], *_: Any) -> tuple[list[int], list[int]]:
    return residual, [_to_64(x), wide[0]]


def _to_64(x: list[int]) -> int:
    return math.ceil(math.prod(x[:-1]) / 64) * 64  # tokens


def _with_between(kept: list[int], wide: list[int], narrow: list[int], dout: list[int]) -> tuple[list[int], list[int]]:
    return [*dout[:-1], wide[1]], [kept[0], 3 * narrow[1]]


def _of_layers(between: list[int], x: list[int], dout: list[int]) -> tuple[list[int], ...]:
    inner = between[1] // 3
    return [2 * inner, x[-1]], [2 * inner], [dout[-1], inner], [dout[-1]]


def _one_token(x: list[int]) -> list[int]:
    return [x[0], 1, x[2]]


def _swapped(x: list[int]) -> list[int]:
    return [x[0], x[2], x[1], x[3]]


def _doubled(x: list[int]) -> list[int]:
    return [x[0], x[1], 2 * x[2], 2 * x[3]]


def _turned(x: list[int]) -> list[int]:
    return [x[0], x[2], x[1]]


def _halved_back(dout: list[int]) -> list[int]:
    return [dout[0], dout[1], dout[2] // 2, dout[3] // 2]


def _of_dout(kernel: Callable) -> Callable:
    """The backward pass of a kernel of one tensor, by a kernel that is given `dout` alone."""

    def bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (kernel(dout),)

    return bprop


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


def _of_layer_norm(kernel: Callable) -> Callable:
    """A kernel of three and a constant, for `_gradient`, by one that gives the gradients of weight and bias as rows."""

    def gradient(x: Tensor, weight: Tensor, bias: Tensor, eps: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        dx, sums = kernel(x, weight, eps, dout)
        return dx, sums[0], sums[1]

    return gradient


def _of_feed_forward(input_gradient: Callable, weight_gradient: Callable, again: Callable | None = None) -> Callable:
    """The backward pass of the feed-forward part. again: computes what it keeps of one that keeps nothing."""

    def bprop(
        residual: Tensor,
        x: Tensor,
        wide: Tensor,
        wide_bias: Tensor,
        narrow: Tensor,
        bias: Tensor,
        out: Any,
        dout: Any,
    ) -> tuple[Tensor, ...]:
        result, dy = (out, dout[0]) if again is None else (again(residual, x, wide, wide_bias, narrow, bias), dout)
        dx, between = input_gradient(result[1], wide, narrow, dy)
        return dy, dx, *weight_gradient(between, x, dy)

    return bprop


def _of_convolution(input_gradient: Callable, weight_gradient: Callable) -> Callable:
    """The backward pass of a convolution, by one kernel for x and one for weight and bias."""

    def bprop(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (input_gradient(weight, dout), *weight_gradient(x, weight, dout))

    return bprop


def _of_add_to_tokens(sum_of_tokens: Callable) -> Callable:
    """The backward pass of a sum with one value for all tokens."""

    def bprop(x: Tensor, values: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return dout, sum_of_tokens(dout)

    return bprop


def _of_add_biased(sum_of_tokens: Callable) -> Callable:
    """The backward pass of a sum with a bias and a residual."""

    def bprop(x: Tensor, bias: Tensor, residual: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return dout, sum_of_tokens(dout.reshape(1, -1, dout.shape[-1])).reshape(-1), dout

    return bprop


def _of_add_to_channels(turn: Callable, sum_of_tokens: Callable) -> Callable:
    """The same, of tokens that are turned to channels first."""

    def bprop(tokens: Tensor, bias: Tensor, residual: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        dtokens = turn(dout)
        return dtokens, sum_of_tokens(dtokens.reshape(1, -1, dtokens.shape[-1])).reshape(-1), dout

    return bprop


def _of_long_attention(kernel: Callable) -> Callable:
    """The backward pass of attention by a kernel that takes the result too."""

    def bprop(q: Tensor, k: Tensor, v: Tensor, heads: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return (*kernel(q, k, v, heads, out, dout), ops.zeros_like(heads))

    return bprop


def _of_pixel_attention(kernel: Callable) -> Callable:
    """The same, of one head."""

    def bprop(q: Tensor, k: Tensor, v: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return kernel(q, k, v, out, dout)

    return bprop


@ms.jit_class
class Primitives:
    """The primitives of everything in a library that a network calls, each with its gradient."""

    def __init__(self, library: str) -> None:
        def kernel(name: str, shape: Callable, outputs: Callable, bprop: Callable | None = None) -> Any:
            return ops.Custom(f"{library}:{name}", shape, outputs, func_type="aot", bprop=bprop)

        def gradient(name: str) -> Any:
            return kernel(f"{name}Gradient", _like(0, 1, 2), _like(0, 1, 2))

        convolution = (
            kernel("ConvolutionInputGradient", _convolved_back, _like(0)),
            kernel("ConvolutionWeightGradient", _weight_and_bias, _like(1, 2)),
        )
        geglu_gradient = kernel("GegluGradient", _like(0, 1), _like(0, 1))
        sum_of_tokens = kernel("SumOfTokens", _one_token, _like(0))
        feed_forward = (
            kernel("FeedForwardInputGradient", _with_between, _like(0, 0)),
            kernel("FeedForwardWeightGradient", _of_layers, _like(0, 0, 0, 0)),
        )
        upsample_gradient = kernel("UpsampleNearestGradient", _halved_back, _like(0))

        def of_first(name: str, bprop: Callable) -> Any:
            """Its result has the first input's shape and type."""
            return kernel(name, _like(0), _like(0), bprop)

        self.short_attention = of_first("ShortAttention", _gradient(gradient("ShortAttention")))
        self.long_attention = of_first("LongAttention", _of_long_attention(gradient("LongAttention")))
        self.pixel_attention = of_first("PixelAttention", _of_pixel_attention(gradient("PixelAttention")))
        self.convolution = kernel("Convolution", _convolved, _like(0), _of_convolution(*convolution))
        self.geglu = kernel("Geglu", _halved, _like(0), _of_two(geglu_gradient))
        self.gelu = of_first("Gelu", _of_one(kernel("GeluGradient", _like(0), _like(0))))
        self.silu = of_first("Silu", _of_one(kernel("SiluGradient", _like(0), _like(0))))
        self.add_to_tokens = of_first("AddToTokens", _of_add_to_tokens(sum_of_tokens))
        self.add_biased = of_first("AddBiased", _of_add_biased(sum_of_tokens))
        self.feed_forward_kept = kernel("FeedForwardKept", _with_kept, _like(0, 0), _of_feed_forward(*feed_forward))
        self.feed_forward = of_first("FeedForward", _of_feed_forward(*feed_forward, self.feed_forward_kept))
        turn = kernel("Turn", _turned, _like(0))
        self.turn = kernel("Turn", _turned, _like(0), _of_dout(turn))
        to_channels = _of_add_to_channels(turn, sum_of_tokens)
        self.add_to_channels = kernel("AddToChannels", _like(2), _like(0), to_channels)
        swap = kernel("SwapMiddleAxes", _swapped, _like(0))
        self.swap_middle_axes = kernel("SwapMiddleAxes", _swapped, _like(0), _of_dout(swap))
        self.mix = of_first("Mix", _of_three(gradient("Mix")))
        self.upsample = kernel("UpsampleNearest", _doubled, _like(0), _of_dout(upsample_gradient))
        layer_norm_gradient = kernel("LayerNormGradient", _with_two_rows, _like(0, 1))
        self.layer_norm = of_first("LayerNorm", _gradient(_of_layer_norm(layer_norm_gradient)))
        self.group_norm = of_first("GroupNorm", _gradient(gradient("GroupNorm")))
        self.group_norm_silu = of_first("GroupNormSilu", _gradient(gradient("GroupNormSilu")))
        added_gradient = kernel("AddGroupNormSiluGradient", _like(0, 1, 2, 4), _like(0, 1, 2, 4))
        self.add_group_norm_silu = of_first("AddGroupNormSilu", _gradient_of_added(added_gradient))
        self.adamw, self.square_sum = kernel("AdamW", _one, _like(0)), kernel("SquareSum", _one, _like(0))
