"""float16 and bfloat16: which parameters get them, and where they are refused."""

import gzip
import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import image_to_video
import train
from gm.errors import UserError
from gm.model import load_model_config
from gm.ops import float32
from gm.precision import BFLOAT16, kept_narrow, level, needs_loss_scale, parameter_dtype, to_numpy
from gm.weights import Weights
from tests.untrained import CONFIG

MANIFEST = Path(__file__).resolve().parent / "reference" / "manifest_sgm.json.gz"
UNET = "model.diffusion_model.input_blocks.0.0.weight"


def rounded(values):
    """float32 values rounded to bfloat16: the upper 16 bits, to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


@pytest.fixture
def npu(monkeypatch):
    """An Ascend 910B, as far as precision looks at it."""
    monkeypatch.setattr("gm.ops.device", lambda: "Ascend")
    monkeypatch.setattr(float32, "ascend_chip", lambda: "ascend910b")


def test_levels(npu):
    assert [level("O0"), level("O2"), level("O2", "float16"), level("O2", "bfloat16")] == ["O0", "O2", "O2", BFLOAT16]
    assert [needs_loss_scale(name) for name in ("O0", "O2", BFLOAT16)] == [False, True, False]
    assert parameter_dtype(UNET, BFLOAT16) == ms.bfloat16
    assert parameter_dtype("first_stage_model.decoder.conv_in.weight", BFLOAT16) == ms.float32
    assert parameter_dtype("model.diffusion_model.out.0.weight", BFLOAT16) == ms.float32  # a norm


@pytest.mark.parametrize(
    ("amp_level", "dtype", "words"),
    [
        ("O0", "bfloat16", "belongs to amp_level O2"),
        ("O0", "float16", "float16 belongs to"),
        ("O2", "float8", "float8"),
        ("O1", "float16", "O1"),
    ],
)
def test_levels_that_do_not_exist(npu, amp_level, dtype, words):
    with pytest.raises(UserError, match=words):
        level(amp_level, dtype)


@pytest.mark.parametrize(
    ("device", "chip", "words"),
    [
        ("CPU", "", "no bfloat16 convolutions and products on CPUs"),
        ("GPU", "", "on GPUs"),
        ("Ascend", "ascend910", "910A has no bfloat16"),
    ],
)
def test_devices_without_bfloat16(monkeypatch, device, chip, words):
    monkeypatch.setattr("gm.ops.device", lambda: device)
    monkeypatch.setattr(float32, "ascend_chip", lambda: chip)
    with pytest.raises(UserError, match=f"{words}.*910B and later"):
        level("O2", "bfloat16")


def test_weights_are_rounded_to_bfloat16(untrained):
    """The host rounds them: no kernel of a device is needed."""
    cell = Weights(load_model_config(CONFIG), untrained).load("clip", BFLOAT16)
    exact = {p.name: p.asnumpy() for p in Weights(load_model_config(CONFIG), untrained).load("clip").get_parameters()}
    narrow = [p for p in cell.get_parameters() if p.dtype == ms.bfloat16]
    assert 0 < len(narrow) < len(exact)
    for p in cell.get_parameters():
        expected = rounded(exact[p.name]) if p.dtype == ms.bfloat16 else exact[p.name]
        np.testing.assert_array_equal(to_numpy(p), expected, err_msg=p.name)


def test_to_numpy_leaves_other_dtypes():
    assert to_numpy(Tensor(np.ones(2, np.float16))).dtype == np.float16
    assert to_numpy(Tensor([1.0, 3.0], ms.bfloat16)).tolist() == [1.0, 3.0]


def test_the_programs_refuse_it_here(tmp_path):
    arguments = ["--image=assets/demo.png", f"--output_dir={tmp_path}", "--device_target=CPU", "--dtype=bfloat16"]
    with pytest.raises(UserError, match="belongs to amp_level O2"):
        image_to_video.main(arguments)
    with pytest.raises(UserError, match="CPUs"):
        image_to_video.main([*arguments, "--amp_level=O2"])


def test_training_refuses_it_here(tmp_path):
    (tmp_path / "labels.csv").write_text("path,length,motion_bucket_id\n")
    with pytest.raises(UserError, match="CPUs"):
        train.main(
            [
                "--svd_config=configs/svd_tiny.yaml",
                "--train.pretrained=assets/svd_tiny.safetensors",
                f"--train.output_dir={tmp_path / 'run'}",
                "--environment.device_target=CPU",
                "--environment.mode=1",
                f"--train.dataset.init_args.data_dir={tmp_path}",
                "--train.amp_level=O2",
                "--train.dtype=bfloat16",
                f"--train.dataset.init_args.metadata={tmp_path / 'labels.csv'}",
            ]
        )


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


@pytest.mark.parametrize(
    "name, dtype",
    [
        ("conditioner.embedders.0.open_clip.model.visual.proj", ms.float16),
        ("conditioner.embedders.0.open_clip.model.visual.ln_post.bias", ms.float32),
        ("conditioner.embedders.0.open_clip.model.visual.transformer.resblocks.3.mlp.c_fc.weight", ms.float16),
    ],
)
def test_the_image_tower_is_float16_but_for_its_norms(name, dtype):
    assert parameter_dtype(name, "O2") == dtype


def test_other_levels_are_refused():
    with pytest.raises(UserError, match="O1"):
        parameter_dtype("x", "O1")


def test_only_weights_of_two_axes_or_more_stay_narrow():
    assert kept_narrow("a.weight", (3, 4)) and not kept_narrow("a.weight", (3,)) and not kept_narrow("a.bias", (3, 4))
