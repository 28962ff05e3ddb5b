"""What a model's YAML file says: its networks, and how videos are sampled where nobody says otherwise. No mindspore
here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gm.config import load
from gm.options import Options
from gm.settings import Settings, option
from gm.sizes import LONGEST_SIDE


@dataclass(frozen=True)
class Unet(Settings):
    """Arguments of `gm.networks.unet.VideoUNet`."""

    in_channels: int = option("of noisy latents and of the conditioning latent", least=1)
    model_channels: int = option("channels of the widest level, of which channel_mult has multiples", least=1)
    out_channels: int = option("of latents", least=1)
    num_res_blocks: int = option("of a level", least=1)
    attention_resolutions: tuple[int, ...] = option("halvings (1, 2, 4 …) of the levels with transformers", least=1)
    channel_mult: tuple[int, ...] = option("channels of each level", least=1, filled=True)
    num_head_channels: int = option("of an attention's head", least=1)
    context_dim: int = option("width of the context tokens", least=1)
    adm_in_channels: int = option("width of the vector conditioning", least=1)


@dataclass(frozen=True)
class Vae(Settings):
    """Arguments of `gm.networks.vae.VaeEncoder` and `VaeDecoder`."""

    ch: int = option("channels of the largest level, of which ch_mult has multiples", least=1)
    ch_mult: tuple[int, ...] = option("channels of each level", least=1, filled=True)
    num_res_blocks: int = option("of a level", least=1)
    z_channels: int = option("of latents", least=1)
    temporal_decoder: bool = option("frames are decoded together, by layers over time")


@dataclass(frozen=True)
class Clip(Settings):
    """Arguments of `gm.networks.clip.ClipVision`."""

    image_size: int = option("pixels of a side", least=1)
    patch_size: int = option("pixels of a side", least=1)
    width: int = option("channels", least=1)
    layers: int = option("blocks", least=1)
    head_width: int = option("channels of an attention's head", least=1)
    mlp_ratio: float = option("inner width of a block as a multiple of width", least=1)
    embed_dim: int = option("width of the embedding", least=1)


@dataclass(frozen=True)
class Networks(Settings):
    unet: Unet
    vae: Vae
    clip: Clip

    def contradictions(self) -> Iterable[str]:
        """Faults that would surface deep inside a network."""
        unet, vae, clip = self.unet, self.vae, self.clip
        if 0 in (unet.num_head_channels, clip.head_width, clip.patch_size):  # which is told already
            return
        widths = {f"unet level {i}": unet.model_channels * m for i, m in enumerate(unet.channel_mult)}
        widths.update({f"vae level {i}": vae.ch * m for i, m in enumerate(vae.ch_mult)})
        for name, n in widths.items():
            if n % 32:
                yield f"{name} has {n} channels, not a multiple of the 32 norm groups"
        heads = {n for name, n in widths.items() if "unet" in name and n % unet.num_head_channels}
        if heads:
            yield f"unet.num_head_channels {unet.num_head_channels} does not divide {sorted(heads)}"
        if unet.adm_in_channels % 3:
            yield f"unet.adm_in_channels {unet.adm_in_channels} must be three equal embeddings"
        if unet.in_channels != 2 * vae.z_channels or unet.out_channels != vae.z_channels:
            yield "unet takes two latents: in_channels = 2 * out_channels = 2 * z_channels"
        if clip.embed_dim != unet.context_dim:
            yield f"clip.embed_dim {clip.embed_dim} must be unet.context_dim {unet.context_dim}"
        if clip.width % clip.head_width or clip.image_size % clip.patch_size:
            yield "clip: head_width must divide width and patch_size must divide image_size"


@dataclass(frozen=True)
class TrainedSize(Settings):
    height: int = option(
        "pixels; the size that the model was trained at, others give a warning", least=1, most=LONGEST_SIDE
    )
    width: int = option("pixels", least=1, most=LONGEST_SIDE)


@dataclass(frozen=True)
class Sampling(Options, TrainedSize):
    """The defaults of a model: `Options` and the size of its videos."""

    def options(self, **changes: Any) -> Options:
        """With changes; None leaves a value as it is. UserError for what cannot be."""
        return Options(**{name: getattr(self, name) for name in Options.__dataclass_fields__}).changed(**changes)


@dataclass(frozen=True)
class ModelConfig(Settings):
    model: Networks
    sampling: Sampling


def load_model_config(path: str | Path, overrides: Sequence[str] = ()) -> ModelConfig:
    """The config of a model from its YAML file and `key.sub=value` overrides.

    Raises:
        UserError: every fault at once, before anything is built.
    """
    return load(ModelConfig, path, overrides)
