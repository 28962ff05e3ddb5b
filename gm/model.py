"""The parts of the model by name: their config sections, their place in a checkpoint, how they are built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

from mindspore import nn
from mindspore.nn.utils import no_init_parameters
from omegaconf import DictConfig, OmegaConf

from gm.config import Section, build, check, load_config
from gm.errors import UserError
from gm.networks.clip import ClipVision
from gm.networks.unet import VideoUNet
from gm.networks.vae import VaeDecoder, VaeEncoder


class Component(NamedTuple):
    """prefix: what the names of its parameters begin with in a checkpoint; build: function of the model's config."""

    prefix: str
    build: Callable


def _vae_section(model: DictConfig) -> dict[str, Any]:
    section: Any = OmegaConf.to_container(model.vae, resolve=True)
    section.pop("temporal_decoder")
    return section


def _first_stage_encoder(model: DictConfig) -> VaeEncoder:
    frame_wise = not model.vae.temporal_decoder
    return build(VaeEncoder, _vae_section(model), "model.vae", quant_conv=frame_wise)


def _decoder(model: DictConfig) -> VaeDecoder:
    return build(VaeDecoder, _vae_section(model), "model.vae", temporal=model.vae.temporal_decoder)


def _condition_encoder(model: DictConfig) -> VaeEncoder:
    return build(VaeEncoder, _vae_section(model), "model.vae", quant_conv=True)


COMPONENTS = {
    "unet": Component("model.diffusion_model.", lambda model: build(VideoUNet, model.unet, "model.unet")),
    "clip": Component(
        "conditioner.embedders.0.open_clip.model.visual.", lambda model: build(ClipVision, model.clip, "model.clip")
    ),
    "condition_encoder": Component("conditioner.embedders.3.encoder.", _condition_encoder),
    "decoder": Component("first_stage_model.", _decoder),
    # Only training encodes its targets with it.
    "first_stage_encoder": Component("first_stage_model.", _first_stage_encoder),
}


VAE = {
    "ch": "int", "ch_mult": "list[int]", "num_res_blocks": "int", "z_channels": "int", "temporal_decoder": "bool",
}
SCHEMA = {
    "model": {"unet": Section(VideoUNet), "vae": VAE, "clip": Section(ClipVision)},
    "sampling": {
        "height": "int", "width": "int", "num_frames": "int", "sampling_steps": "int", "min_guidance": "float",
        "max_guidance": "float", "fps": "float", "motion_bucket_id": "float", "noise_aug_strength": "float",
        "decode_chunk_size": "int", "sampler": "str",
    },
}


def load_model_config(path: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """The config of a model, checked against the networks' signatures before anything is built.

    Raises:
        UserError: every fault of the file at once.
    """
    config = load_config(path, overrides)
    check(config, SCHEMA, path)
    faults = _too_small(config.model) or _width_faults(config.model)
    if faults:
        raise UserError("\n  ".join([f"{path} is invalid:", *faults]))
    return config


def _width_faults(model: DictConfig) -> list[str]:
    """Faults that would surface deep inside a network."""
    faults = []
    unet, vae, clip = model.unet, model.vae, model.clip
    widths = {f"model.unet level {i}": unet.model_channels * m for i, m in enumerate(unet.channel_mult)}
    widths.update({f"model.vae level {i}": vae.ch * m for i, m in enumerate(vae.ch_mult)})
    faults += [f"{name} has {n} channels, not a multiple of the 32 norm groups" for name, n in widths.items() if n % 32]
    heads = {n for name, n in widths.items() if "unet" in name and n % unet.num_head_channels}
    if heads:
        faults.append(f"model.unet.num_head_channels {unet.num_head_channels} does not divide {sorted(heads)}")
    if unet.adm_in_channels % 3:
        faults.append(f"model.unet.adm_in_channels {unet.adm_in_channels} must be three equal embeddings")
    if unet.in_channels != 2 * vae.z_channels or unet.out_channels != vae.z_channels:
        faults.append("model.unet takes two latents: in_channels = 2 * out_channels = 2 * z_channels")
    if clip.embed_dim != unet.context_dim:
        faults.append(f"model.clip.embed_dim {clip.embed_dim} must be model.unet.context_dim {unet.context_dim}")
    if clip.width % clip.head_width or clip.image_size % clip.patch_size:
        faults.append("model.clip: head_width must divide width and patch_size must divide image_size")
    return faults


def _too_small(model: DictConfig) -> list[str]:
    """Faults of numbers that count something, and of lists that have a level in each place."""
    faults = []
    for part, section in model.items():
        for name, value in section.items():
            where = f"model.{part}.{name}"
            numbers = value if OmegaConf.is_list(value) else [value]
            faults += [f"{where}: {number} must be 1 or more" for number in numbers if not isinstance(number, bool)
                       and number < 1]
            if not numbers and name != "attention_resolutions":
                faults.append(f"{where}: must not be empty")
    return faults


def build_component(config: DictConfig, name: str) -> nn.Cell:
    """A component without values; its parameters carry their full checkpoint names."""
    component = COMPONENTS[name]
    # Without memory for the values: 9 GB of zeros for SVD, which a long-lived process really gets, page by page, when
    # its allocator hands out used memory again.
    with no_init_parameters():
        cell = component.build(config.model)
    for path, p in cell.parameters_and_names():
        p.name = component.prefix + path
    cell.set_train(False)
    return cell


def expected_parameters(config: DictConfig | str | Path) -> dict[str, tuple[int, ...]]:
    """{full name: shape} of every parameter of a model, from its config or the path of one."""
    loaded = load_model_config(config) if isinstance(config, (str, Path)) else config
    cells = (build_component(loaded, name) for name in COMPONENTS)
    return {p.name: tuple(p.shape) for cell in cells for p in cell.get_parameters()}
