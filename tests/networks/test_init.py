"""Initial values, against PyTorch's documented defaults and the original's zeros."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from gm.model import COMPONENTS, build_component, load_model_config
from gm.networks.init import initial_values, initialize

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config():
    return load_model_config(ROOT / "configs" / "svd_untrained.yaml")


def values(config, component, seed=0):
    cell = initialize(build_component(config, component), seed)
    return {p.name: p.asnumpy() for p in cell.get_parameters()}


def full_size_shapes(prefix):
    with gzip.open(ROOT / "tests" / "reference" / "manifest_sgm.json.gz", "rt", encoding="utf-8") as file:
        return {name: tuple(shape) for name, shape in json.load(file).items() if name.startswith(prefix)}


def is_zero(name, shapes):
    small = {key: tuple(min(n, 8) for n in shape) for key, shape in shapes.items()}
    return not initial_values(name, small, 0).any()


def test_zeros_of_the_full_unet():
    prefix = COMPONENTS["unet"].prefix
    shapes = full_size_shapes(prefix)
    zeros = {name for name in shapes if is_zero(name, shapes)}
    norm_biases = {n for n in shapes if n.endswith(".bias") and len(shapes[n[:-4] + "weight"]) == 1}
    weights = {name[len(prefix) :] for name in zeros - norm_biases if name.endswith(".weight")}
    # 22 ResBlocks with a spatial and a temporal half, 16 transformers and the last convolution
    assert sum(name.endswith("time_stack.out_layers.3.weight") for name in weights) == 22
    assert sum(name.endswith(".out_layers.3.weight") for name in weights) == 44
    assert sum(name.endswith(".proj_out.weight") for name in weights) == 16
    assert "out.2.weight" in weights and len(weights) == 61
    assert {name[:-6] + "bias" for name in weights} == {n[len(prefix) :] for n in zeros - norm_biases} - weights


@pytest.mark.parametrize("component", COMPONENTS)
def test_no_zero_weight_elsewhere_but_in_the_decoders_temporal_blocks(config, component):
    found = values(config, component)
    zero = [name for name, value in found.items() if name.endswith("weight") and not value.any()]
    if component == "decoder":
        assert zero == [name for name in found if name.endswith("time_stack.out_layers.3.weight")] != []
    else:
        assert bool(zero) is (component == "unet")
    assert found and all(np.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("component, expected", [("unet", 0.5), ("decoder", 0.0)])
def test_mix_factors(config, component, expected):
    factors = [value for name, value in values(config, component).items() if name.endswith("mix_factor")]
    assert factors and all(value == [np.float32(expected)] for value in factors)


@pytest.mark.parametrize(
    "name, fan_in",
    [
        ("model.diffusion_model.time_embed.2.weight", 1280),
        ("model.diffusion_model.time_embed.2.bias", 1280),
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight", 320 * 9),
        ("model.diffusion_model.input_blocks.1.0.time_stack.in_layers.2.weight", 320 * 3),
        ("model.diffusion_model.input_blocks.1.0.time_stack.in_layers.2.bias", 320 * 3),
    ],
)
def test_layers_are_uniform_up_to_one_over_the_root_of_fan_in(name, fan_in):
    found = initial_values(name, full_size_shapes(COMPONENTS["unet"].prefix), 3)
    bound = 1 / math.sqrt(fan_in)
    assert 0.97 * bound < np.abs(found).max() <= bound * (1 + 1e-6)
    assert abs(found.std() - bound / math.sqrt(3)) < 0.05 * bound
    assert abs(found.mean()) < 0.1 * bound


def test_norms_are_one_and_zero(config):
    found = values(config, "clip")
    prefix = COMPONENTS["clip"].prefix
    assert (found[f"{prefix}ln_pre.weight"] == 1).all() and (found[f"{prefix}ln_pre.bias"] == 0).all()
    unet = values(config, "unet")
    assert (unet["model.diffusion_model.out.0.weight"] == 1).all()


def test_clip_embeddings_are_normal():
    prefix = COMPONENTS["clip"].prefix
    shapes = full_size_shapes(prefix)
    for name in ("positional_embedding", "proj"):
        found = initial_values(prefix + name, shapes, 0)
        assert abs(found.std() * math.sqrt(1280) - 1) < 0.02
        assert np.abs(found).max() > 3 / math.sqrt(1280)  # not uniform
    block = f"{prefix}transformer.resblocks.0.attn."
    bound = math.sqrt(6 / (4 * 1280))
    assert 0.99 * bound < np.abs(initial_values(f"{block}in_proj_weight", shapes, 0)).max() <= bound * (1 + 1e-6)
    assert not initial_values(f"{block}in_proj_bias", shapes, 0).any()


def test_a_parameter_depends_on_its_name_and_the_seed_alone(config):
    first, again, other = values(config, "unet", 1), values(config, "unet", 1), values(config, "unet", 2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    a, b = (f"model.diffusion_model.input_blocks.{i}.0.in_layers.2.weight" for i in (1, 3))
    assert not np.array_equal(first[a], other[a])
    assert not np.array_equal(first[a].ravel()[:50], first[b].ravel()[:50])
    alone = initial_values(a, {a: first[a].shape}, 1)
    assert np.array_equal(alone, first[a])
