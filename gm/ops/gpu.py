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
# The kernels, of `use`.
_attention: Any = None
_add_per_channel: Any = None
_add_to_tokens: Any = None
_mix: Any = None
_upsample: Any = None
_geglu: Any = None
_silu: Any = None
_layer_norm: Any = None
_group_norm: Any = None
_group_norm_silu: Any = None


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


@functools.cache
def _kernels(library: str) -> dict[str, Any]:
    """{name: primitive} of everything in the library, each with its gradient."""

    def kernel(name: str, shape: Callable, outputs: Callable, bprop: Callable | None) -> Any:
        return ops.Custom(f"{library}:{name}", shape, outputs, func_type="aot", bprop=bprop)

    def attention_bprop(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: Tensor,
        out: Tensor,
        dout: Tensor,
    ) -> tuple[Tensor, ...]:
        dq, dk, dv = _attention_gradient(q, k, v, heads.shape[0], dout)
        return dq, dk, dv, ops.zeros_like(heads)

    def silu_bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return _gradients(reference.silu)(x, dout)

    def geglu_bprop(projected: Tensor, bias: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return _gradients(_geglu_reference)(projected, bias, dout)

    def layer_norm_bprop(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: Tensor,
        out: Tensor,
        dout: Tensor,
    ) -> tuple[Tensor, ...]:
        return (*_gradients(_layer_norm_reference)(x, weight, bias, eps, dout)[:3], ops.zeros_like(eps))

    def norm_bprop(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: Tensor,
        out: Tensor,
        dout: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, ...]:
        return (*_gradients(_norm_reference)(x, weight, bias, eps, dout[0])[:3], ops.zeros_like(eps))

    def norm_silu_bprop(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: Tensor,
        out: Tensor,
        dout: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, ...]:
        return (*_gradients(_norm_silu_reference)(x, weight, bias, eps, dout[0])[:3], ops.zeros_like(eps))

    def add_per_channel_bprop(x: Tensor, values: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return _gradients(reference.add_per_channel)(x, values, dout)

    def add_to_tokens_bprop(x: Tensor, values: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return _gradients(reference.add_to_tokens)(x, values, dout)

    def mix_bprop(first: Tensor, second: Tensor, share: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return _gradients(reference.mix)(first, second, share, dout)

    def upsample_bprop(x: Tensor, out: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        return _gradients(reference.upsample_nearest)(x, dout)

    return {
        "_attention": kernel("Attention", _first, _first, attention_bprop),
        "_add_per_channel": kernel("AddPerChannel", _first, _first, add_per_channel_bprop),
        "_add_to_tokens": kernel("AddToTokens", _first, _first, add_to_tokens_bprop),
        "_mix": kernel("Mix", _first, _first, mix_bprop),
        "_upsample": kernel("UpsampleNearest", _doubled, _first, upsample_bprop),
        "_geglu": kernel("Geglu", _geglu_shape, _first, geglu_bprop),
        "_silu": kernel("Silu", _first, _first, silu_bprop),
        "_layer_norm": kernel("LayerNorm", _first, _first, layer_norm_bprop),
        "_group_norm": kernel("GroupNorm", _norm_shapes, _norm_types, norm_bprop),
        "_group_norm_silu": kernel("GroupNormSilu", _norm_shapes, _norm_types, norm_silu_bprop),
    }


def _layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return reference.layer_norm(x, weight, bias, eps)


def _norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    b, groups, channels, pixels = x.shape
    y = reference.group_norm(x.reshape(b, groups * channels, pixels), weight, bias, groups, eps)
    return y.reshape(x.shape)


def _norm_silu_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return reference.silu(_norm_reference(x, weight, bias, eps))


def use(library: str) -> None:
    """Make the shared library at this path the one that the forms below call."""
    global \
        _attention, \
        _add_per_channel, \
        _add_to_tokens, \
        _mix, \
        _upsample, \
        _geglu, \
        _silu, \
        _layer_norm, \
        _group_norm, \
        _group_norm_silu
    kernels = _kernels(library)
    _attention = kernels["_attention"]
    _add_per_channel = kernels["_add_per_channel"]
    _add_to_tokens = kernels["_add_to_tokens"]
    _mix = kernels["_mix"]
    _upsample = kernels["_upsample"]
    _geglu = kernels["_geglu"]
    _silu = kernels["_silu"]
    _layer_norm = kernels["_layer_norm"]
    _group_norm = kernels["_group_norm"]
    _group_norm_silu = kernels["_group_norm_silu"]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """`reference.attention` without scores in memory and without transpositions; float16, heads of 32 or 64."""
    if q.dtype != ms.float16 or q.shape[2] // heads not in _HEADS:
        return reference.attention(q, k, v, heads)
    return _attention(q, k, v, of_length(heads))


def geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`reference.geglu`: both halves in one product, then one pass."""
    if x.dtype not in _TYPES:
        return reference.geglu(x, weight, bias)
    return _geglu(reference.linear(x, weight), bias)


def silu(x: Tensor) -> Tensor:
    """`reference.silu` in one pass."""
    return _silu(x) if x.dtype in _TYPES else reference.silu(x)


def add_per_channel(x: Tensor, values: Tensor) -> Tensor:
    """`reference.add_per_channel` without the broadcast's own arithmetic of places."""
    return _add_per_channel(x, values) if x.dtype in _TYPES else reference.add_per_channel(x, values)


def add_to_tokens(x: Tensor, values: Tensor) -> Tensor:
    """`reference.add_to_tokens`, likewise."""
    if x.dtype not in _TYPES or x.ndim != 3 or values.shape[:2] != (x.shape[0], 1):
        return reference.add_to_tokens(x, values)
    return _add_to_tokens(x, values)


def mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """`reference.mix` in one pass instead of three, where there is one share for all."""
    if first.dtype not in _TYPES or share.size != 1:
        return reference.mix(first, second, share)
    return _mix(first, second, share)


def upsample_nearest(x: Tensor) -> Tensor:
    """`reference.upsample_nearest` in one pass."""
    return _upsample(x) if x.dtype in _TYPES else reference.upsample_nearest(x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`reference.layer_norm` in one kernel."""
    if x.dtype not in _TYPES or weight.dtype != ms.float32:
        return reference.layer_norm(x, weight, bias, eps)
    return _layer_norm(x, weight, bias, constant(eps))


def _by_group(kernel: Callable, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """The kernel takes the number of groups from the shape."""
    b, c = x.shape[:2]
    return kernel(x.reshape(b, groups, c // groups, -1), weight, bias, constant(eps))[0].reshape(x.shape)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """`reference.group_norm` in two kernels, each over many parts of a group at once."""
    if x.dtype not in _TYPES or weight.dtype != ms.float32:
        return reference.group_norm(x, weight, bias, groups, eps)
    return _by_group(_group_norm, x, weight, bias, groups, eps)


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """`group_norm` and `silu` in the same pass."""
    if x.dtype not in _TYPES or weight.dtype != ms.float32:
        return reference.group_norm_silu(x, weight, bias, groups, eps)
    return _by_group(_group_norm_silu, x, weight, bias, groups, eps)
