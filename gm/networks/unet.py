"""VideoUNet (original: sgm.modules.diffusionmodules.video_model.VideoUNet)."""

from __future__ import annotations

from mindspore import Tensor, nn

from gm import ops
from gm.networks.attention import SpatialVideoTransformer
from gm.networks.embeddings import frequencies, sinusoidal_tensor
from gm.networks.layers import Conv2d, GroupNormSiLU, Identity, Linear, SiLU, Upsample
from gm.networks.resblock import VideoResBlock


class Downsample(nn.Cell):
    """3x3 convolution of stride 2, padded symmetrically (the VAE's is not)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Conv2d(channels, channels, stride=2)

    def construct(self, x: Tensor) -> Tensor:
        return self.op(x)


class Stage(nn.Cell):
    """Layers one after the other, each given the inputs that its kind takes; parameters are named 0.…, 1.…"""

    def __init__(self, *layers: nn.Cell) -> None:
        super().__init__()
        for i, layer in enumerate(layers):
            self.insert_child_to_cell(str(i), layer)
        self.layers = layers
        self.kinds = tuple(
            "res"
            if isinstance(layer, VideoResBlock)
            else "transformer"
            if isinstance(layer, SpatialVideoTransformer)
            else "plain"
            for layer in layers
        )

    def construct(self, x: Tensor, emb: Tensor, context: Tensor, t: int, image_only: Tensor | None) -> Tensor:
        for layer, kind in zip(self.layers, self.kinds):
            if kind == "res":
                x = layer(x, emb, t, image_only)
            elif kind == "transformer":
                x = layer(x, context, t, image_only)
            else:
                x = layer(x)
        return x


class VideoUNet(nn.Cell):
    """Predicts F of the preconditioned denoiser.

    Args:
        in_channels: 4 channels of noisy latents and 4 of the conditioning latent.
        channel_mult: width of each level as a multiple of model_channels; each level halves h and w of the one above.
        attention_resolutions: downsampling factors (1, 2, 4 …) of the levels that have transformers.
        adm_in_channels: width of the vector conditioning (fps, motion bucket, noise augmentation).
        context_dim: width of the context tokens.
    """

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: list[int],
        channel_mult: list[int],
        num_head_channels: int,
        context_dim: int,
        adm_in_channels: int,
    ) -> None:
        super().__init__()
        emb = 4 * model_channels
        self.time_embed = nn.SequentialCell(Linear(model_channels, emb), SiLU(), Linear(emb, emb))
        self.label_emb = nn.SequentialCell(nn.SequentialCell(Linear(adm_in_channels, emb), SiLU(), Linear(emb, emb)))
        self.model_channels = model_channels
        self.frequencies = Tensor(frequencies(model_channels))

        def layers(channels: int, out: int, factor: int) -> list[nn.Cell]:
            """A ResBlock and, where the level has attention, a transformer."""
            block = [VideoResBlock(channels, emb, out)]
            if factor in attention_resolutions:
                block.append(SpatialVideoTransformer(out, context_dim, out // num_head_channels))
            return block

        channels, factor = model_channels, 1
        stages, skips = [Stage(Conv2d(in_channels, channels))], [channels]
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                stages.append(Stage(*layers(channels, mult * model_channels, factor)))
                channels = mult * model_channels
                skips.append(channels)
            if level != len(channel_mult) - 1:
                stages.append(Stage(Downsample(channels)))
                skips.append(channels)
                factor *= 2
        self.input_blocks = nn.CellList(stages)

        self.middle_block = Stage(
            VideoResBlock(channels, emb, channels),
            SpatialVideoTransformer(channels, context_dim, channels // num_head_channels),
            VideoResBlock(channels, emb, channels),
        )

        stages = []
        for level, mult in reversed(list(enumerate(channel_mult))):
            for i in range(num_res_blocks + 1):
                block = layers(channels + skips.pop(), mult * model_channels, factor)
                channels = mult * model_channels
                if level and i == num_res_blocks:
                    block.append(Upsample(channels))
                    factor //= 2
                stages.append(Stage(*block))
        self.output_blocks = nn.CellList(stages)
        self.out = nn.SequentialCell(GroupNormSiLU(channels, 1e-5), Identity(), Conv2d(channels, out_channels))

    @property
    def compile_phase(self) -> str | None:
        """The name of the graph that runs, set by MindSpore in every call. The 1750 cells inside take it over, which
        takes 7 ms: here only when it is another graph than in the call before."""
        return nn.Cell.compile_phase.fget(self)

    @compile_phase.setter
    def compile_phase(self, phase: str) -> None:
        if phase != self.compile_phase:
            nn.Cell.compile_phase.fset(self, phase)

    def construct(
        self,
        x: Tensor,
        c_noise: Tensor,
        context: Tensor,
        vector: Tensor,
        t: int,
        image_only: Tensor | None = None,
        deep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """F(x) for n = b*t frames.

        Args:
            x (n, in_channels, h, w): scaled noisy latents and conditioning latent; h and w multiples of 2**(levels-1).
            c_noise (n,): ln(sigma) / 4.
            context (n, l, context_dim); vector (n, adm_in_channels).
            t: frames of each video.
            image_only: None, or (n,) with 1 for frames that are still images, which ignore the temporal branches.
            deep: None, or what an earlier call returned as such: the blocks that made it are left out.

        Returns:
            (n, out_channels, h, w), in the dtype of the biases, to which the inputs are cast; and what the deep blocks
            gave, all but the first two and the last two: see `gm.diffusion.deepcache`.
        """
        dtype = self.out[2].bias.dtype
        emb = sinusoidal_tensor(c_noise, self.frequencies, self.model_channels).astype(dtype)
        emb = self.time_embed(emb) + self.label_emb(vector.astype(dtype))
        x, context = x.astype(dtype), context.astype(dtype)
        first = self.input_blocks[0](x, emb, context, t, image_only)
        second = self.input_blocks[1](first, emb, context, t, image_only)
        if deep is None:
            deep = self.inner(second, emb, context, t, image_only)
        x = self.output_blocks[-2](ops.cat((deep, second), 1), emb, context, t, image_only)
        x = self.output_blocks[-1](ops.cat((x, first), 1), emb, context, t, image_only)
        return self.out(x), deep

    def inner(self, x: Tensor, emb: Tensor, context: Tensor, t: int, image_only: Tensor | None) -> Tensor:
        """The deep blocks."""
        skips = ()
        for i in range(2, len(self.input_blocks)):
            x = self.input_blocks[i](x, emb, context, t, image_only)
            skips = skips + (x,)  # type: ignore[assignment]  # a tuple grows, as graph mode wants it
        x = self.middle_block(x, emb, context, t, image_only)
        for i in range(len(skips)):
            x = self.output_blocks[i](ops.cat((x, skips[-1 - i]), 1), emb, context, t, image_only)
        return x
