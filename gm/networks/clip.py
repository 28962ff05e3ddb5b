"""CLIP image tower (original: open_clip ViT-H/14, VisionTransformer)."""

from __future__ import annotations

from mindspore import Tensor, nn

from gm import ops
from gm.networks.layers import Conv2d, LayerNorm, Linear, parameter


class SelfAttention(nn.Cell):
    """Multi-head attention with one fused projection to q, k and v."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.in_proj_weight = parameter(3 * width, width)
        self.in_proj_bias = parameter(3 * width)
        self.out_proj = Linear(width, width)
        self.heads = heads

    def construct(self, x: Tensor, residual: Tensor) -> Tensor:
        """residual + the attention of x, both (n, s, width)."""
        q, k, v = ops.chunk(ops.linear(x, ops.widened(self.in_proj_weight, x), self.in_proj_bias), 3, -1)
        return self.out_proj(ops.attention(q, k, v, self.heads), residual)


class Mlp(nn.Cell):
    """residual + Linear(GELU(Linear(x))), the exact GELU (not QuickGELU)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.c_fc = Linear(width, inner)
        self.c_proj = Linear(inner, width)

    def construct(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.c_proj(ops.gelu(self.c_fc(x)), residual)


class ResidualAttentionBlock(nn.Cell):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def construct(self, x: Tensor) -> Tensor:
        x = self.attn(self.ln_1(x), x)
        return self.mlp(self.ln_2(x), x)


class Transformer(nn.Cell):
    """The stack of blocks; a cell of its own for the parameters' names."""

    def __init__(self, width: int, layers: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.resblocks = nn.CellList([ResidualAttentionBlock(width, heads, mlp_ratio) for _ in range(layers)])

    def construct(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class ClipVision(nn.Cell):
    """Preprocessed pixels (n, 3, image_size, image_size) -> embedding (n, embed_dim), not normalised."""

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        head_width: int,
        mlp_ratio: float,
        embed_dim: int,
    ) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, width, kernel=patch_size, stride=patch_size, padding=(0, 0, 0, 0), bias=False)
        self.class_embedding = parameter(width)
        self.positional_embedding = parameter((image_size // patch_size) ** 2 + 1, width)
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, width // head_width, mlp_ratio)
        self.ln_post = LayerNorm(width)
        self.proj = parameter(width, embed_dim)

    def construct(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = self.conv1(x.astype(self.class_embedding.dtype))
        x = ops.transpose(x.reshape(n, x.shape[1], -1), 0, 2, 1)
        token = ops.broadcast_to(self.class_embedding, (n, 1, x.shape[2]))
        x = ops.cat((token, x), 1) + self.positional_embedding
        x = self.ln_post(self.transformer(self.ln_pre(x)))
        return ops.matmul(x[:, 0], self.proj)
