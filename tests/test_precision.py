"""Which parameters are float16 under --amp_level=O2."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import mindspore as ms
import pytest

from gm.errors import UserError
from gm.precision import kept_narrow, parameter_dtype

MANIFEST = Path(__file__).resolve().parent / "reference" / "manifest_sgm.json.gz"


def test_norms_mix_factors_and_the_vae_stay_float32():
    with gzip.open(MANIFEST, "rt", encoding="utf-8") as file:
        shapes = {name: tuple(shape) for name, shape in json.load(file).items()}
    unet = {name: shape for name, shape in shapes.items() if name.startswith("model.diffusion_model.")}
    wide = {name for name in unet if parameter_dtype(name, "O2") == ms.float32}
    # In the UNet all weights of one axis are norms', and of the biases those whose weight has one axis.
    norms = {name for name, shape in unet.items() if name.endswith(".weight") and len(shape) == 1}
    norms |= {name[: -len("weight")] + "bias" for name in norms}
    mix = {name for name in unet if name.endswith("mix_factor")}
    assert wide == norms | mix and len(mix) > 20 and len(norms) > 100
    vae = [name for name in shapes if name.startswith(("first_stage_model.", "conditioner.embedders.3."))]
    assert vae and {parameter_dtype(name, "O2") for name in vae} == {ms.float32}
    assert {parameter_dtype(name, "O0") for name in shapes} == {ms.float32}


@pytest.mark.parametrize("name, dtype", [
    ("conditioner.embedders.0.open_clip.model.visual.proj", ms.float16),
    ("conditioner.embedders.0.open_clip.model.visual.ln_post.bias", ms.float32),
    ("conditioner.embedders.0.open_clip.model.visual.transformer.resblocks.3.mlp.c_fc.weight", ms.float16),
])
def test_the_image_tower_is_float16_but_for_its_norms(name, dtype):
    assert parameter_dtype(name, "O2") == dtype


def test_other_levels_are_refused():
    with pytest.raises(UserError, match="O1"):
        parameter_dtype("x", "O1")


def test_only_weights_of_two_axes_or_more_stay_narrow():
    assert kept_narrow("a.weight", (3, 4)) and not kept_narrow("a.weight", (3,)) and not kept_narrow("a.bias", (3, 4))
