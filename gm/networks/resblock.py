"""Residual blocks over space and time (original: sgm.modules.diffusionmodules.openaimodel / video_model)."""

from __future__ import annotations

from mindspore import Tensor, nn

from gm import ops
from gm.networks.layers import (
    Conv2d,
    GroupNormSiLU,
    Identity,
    Linear,
    Mixer,
    SiLU,
    TemporalConv,
    to_frames,
    to_time_major,
)


class ResBlock(nn.Cell):
    """Layers of: norm, SiLU, conv; plus the embedding; norm, SiLU, conv; plus the input (if need be through 1x1)."""

    conv: type[nn.Cell] = Conv2d

    def __init__(self, channels: int, emb_channels: int | None, out_channels: int) -> None:
        super().__init__()
        self.in_layers = nn.SequentialCell(GroupNormSiLU(channels, 1e-5), Identity(), self.conv(channels, out_channels))
        # VAE decoders have temporal ResBlocks without an embedding.
        self.emb_layers: nn.SequentialCell = (
            nn.SequentialCell(SiLU(), Linear(emb_channels, out_channels)) if emb_channels else None
        )
        self.out_layers = nn.SequentialCell(
            GroupNormSiLU(out_channels, 1e-5), Identity(), Identity(), self.conv(out_channels, out_channels)
        )
        same = channels == out_channels
        self.skip_connection = Identity() if same else Conv2d(channels, out_channels, kernel=1)

    def out(self, x: Tensor, added: Tensor | None) -> Tensor:
        """`out_layers`, whose norm adds the embedding on its way."""
        return self.out_layers[3](self.out_layers[0](x, added))


class TemporalResBlock(ResBlock):
    """The same with (3, 1, 1) convolutions and norms over all frames of a video; the channels stay."""

    conv = TemporalConv

    def __init__(self, channels: int, emb_channels: int | None = None) -> None:
        super().__init__(channels, emb_channels, channels)

    def construct(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """x (b, c, t, s), emb (n, e), n = b*t -> (b, c, t, s)."""
        added = None
        if emb is not None:
            b, c, t, _ = x.shape
            added = ops.transpose(self.emb_layers(emb).reshape(b, t, c), 0, 2, 1)
        return x + self.out(self.in_layers(x), added)


class VideoResBlock(ResBlock):
    """A ResBlock on every frame, then a temporal one on every video, mixed by a learned weight."""

    def __init__(self, channels: int, emb_channels: int, out_channels: int) -> None:
        super().__init__(channels, emb_channels, out_channels)
        self.time_stack = TemporalResBlock(out_channels, emb_channels)
        self.time_mixer = Mixer()

    def spatial(self, x: Tensor, emb: Tensor) -> Tensor:
        """The per-frame half: x (n, c, h, w), emb (n, e) -> (n, c_out, h, w)."""
        return self.skip_connection(x) + self.out(self.in_layers(x), self.emb_layers(emb))

    def construct(self, x: Tensor, emb: Tensor, t: int, image_only: Tensor | None = None) -> Tensor:
        """x (n, c, h, w), emb (n, e), image_only None or (n,) -> (n, c_out, h, w)."""
        x = self.spatial(x, emb)
        y = to_frames(self.time_stack(to_time_major(x, t), emb), x.shape[2], x.shape[3])
        return self.time_mixer(x, y, image_only)
