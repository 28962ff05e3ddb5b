"""The shipped configs give the original's parameters: every name and shape, and the published counts."""

import gzip
import json
import math
from pathlib import Path

import pytest

from gm.checkpoint.rules import unused_reason
from gm.errors import UserError
from gm.model import expected_parameters, load_model_config
from gm.options import Options
from gm.sizes import size_multiple

ROOT = Path(__file__).resolve().parent.parent
VIDEO = ("svd", "svd_xt", "svd_xt_1_1")
FRAME_WISE = ("svd_image_decoder", "svd_xt_image_decoder")


def manifest(name):
    with gzip.open(ROOT / "tests" / "reference" / f"manifest_{name}.json.gz", "rt") as file:
        return {key: tuple(shape) for key, shape in json.load(file).items()}


def published(version):
    """Every key of a published checkpoint with its shape."""
    keys = manifest("sgm")
    if version in FRAME_WISE:
        keys = {key: shape for key, shape in keys.items() if not key.startswith("first_stage_model.")}
        keys.update(manifest("image_decoder"))
    return keys


def count(shapes):
    return sum(math.prod(shape) for shape in shapes)


@pytest.mark.parametrize("version", VIDEO + FRAME_WISE)
def test_parameters_are_the_published_ones(version):
    keys = published(version)
    expected = expected_parameters(ROOT / "configs" / f"{version}.yaml")
    assert len(keys) == (2446 if version in VIDEO else 2322)
    assert expected == {key: shape for key, shape in keys.items() if unused_reason(key) is None}


def test_parameter_counts():
    expected = expected_parameters(ROOT / "configs" / "svd.yaml")
    unused = {key: shape for key, shape in published("svd").items() if key not in expected}
    assert count(expected.values()) + count(unused.values()) == 2_389_819_785
    unet = {key: shape for key, shape in expected.items() if key.startswith("model.diffusion_model.")}
    assert count(unet.values()) == 1_524_623_082
    parts = (".time_stack.", ".time_pos_embed.", ".time_mixer.")
    temporal = {key: shape for key, shape in unet.items() if any(part in key for part in parts)}
    assert (len(temporal), count(temporal.values())) == (738, 656_076_838)
    assert count(s for k, s in expected.items() if ".visual." in k) == 632_076_800


@pytest.mark.parametrize(
    ("version", "frames", "steps", "low", "high"),
    [
        ("svd", 14, 25, 1.0, 2.5),
        ("svd_xt", 25, 30, 1.5, 3.0),
        ("svd_xt_1_1", 25, 30, 1.5, 3.0),
        ("svd_image_decoder", 14, 25, 1.0, 2.5),
        ("svd_xt_image_decoder", 25, 30, 1.5, 3.0),
    ],
)
def test_defaults_of_the_variants(version, frames, steps, low, high):
    config = load_model_config(ROOT / "configs" / f"{version}.yaml")
    s = config.sampling
    assert (s.num_frames, s.sampling_steps, s.min_guidance, s.max_guidance) == (frames, steps, low, high)
    assert (s.fps, s.motion_bucket_id, s.noise_aug_strength, s.decode_chunk_size) == (7, 127, 0.02, 14)
    assert config.model.vae.temporal_decoder == (version in VIDEO)
    assert size_multiple(config.model) == 64


def test_every_option_of_sampling_can_stand_in_the_file(tmp_path):
    given = {
        "schedule": "ays",
        "seed": 5,
        "cache_interval": 2,
        "guidance_shape": "triangle",
        "decode_tile": 64,
        "guidance_sigma_max": 3.5,
        "sampler": "heun",
    }
    options = load_model_config(write(tmp_path, f"sampling: {json.dumps(given)}")).sampling.options()
    assert type(options) is Options and given.items() <= vars(options).items()
    with pytest.raises(UserError, match="sampling.schedule 'linear': must be one of karras, ays"):
        load_model_config(write(tmp_path, "sampling: {schedule: linear}"))


def write(tmp_path, text):
    path = tmp_path / "model.yaml"
    path.write_text(f"base: {ROOT / 'configs' / 'svd_untrained.yaml'}\n{text}")
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model:\n  unet:\n    chanel_mult: [1, 2]\n", ["model.unet.chanel_mult", "channel_mult"]),
        ("model:\n  unet:\n    model_channels: wide\n", ["model.unet.model_channels", "wide"]),
        ("model:\n  unet:\n    model_channels: 48\n", ["48", "32 norm groups"]),
        ("model:\n  unet:\n    num_head_channels: 24\n", ["num_head_channels 24"]),
        ("model:\n  unet:\n    adm_in_channels: 100\n", ["adm_in_channels 100"]),
        ("model:\n  unet:\n    in_channels: 4\n", ["in_channels"]),
        ("model:\n  clip:\n    embed_dim: 64\n", ["embed_dim 64", "context_dim 32"]),
        ("model:\n  clip:\n    head_width: 24\n", ["head_width"]),
        ("sampling:\n  frames: 3\n", ["sampling.frames"]),
        (
            "model:\n  unet:\n    num_head_channels: 0\n    channel_mult: []\n",
            ["model.unet.num_head_channels 0", "model.unet.channel_mult []: must not be empty"],
        ),
        (
            "model:\n  vae:\n    ch_mult: [1, 0]\n    num_res_blocks: -1\n",
            ["model.vae.ch_mult [1, 0]", "model.vae.num_res_blocks -1"],
        ),
        ("model:\n  clip:\n    head_width: 0\n    layers: -3\n", ["model.clip.head_width 0", "model.clip.layers -3"]),
    ],
)
def test_faults_of_a_config_are_named(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        load_model_config(write(tmp_path, text))
    assert all(word in str(error.value) for word in words), error.value
