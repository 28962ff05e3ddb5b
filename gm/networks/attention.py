"""Transformer parts of the UNet (original: sgm.modules.attention and sgm.modules.video_attention)."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn

from gm import ops
from gm.networks.embeddings import frequencies, sinusoidal_tensor
from gm.networks.layers import GroupNorm, Identity, LayerNorm, Linear, Mixer, SiLU


class Attention(nn.Cell):
    """Multi-head attention; q, k, v without bias, scale 1/sqrt(head size)."""

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__()
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(context_channels, channels, bias=False)
        self.to_v = Linear(context_channels, channels, bias=False)
        self.to_out = nn.SequentialCell(Linear(channels, channels), Identity())
        self.heads = heads

    def construct(self, x: Tensor, context: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """x (n, s, c), context (n, l, e) or None for self-attention -> (n, s, c), or (n, 1, c) where l = 1.

        residual (n, s, c): what the result of self-attention is added to.

        A softmax over one key is 1: with one context token every query gets the same to_out(to_v(context)), and q, k
        (and the norm in front of them) have no part in it.
        """
        if context is None:
            context = x
        elif context.shape[1] == 1:
            return self.to_out[0](self.to_v(context))
        y = ops.attention(self.to_q(x), self.to_k(context), self.to_v(context), self.heads)
        return self.to_out[0](y, residual)


class GEGLU(nn.Cell):
    """The projection of x (..., channels) to (..., 2 * inner), whose first half is multiplied by gelu of the second."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(channels, 2 * inner)


class FeedForward(nn.Cell):
    """residual + Linear(GEGLU(x)), inner width 4 * channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.SequentialCell(GEGLU(channels, 4 * channels), Identity(), Linear(4 * channels, channels))

    def construct(self, x: Tensor, residual: Tensor) -> Tensor:
        project, last = self.net[0].proj, self.net[2]
        wide, narrow = ops.widened(project.weight, x), ops.widened(last.weight, x)
        return ops.feed_forward(residual, x, wide, project.bias, narrow, last.bias, self.training)


class SpatialBlock(nn.Cell):
    """Self-attention, cross-attention and feed-forward within each frame, pre-norm."""

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels)
        self.attn1 = Attention(channels, channels, heads)
        self.norm2 = LayerNorm(channels)
        self.attn2 = Attention(channels, context_channels, heads)
        self.norm3 = LayerNorm(channels)
        self.ff = FeedForward(channels)

    def construct(self, x: Tensor, context: Tensor) -> Tensor:
        """x (n, s, c), context (n, l, e) -> (n, s, c)."""
        x = self.attn1(self.norm1(x), None, x)
        x = ops.add_to_tokens(x, self.attn2(self.norm2(x), context))
        return self.ff(self.norm3(x), x)


class TemporalBlock(SpatialBlock):
    """The same along time at every position, after one more feed-forward (the original's extra_ff_mix_layer)."""

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__(channels, context_channels, heads)
        self.norm_in = LayerNorm(channels)
        self.ff_in = FeedForward(channels)

    def construct(  # type: ignore[override]  # called where the kind is known; without frames it is nothing
        self,
        x: Tensor,
        context: Tensor,
        t: int,
    ) -> Tensor:
        """x (n, s, c), context (n, l, e) -> (n, s, c).

        Every position of a video attends to the context of the video's first frame, so the cross-attention takes all
        t * s queries of a video at once and needs no copy of the context for each position.
        """
        n, s, c = x.shape
        b = n // t
        x = ops.transpose(x.reshape(b, t, s, c), 0, 2, 1, 3).reshape(b * s, t, c)
        x = self.ff_in(self.norm_in(x), x)
        x = self.attn1(self.norm1(x), None, x)
        x = x.reshape(b, s * t, c)
        x = ops.add_to_tokens(x, self.attn2(self.norm2(x), context[::t]))
        x = self.ff(self.norm3(x), x)
        return ops.transpose(x.reshape(b, s, t, c), 0, 2, 1, 3).reshape(n, s, c)


class SpatialVideoTransformer(nn.Cell):
    """Transformer over space and time with a residual around it (GroupNorm epsilon 1e-6, unlike the ResBlocks').

    One block of each kind, as in every published SVD; lists of one, for the original's names.
    """

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = Linear(channels, channels)
        self.transformer_blocks = nn.CellList([SpatialBlock(channels, context_channels, heads)])
        self.time_stack = nn.CellList([TemporalBlock(channels, context_channels, heads)])
        self.time_pos_embed = nn.SequentialCell(Linear(channels, 4 * channels), SiLU(), Linear(4 * channels, channels))
        self.time_mixer = Mixer()
        self.proj_out = Linear(channels, channels)
        self.channels = channels
        self.frequencies = Tensor(frequencies(channels))

    def construct(self, x: Tensor, context: Tensor, t: int, image_only: Tensor | None = None) -> Tensor:
        """x (n, c, h, w), context (n, l, e), image_only None or (n,) -> (n, c, h, w)."""
        n, c, h, w = x.shape
        y = self.norm(x).reshape(n, c, h * w)
        y = ops.linear_to_tokens(y, ops.widened(self.proj_in.weight, x), self.proj_in.bias)
        # Frames are counted from 0 in every video, whatever its frame rate.
        frame = ops.tile(ops.arange(t), (n // t,)).astype(ms.float32)
        frame = sinusoidal_tensor(frame, self.frequencies, self.channels).astype(x.dtype)
        frame = self.time_pos_embed(frame).reshape(n, 1, c)
        y = self.transformer_blocks[0](y, context)
        y = self.time_mixer(y, self.time_stack[0](ops.add_to_tokens(y, frame), context, t), image_only)
        weight, bias = ops.widened(self.proj_out.weight, x), self.proj_out.bias
        return ops.add_linear_to_channels(x.reshape(n, c, h * w), y, weight, bias).reshape(n, c, h, w)
