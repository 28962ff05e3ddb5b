"""What a model's YAML file says: its networks, and how videos are sampled where nobody says otherwise. No mindspore
here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gm.config import load
from gm.options import Options
from gm.settings import Settings, count, option, those_of
from gm.sizes import LONGEST_SIDE


@dataclass(frozen=True)
class Unet(Settings):
    """Arguments of `gm.networks.unet.VideoUNet`."""

    in_channels: int = count("of noisy latents and of the conditioning latent")
    model_channels: int = count("channels of the widest level, of which channel_mult has multiples")
    out_channels: int = count("of latents")
    num_res_blocks: int = count("of a level")
    attention_resolutions: tuple[int, ...] = count("halvings (1, 2, 4 …) of the levels with transformers")
    channel_mult: tuple[int, ...] = count("channels of each level", filled=True)
    num_head_channels: int = count("of an attention's head")
    context_dim: int = count("width of the context tokens")
    adm_in_channels: int = count("width of the vector conditioning")


@dataclass(frozen=True)
class Vae(Settings):
    """Arguments of `gm.networks.vae.VaeEncoder` and `VaeDecoder`."""

    ch: int = count("channels of the largest level, of which ch_mult has multiples")
    ch_mult: tuple[int, ...] = count("channels of each level", filled=True)
    num_res_blocks: int = count("of a level")
    z_channels: int = count("of latents")
    temporal_decoder: bool = option("frames are decoded together, by layers over time")


@dataclass(frozen=True)
class Clip(Settings):
    """Arguments of `gm.networks.clip.ClipVision`."""

    image_size: int = count("pixels of a side")
    patch_size: int = count("pixels of a side")
    width: int = count("channels")
    layers: int = count("blocks")
    head_width: int = count("channels of an attention's head")
    mlp_ratio: float = option("inner width of a block as a multiple of width", least=1)
    embed_dim: int = count("width of the embedding")


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
    height: int = count("pixels; the size that the model was trained at, others give a warning", most=LONGEST_SIDE)
    width: int = count("pixels", most=LONGEST_SIDE)


@dataclass(frozen=True)
class Sampling(Options, TrainedSize):
    """The defaults of a model: `Options` and the size of its videos."""

    def options(self, **changes: Any) -> Options:
        """With changes; None leaves a value as it is. UserError for what cannot be."""
        return Options(**those_of(Options, vars(self))).changed(**changes)


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
