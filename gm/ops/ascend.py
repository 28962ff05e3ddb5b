"""Forms for Ascend NPUs that other devices do not have. None of them was ever run by us on one.

What the flash kernel takes is from its docstring in mindspore 2.8.0: Atlas A2 and later (not the 910A), float16 and
bfloat16, head sizes that are multiples of 16 up to 512, at most 256 heads and a batch of at most 2048. SVD has heads of
64; its temporal attention at 576x1024 has a batch of 9216, which therefore goes in pieces.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from gm.ops import reference

_MOST_ROWS, _MOST_HEADS, _LARGEST_HEAD = 2048, 256, 512


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """`reference.attention` through the fused kernel, which holds no scores; float32 keeps the reference form."""
    head = q.shape[2] // heads
    if q.dtype not in (ms.float16, ms.bfloat16) or head % 16 or head > _LARGEST_HEAD or heads > _MOST_HEADS:
        return reference.attention(q, k, v, heads)
    if q.shape[0] <= _MOST_ROWS:
        return _flash(q, k, v, heads)
    rows = range(0, q.shape[0], _MOST_ROWS)
    return ops.cat(
        [_flash(q[i : i + _MOST_ROWS], k[i : i + _MOST_ROWS], v[i : i + _MOST_ROWS], heads) for i in rows], 0
    )


def _flash(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Layout BSH: (batch, tokens, heads * head size), which is how the linear layers leave them."""
    head = q.shape[2] // heads
    return ops.flash_attention_score(q, k, v, heads, scalar_value=head**-0.5, input_layout="BSH")


def silu(x: Tensor) -> Tensor:
    """`reference.silu` as one operator."""
    return ops.silu(x)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`reference.layer_norm` as one operator."""
    return ops.LayerNorm(-1, -1, eps)(x.astype(ms.float32), weight, bias)[0].astype(x.dtype)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """`reference.group_norm` as one operator."""
    return ops.group_norm(x.astype(ms.float32), groups, weight, bias, eps).astype(x.dtype)


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, added: Tensor | None = None
) -> Tensor:
    """`reference.group_norm_silu` of the two operators above."""
    x = x if added is None else reference.add_per_channel(x, added)
    return silu(group_norm(x, weight, bias, groups, eps))
