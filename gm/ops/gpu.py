"""Forms for GPUs that call the CUDA kernels of `gm/ops/cuda`, with their gradients.

`use` opens the library and must come first. Attention is float16 alone; the others take float32 too. Gradients are
those of the reference forms, from the inputs: nothing is kept for the backward pass but them.
"""

from __future__ import annotations

import functools
from typing import Any, Callable

import mindspore as ms
from mindspore import Tensor, ops

from gm.ops import reference
from gm.ops.arguments import constant, of_length

_TYPES = (ms.float16, ms.float32)
_HEADS = (32, 64)  # channels of a head that the kernel was written for
_PART = 1 << 15  # values of a group that one block of threads takes
_gradients = ops.GradOperation(get_all=True, sens_param=True)


def _first(x: Any, *_: Any) -> Any:
    return x


def _geglu_shape(projected: list[int], bias: list[int]) -> list[int]:
    return [*projected[:-1], projected[-1] // 2]


def _doubled(x: list[int]) -> list[int]:
    return [x[0], x[1], 2 * x[2], 2 * x[3]]


def _norm_shapes(x: list[int], *_: Any) -> tuple[list[int], list[int]]:
    """The result's, and that of the statistics of a group's parts."""
    return x, [x[0] * x[1], -(-x[2] * x[3] // _PART), 2]


def _norm_types(x: Any, *_: Any) -> tuple[Any, Any]:
    return x, ms.float32


def _geglu_reference(projected: Tensor, bias: Tensor) -> Tensor:
    value, gate = ops.chunk(reference._bias_add(projected.reshape(-1, projected.shape[-1]), bias), 2, -1)
    return (value * reference.gelu(gate)).reshape(projected.shape[:-1] + (projected.shape[-1] // 2,))


def _parted(x: Tensor, heads: int) -> Tensor:
    """(n, s, c) -> (n * heads, s, head)"""
    n, s, c = x.shape
    return reference.transpose(x.reshape(n, s, heads, c // heads), 0, 2, 1, 3).reshape(n * heads, s, c // heads)


def _joined(parts: list[Tensor], heads: int, s: int) -> Tensor:
    """What `_parted` took apart, from the rows of all its parts in order."""
    head = parts[0].shape[-1]
    whole = ops.cat([part.reshape(-1, head) for part in parts], 0).reshape(-1, heads, s, head)
    return reference.transpose(whole, 0, 2, 1, 3).reshape(-1, s, heads * head)


def _attention_gradient(q: Tensor, k: Tensor, v: Tensor, heads: int, dout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `reference.attention`, in pieces of at most `reference.MAX_SCORES` scores."""
    n, sq, c = q.shape
    sk, scale = k.shape[1], (c // heads) ** -0.5
    rows = max(1, reference.MAX_SCORES // sk)
    pairs, queries = max(1, min(rows // sq, n * heads)), -(-sq // -(-sq // min(rows, sq)))
    q, k, v, dout = _parted(q, heads), _parted(k, heads), _parted(v, heads), _parted(dout, heads)
    dqs, dks, dvs = [], [], []
    for i in range(0, n * heads, pairs):
        sums = None
        for j in range(0, sq, queries):
            dq, *parts = _softmax_gradient(
                q[i : i + pairs, j : j + queries],
                k[i : i + pairs],
                v[i : i + pairs],
                dout[i : i + pairs, j : j + queries],
                scale,
            )
            dqs.append(dq)
            sums = parts if sums is None else [sums[0] + parts[0], sums[1] + parts[1]]
        dks.append(sums[0])  # type: ignore[index]  # there is at least one piece
        dvs.append(sums[1])  # type: ignore[index]  # as above
    return _joined(dqs, heads, sq), _joined(dks, heads, sk), _joined(dvs, heads, sk)


def _softmax_gradient(q: Tensor, k: Tensor, v: Tensor, dout: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    p = reference.softmax(reference._bmm_transposed(q * scale, k))
    dp = reference._bmm_transposed(dout, v).astype(ms.float32)
    wide = p.astype(ms.float32)
    ds = (wide * (dp - ops.sum(dp * wide, -1, True))).astype(q.dtype)
    return ops.bmm(ds, k) * scale, _bmm_first_transposed(ds, q * scale), _bmm_first_transposed(p, dout)


_bmm_first_transposed = ops.BatchMatMul(transpose_a=True)


def _layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return reference.layer_norm(x, weight, bias, eps)


def _norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    b, groups, channels, pixels = x.shape
    y = reference.group_norm(x.reshape(b, groups * channels, pixels), weight, bias, groups, eps)
    return y.reshape(x.shape)


def _norm_silu_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return reference.silu(_norm_reference(x, weight, bias, eps))


def _of_one(form: Callable) -> Callable:
    """The backward pass of a kernel of one tensor: that of its reference form."""

    def bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return _gradients(form)(x, dout)

    return bprop


def _of_two(form: Callable) -> Callable:
    """The same, of two tensors."""

    def bprop(x: Tensor, y: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return _gradients(form)(x, y, dout)

    return bprop


def _of_norm(form: Callable, several: bool) -> Callable:
    """The same, of a tensor, weight, bias and a constant. several: the kernel returns more than the result."""

    def bprop(x: Tensor, weight: Tensor, bias: Tensor, eps: Tensor, out: Any, dout: Any) -> tuple[Tensor, ...]:
        of_result = dout[0] if several else dout
        return (*_gradients(form)(x, weight, bias, eps, of_result)[:3], ops.zeros_like(eps))

    return bprop


def _attention_bprop(q: Tensor, k: Tensor, v: Tensor, heads: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
    return (*_attention_gradient(q, k, v, heads.shape[0], dout), ops.zeros_like(heads))


def _mix_bprop(first: Tensor, second: Tensor, share: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
    return _gradients(reference.mix)(first, second, share, dout)


@ms.jit_class
class _Kernels:
    """The primitives of everything in a library, each with its gradient."""

    def __init__(self, library: str) -> None:
        def kernel(name: str, bprop: Callable, shape: Callable = _first, types: Callable = _first) -> Any:
            return ops.Custom(f"{library}:{name}", shape, types, func_type="aot", bprop=bprop)

        def norm(name: str, form: Callable) -> Any:
            return kernel(name, _of_norm(form, True), _norm_shapes, _norm_types)

        self.attention = kernel("Attention", _attention_bprop)
        self.add_per_channel = kernel("AddPerChannel", _of_two(reference.add_per_channel))
        self.add_to_tokens = kernel("AddToTokens", _of_two(reference.add_to_tokens))
        self.mix = kernel("Mix", _mix_bprop)
        self.upsample = kernel("UpsampleNearest", _of_one(reference.upsample_nearest), _doubled)
        self.geglu = kernel("Geglu", _of_two(_geglu_reference), _geglu_shape)
        self.silu = kernel("Silu", _of_one(reference.silu))
        self.layer_norm = kernel("LayerNorm", _of_norm(_layer_norm_reference, False))
        self.group_norm = norm("GroupNorm", _norm_reference)
        self.group_norm_silu = norm("GroupNormSilu", _norm_silu_reference)


_made = functools.cache(_Kernels)
_kernels: Any = None  # those of `use`


def use(library: str) -> None:
    """Make the shared library at this path the one that the forms below call."""
    global _kernels
    _kernels = _made(library)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """`reference.attention` without scores in memory and without transpositions; float16, heads of 32 or 64."""
    if q.dtype != ms.float16 or q.shape[2] // heads not in _HEADS:
        return reference.attention(q, k, v, heads)
    return _kernels.attention(q, k, v, of_length(heads))


def geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`reference.geglu`: both halves in one product, then one pass."""
    if x.dtype not in _TYPES:
        return reference.geglu(x, weight, bias)
    return _kernels.geglu(reference.linear(x, weight), bias)


def feed_forward(
    residual: Tensor, x: Tensor, wide: Tensor, wide_bias: Tensor, narrow: Tensor, bias: Tensor, training: bool = False
) -> Tensor:
    """`reference.feed_forward` with this module's `geglu`."""
    if x.dtype not in _TYPES:
        return reference.feed_forward(residual, x, wide, wide_bias, narrow, bias)
    return reference.add_linear(residual, geglu(x, wide, wide_bias), narrow, bias)


def silu(x: Tensor) -> Tensor:
    """`reference.silu` in one pass."""
    return _kernels.silu(x) if x.dtype in _TYPES else reference.silu(x)


def add_per_channel(x: Tensor, values: Tensor) -> Tensor:
    """`reference.add_per_channel` without the broadcast's own arithmetic of places."""
    if x.dtype not in _TYPES:
        return reference.add_per_channel(x, values)
    n = x.shape[0]
    return _kernels.add_per_channel(x.reshape(n, values.size // n, -1), values.reshape(n, -1)).reshape(x.shape)


def add_to_tokens(x: Tensor, values: Tensor) -> Tensor:
    """`reference.add_to_tokens`, likewise."""
    if x.dtype not in _TYPES or x.ndim != 3 or values.shape[:2] != (x.shape[0], 1):
        return reference.add_to_tokens(x, values)
    return _kernels.add_to_tokens(x, values)


def mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """`reference.mix` in one pass instead of three, where there is one share for all."""
    if first.dtype not in _TYPES or share.size != 1:
        return reference.mix(first, second, share)
    return _kernels.mix(first, second, share)


def upsample_nearest(x: Tensor) -> Tensor:
    """`reference.upsample_nearest` in one pass."""
    return _kernels.upsample(x) if x.dtype in _TYPES else reference.upsample_nearest(x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`reference.layer_norm` in one kernel."""
    if x.dtype not in _TYPES or weight.dtype != ms.float32:
        return reference.layer_norm(x, weight, bias, eps)
    return _kernels.layer_norm(x, weight, bias, constant(eps))


def _by_group(kernel: Callable, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """The kernel takes the number of groups from the shape."""
    b, c = x.shape[:2]
    return kernel(x.reshape(b, groups, c // groups, -1), weight, bias, constant(eps))[0].reshape(x.shape)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """`reference.group_norm` in two kernels, each over many parts of a group at once."""
    if x.dtype not in _TYPES or weight.dtype != ms.float32:
        return reference.group_norm(x, weight, bias, groups, eps)
    return _by_group(_kernels.group_norm, x, weight, bias, groups, eps)


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, added: Tensor | None = None
) -> Tensor:
    """`group_norm` and `silu` in the same pass."""
    if x.dtype not in _TYPES or weight.dtype != ms.float32:
        return reference.group_norm_silu(x, weight, bias, groups, eps, added)
    x = x if added is None else add_per_channel(x, added)
    return _by_group(_kernels.group_norm_silu, x, weight, bias, groups, eps)
