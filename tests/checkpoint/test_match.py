from pathlib import Path

import numpy as np
import pytest

from gm.checkpoint.match import match
from gm.errors import UserError

UNET = "model.diffusion_model.out.0."
UNUSED = "conditioner.embedders.0.open_clip.model.ln_final.weight"


class FakeCheckpoint:
    """Names, shapes and types only: all that `match` looks at."""

    path = Path("fake.safetensors")
    description, metadata = "", {}

    def __init__(self, shapes, dtypes=None):
        self.shapes = shapes
        self.dtypes = dtypes or {}

    def names(self):
        return list(self.shapes)

    def shape(self, name):
        return self.shapes[name]

    def dtype(self, name):
        return np.dtype(self.dtypes.get(name, np.float32))


def refusal(shapes, expected, dtypes=None):
    with pytest.raises(UserError) as caught:
        match(FakeCheckpoint(shapes, dtypes), expected)
    return str(caught.value)


def test_original_and_renamed_keys_are_found_and_unused_ones_left():
    shapes = {UNET + "gamma": (32,), UNET + "bias": (32,), UNUSED: (7,)}
    expected = {UNET + "weight": (32,), UNET + "bias": (32,)}
    assert match(FakeCheckpoint(shapes), expected) == {UNET + "weight": UNET + "gamma", UNET + "bias": UNET + "bias"}


def test_a_key_on_the_unused_list_is_used_if_the_model_has_it():
    assert match(FakeCheckpoint({UNUSED: (7,)}), {UNUSED: (7,)}) == {UNUSED: UNUSED}


def test_all_faults_come_in_one_message():
    right = {f"{UNET}{i}": (1,) for i in range(9)}
    shapes = {**right, UNET + "weight": (32,), "x.a": (1, 3), "x.b": (3,), "surprise": (1,)}
    expected = {**right, UNET + "weight": (32,), "x.a": (3, 1), "x.b": (3,), "lost.one": (2,), "lost.two": (2,)}
    message = refusal(shapes, expected, {"x.b": np.int8})
    assert "2 keys missing:\n  lost.one\n  lost.two" in message
    assert "1 key unexpected:\n  surprise" in message
    assert "1 key of the wrong shape:\n  x.a: (1, 3), the model has (3, 1)" in message
    assert "1 key not floating-point:\n  x.b: int8" in message
    assert str(FakeCheckpoint.path) in message


def test_long_lists_are_cut_with_a_count():
    expected = {f"k.{index}": (1,) for index in range(50)}
    message = refusal({"k.0": (1,)}, expected)
    assert "49 keys missing" in message and "  k.20\n" in message and "k.21" not in message
    assert "… and 29 more" in message


def test_two_keys_for_one_parameter_are_refused():
    message = refusal({UNET + "gamma": (32,), UNET + "weight": (32,)}, {UNET + "weight": (32,)})
    assert f"1 key there more than once:\n  {UNET}gamma and {UNET}weight" in message


VIDEO = "first_stage_model.decoder.conv_out.time_mix_conv.weight"
COMFYUI = "conditioner.embedders.0.open_clip.model.visual.vision_model.encoder.layers.0.mlp.fc1.bias"
IMAGE = "first_stage_model.quant_conv.weight"


@pytest.mark.parametrize(
    "shapes, expected, hint",
    [
        ({UNET + "bias": (1,), IMAGE: (1,)}, {UNET + "bias": (1,), VIDEO: (1,)}, "configs/svd_image_decoder.yaml"),
        ({UNET + "bias": (1,), VIDEO: (1,)}, {UNET + "bias": (1,), IMAGE: (1,)}, "configs/svd.yaml"),
        ({"unet.a.to_q.lora_A.weight": (1,)}, {UNET + "bias": (1,)}, "This is a LoRA"),
        ({"lora_unet_a_to_q.lora_down.weight": (1,)}, {UNET + "bias": (1,)}, "This is a LoRA"),
        ({UNET + "bias": (1,), "optimizer.state": ()}, {UNET + "bias": (1,)}, "extras of a training run"),
        ({"double_blocks.0.img_attn.qkv.weight": (1,)}, {UNET + "bias": (1,)}, "a model of another kind"),
        ({UNET + "bias": (1,), COMFYUI: (1,)}, {UNET + "bias": (1,)}, "saved by ComfyUI"),
        ({UNET + "bias": (1,)}, {UNET + "bias": (1,), VIDEO: (1,)}, "holds the UNet without the VAE"),
        ({UNET + "bias": (64,)}, {UNET + "bias": (320,)}, "is the config the right one"),
        ({"bert.pooler.bias": (1,)}, {UNET + "bias": (1,)}, "not an SVD checkpoint"),
    ],
)
def test_the_pattern_of_faults_gives_a_hint(shapes, expected, hint):
    message = refusal(shapes, expected)
    hints = (
        "svd_image_decoder.yaml",
        "configs/svd.yaml",
        "is a LoRA",
        "extras of",
        "not an SVD checkpoint",
        "another kind",
        "ComfyUI",
        "without the VAE",
        "is the config",
    )
    assert hint in message
    assert sum(text in message for text in hints) == 1


def test_a_single_missing_key_gives_no_hint():
    shapes = {UNET + "bias": (1,)}
    message = refusal(shapes, {**shapes, UNET + "weight": (1,)})
    assert message == f"fake.safetensors does not fit the model:\n1 key missing:\n  {UNET}weight"
