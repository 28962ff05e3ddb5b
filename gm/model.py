"""The parts of the model by name: their place in a checkpoint, how they are built."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, NamedTuple

from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from gm.model_config import ModelConfig, Networks, load_model_config
from gm.networks.clip import ClipVision
from gm.networks.unet import VideoUNet
from gm.networks.vae import VaeDecoder, VaeEncoder


class Component(NamedTuple):
    """prefix: what the names of its parameters begin with in a checkpoint; build: function of the networks'
    sizes."""

    prefix: str
    build: Callable[[Networks], Any]


def _vae(cell: Callable[..., Any], model: Networks, **more: bool) -> Any:
    return cell(**{name: value for name, value in vars(model.vae).items() if name != "temporal_decoder"}, **more)


COMPONENTS = {
    "unet": Component("model.diffusion_model.", lambda model: VideoUNet(**vars(model.unet))),
    "clip": Component("conditioner.embedders.0.open_clip.model.visual.", lambda model: ClipVision(**vars(model.clip))),
    "condition_encoder": Component(
        "conditioner.embedders.3.encoder.", lambda model: _vae(VaeEncoder, model, quant_conv=True)
    ),
    "decoder": Component(
        "first_stage_model.", lambda model: _vae(VaeDecoder, model, temporal=model.vae.temporal_decoder)
    ),
    # Only training encodes its targets with it.
    "first_stage_encoder": Component(
        "first_stage_model.", lambda model: _vae(VaeEncoder, model, quant_conv=not model.vae.temporal_decoder)
    ),
}


def build_component(config: ModelConfig, name: str) -> nn.Cell:
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


def expected_parameters(config: ModelConfig | str | Path) -> dict[str, tuple[int, ...]]:
    """{full name: shape} of every parameter of a model, from its config or the path of one."""
    loaded = load_model_config(config) if isinstance(config, (str, Path)) else config
    cells = (build_component(loaded, name) for name in COMPONENTS)
    return {p.name: tuple(p.shape) for cell in cells for p in cell.get_parameters()}
