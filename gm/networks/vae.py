"""The VAE: encoder, frame-wise decoder and temporal decoder.

Original: sgm.modules.diffusionmodules.model (Encoder, Decoder) and sgm.modules.autoencoding.temporal_ae (VideoDecoder).
"""

from __future__ import annotations

from mindspore import Tensor, nn

from gm import ops
from gm.networks.layers import (
    Conv2d,
    GroupNorm,
    GroupNormSiLU,
    Identity,
    TemporalConv,
    Upsample,
    mix,
    parameter,
    to_frames,
    to_time_major,
)
from gm.networks.resblock import TemporalResBlock


class VaeResBlock(nn.Cell):
    """norm, SiLU, conv, norm, SiLU, conv, plus the input; no embedding; epsilon 1e-6."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = GroupNormSiLU(channels, 1e-6)
        self.conv1 = Conv2d(channels, out_channels)
        self.norm2 = GroupNormSiLU(out_channels, 1e-6)
        self.conv2 = Conv2d(out_channels, out_channels)
        same = channels == out_channels
        self.nin_shortcut = Identity() if same else Conv2d(channels, out_channels, kernel=1)

    def spatial(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) -> (n, c_out, h, w)."""
        y = self.conv1(self.norm1(x))
        return self.nin_shortcut(x) + self.conv2(self.norm2(y))

    def construct(self, x: Tensor, t: int | None = None) -> Tensor:
        return self.spatial(x)


class VaeVideoResBlock(VaeResBlock):
    """The same followed by a temporal ResBlock. sigmoid(mix_factor) weighs the temporal branch: not as in the UNet."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels)
        self.time_stack = TemporalResBlock(out_channels)
        self.mix_factor = parameter(1)

    def construct(self, x: Tensor, t: int | None = None) -> Tensor:
        """x (n, c, h, w) -> (n, c_out, h, w); t None: the frames are still images and skip the temporal branch."""
        x = self.spatial(x)
        if t is None:
            return x
        y = to_frames(self.time_stack(to_time_major(x, t)), x.shape[2], x.shape[3])
        return mix(y, x, self.mix_factor)


class VaeAttention(nn.Cell):
    """Single-head self-attention over the pixels of a frame; q, k, v and the output are 1x1 convolutions with bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, 1e-6)
        self.q = Conv2d(channels, channels, kernel=1)
        self.k = Conv2d(channels, channels, kernel=1)
        self.v = Conv2d(channels, channels, kernel=1)
        self.proj_out = Conv2d(channels, channels, kernel=1)

    def construct(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) -> (n, c, h, w)."""
        n, c, h, w = x.shape
        y = self.norm(x)
        q, k, v = self.q(y).reshape(n, c, h * w), self.k(y).reshape(n, c, h * w), self.v(y).reshape(n, c, h * w)
        return x + self.proj_out(ops.attention_over_pixels(q, k, v).reshape(n, c, h, w))


class VaeDownsample(nn.Cell):
    """3x3 convolution of stride 2; one row and column of zeros at the bottom and the right only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, stride=2, padding=(0, 1, 0, 1))

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Middle(nn.Cell):
    """ResBlock, attention, ResBlock at the lowest resolution."""

    def __init__(self, channels: int, resblock: type[VaeResBlock]) -> None:
        super().__init__()
        self.block_1 = resblock(channels, channels)
        self.attn_1 = VaeAttention(channels)
        self.block_2 = resblock(channels, channels)

    def construct(self, x: Tensor, t: int | None = None) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, t)), t)


class Level(nn.Cell):
    """The ResBlocks of one resolution, then a change of resolution (none at the last level)."""

    def __init__(
        self,
        blocks: list[VaeResBlock],
        downsample: VaeDownsample | None = None,
        upsample: Upsample | None = None,
    ) -> None:
        super().__init__()
        self.block = nn.CellList(blocks)
        if downsample is not None:
            self.downsample = downsample
        if upsample is not None:
            self.upsample = upsample
        self.resize = "down" if downsample is not None else "up" if upsample is not None else ""

    def construct(self, x: Tensor, t: int | None = None) -> Tensor:
        for block in self.block:
            x = block(x, t)
        if self.resize == "down":
            x = self.downsample(x)
        if self.resize == "up":
            x = self.upsample(x)
        return x


class Encoder(nn.Cell):
    """x (n, 3, 8h, 8w) in [-1, 1] -> (n, 2 * z_channels, h, w): mean and logarithm of the variance."""

    UPPER = ("down",)  # the parts of `upper` that have norms

    def __init__(self, ch: int, ch_mult: list[int], num_res_blocks: int, z_channels: int) -> None:
        super().__init__()
        self.conv_in = Conv2d(3, ch)
        levels, channels = [], ch
        for i, mult in enumerate(ch_mult):
            blocks = []
            for _ in range(num_res_blocks):
                blocks.append(VaeResBlock(channels, ch * mult))
                channels = ch * mult
            levels.append(Level(blocks, downsample=VaeDownsample(channels) if i < len(ch_mult) - 1 else None))
        self.down = nn.CellList(levels)
        self.mid = Middle(channels, VaeResBlock)
        self.norm_out = GroupNormSiLU(channels, 1e-6)
        self.conv_out = Conv2d(channels, 2 * z_channels)

    def construct(self, x: Tensor) -> Tensor:
        return self.lower(self.upper(x))

    def upper(self, x: Tensor, t: int | None = None) -> Tensor:
        """The part that shrinks: convolutions and norms. It does not look at t, which a decoder's needs."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return x

    def lower(self, x: Tensor) -> Tensor:
        """The part that attends to the whole picture, at the latents' resolution."""
        return self.conv_out(self.norm_out(self.mid(x)))


class TemporalOutput(Conv2d):
    """The last convolution of the temporal decoder, then a (3, 1, 1) one over the three colours."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels)
        self.time_mix_conv = TemporalConv(out_channels, out_channels)

    def construct(self, x: Tensor, t: int | None = None) -> Tensor:
        """x (n, c, h, w) -> (n, out_channels, h, w); t None: still images, without the temporal convolution."""
        x = ops.conv2d(x, ops.widened(self.weight, x), self.bias, 1, self.padding)
        if t is None:
            return x
        return to_frames(self.time_mix_conv(to_time_major(x, t)), x.shape[2], x.shape[3])


class ImageOutput(Conv2d):
    """The last convolution of the frame-wise decoder."""

    def construct(self, x: Tensor, t: int | None = None) -> Tensor:
        return ops.conv2d(x, ops.widened(self.weight, x), self.bias, 1, self.padding)


class ImageDecoder(nn.Cell):
    """z (n, z_channels, h, w) -> (n, 3, 8h, 8w) in about [-1, 1], not clamped; every frame by itself."""

    resblock: type[VaeResBlock] = VaeResBlock
    output: type[Conv2d] = ImageOutput
    UPPER = ("up", "norm_out")  # the parts of `upper` that have norms

    def __init__(self, ch: int, ch_mult: list[int], num_res_blocks: int, z_channels: int) -> None:
        super().__init__()
        channels = ch * ch_mult[-1]
        self.conv_in = Conv2d(z_channels, channels)
        self.mid = Middle(channels, self.resblock)
        levels: list[Level] = []
        for i, mult in reversed(list(enumerate(ch_mult))):
            blocks = []
            for _ in range(num_res_blocks + 1):
                blocks.append(self.resblock(channels, ch * mult))
                channels = ch * mult
            levels.insert(0, Level(blocks, upsample=Upsample(channels) if i else None))
        self.up = nn.CellList(levels)
        self.norm_out = GroupNormSiLU(channels, 1e-6)
        self.conv_out = self.output(channels, 3)

    def construct(self, z: Tensor, t: int | None = None) -> Tensor:
        """t: how many frames make a video. The frame-wise decoder does not look at it."""
        return self.upper(self.lower(z, t), t)

    def lower(self, z: Tensor, t: int | None) -> Tensor:
        """The part that attends to the whole picture, at the latents' resolution."""
        return self.mid(self.conv_in(z), t)

    def upper(self, x: Tensor, t: int | None) -> Tensor:
        """The part that enlarges: convolutions and norms."""
        for i in range(len(self.up)):
            x = self.up[len(self.up) - 1 - i](x, t)
        return self.conv_out(self.norm_out(x), t)


class VideoDecoder(ImageDecoder):
    """The decoder with temporal layers. Statistics and convolutions span the t frames given at once, so the result
    depends on how many that are. t None decodes still images."""

    resblock = VaeVideoResBlock
    output = TemporalOutput


class VaeEncoder(nn.Cell):
    """Encoder and, with quant_conv, the 1x1 convolution behind it: pixels -> moments (n, 2 * z_channels, h, w)."""

    def __init__(self, ch: int, ch_mult: list[int], num_res_blocks: int, z_channels: int, quant_conv: bool) -> None:
        super().__init__()
        self.encoder = Encoder(ch, ch_mult, num_res_blocks, z_channels)
        self.quant_conv = Conv2d(2 * z_channels, 2 * z_channels, kernel=1) if quant_conv else Identity()

    def construct(self, x: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(x))


class VaeDecoder(nn.Cell):
    """For frame-wise decoding the 1x1 post_quant_conv, then the decoder: latents (unscaled) -> pixels."""

    def __init__(self, ch: int, ch_mult: list[int], num_res_blocks: int, z_channels: int, temporal: bool) -> None:
        super().__init__()
        decoder = VideoDecoder if temporal else ImageDecoder
        self.post_quant_conv = Identity() if temporal else Conv2d(z_channels, z_channels, kernel=1)
        self.decoder = decoder(ch, ch_mult, num_res_blocks, z_channels)

    def construct(self, z: Tensor, t: int | None = None) -> Tensor:
        return self.decoder(self.post_quant_conv(z), t)
