"""What is trained, and sums of gradients."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from gm import ops
from gm.diffusion.loss import DiffusionLoss
from gm.errors import UserError
from gm.model import load_model_config
from gm.training.dry_run import trainable, trainable_counts
from gm.training.step import Clear, GradientSums, is_temporal, recompute_blocks, trainable_parameters
from gm.weights import Weights
from tests.near import difference

MANIFEST = Path(__file__).resolve().parents[1] / "reference" / "manifest_sgm.json.gz"
T = 3


def section(temporal_only):
    """Something like the section train."""
    return SimpleNamespace(temporal_only=temporal_only, lora=SimpleNamespace(rank=0))


@pytest.fixture(scope="module")
def shapes():
    with gzip.open(MANIFEST, "rt", encoding="utf-8") as file:
        return {name: tuple(shape) for name, shape in json.load(file).items()}


def test_the_temporal_layers_of_the_full_model(shapes):
    chosen = trainable(shapes, section(temporal_only=True))
    assert len(chosen) == 738 and sum(chosen.values()) == 656_076_838
    assert all(name.startswith("model.diffusion_model.") for name in chosen)


def test_the_whole_unet_of_the_full_model(shapes):
    unet = [math.prod(shape) for name, shape in shapes.items() if name.startswith("model.diffusion_model.")]
    counts = trainable_counts(shapes, section(temporal_only=False))
    assert sum(counts.values()) == sum(unet) == 1_524_623_082
    assert counts["input_blocks.0"] == 23_360 and counts["out"] == 12_164  # the specification's table


def load(model_path, checkpoint):
    return Weights(load_model_config(model_path), checkpoint).load("unet")


def draw(seed):
    random = np.random.default_rng(seed)
    shapes = (T, 4, 8, 8), (T, 4, 8, 8), (T,), (T, 4, 8, 8), (T, 1, 32), (T, 96)
    arrays = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    arrays[2] = np.full(T, np.exp(arrays[2][0]), np.float32)
    return [Tensor(array) for array in arrays]


def test_only_the_chosen_parameters_are_trained(pynative, model_path, checkpoint):
    denoiser = load(model_path, checkpoint)
    chosen = trainable_parameters(denoiser, True)
    assert chosen and all(is_temporal(name) for name in chosen)
    trained = {id(p) for p in chosen.values()}
    assert all(p.requires_grad == (id(p) in trained) for p in denoiser.get_parameters())
    every = trainable_parameters(denoiser, False)
    assert len(every) == len(list(denoiser.get_parameters())) > len(chosen)


def test_trained_parameters_do_not_write_to_the_checkpoint_s_map(pynative, model_path, checkpoint):
    weights = Weights(load_model_config(model_path), checkpoint)
    chosen = trainable_parameters(weights.load("unet"), False)
    name, p = next(iter(chosen.items()))
    before = np.array(weights.checkpoint.read(name))
    ms.ops.assign(p, p + 1)
    p.asnumpy()
    assert np.array_equal(weights.checkpoint.read(name), before)


class NoTemporal:
    @staticmethod
    def get_parameters():
        return ()


def test_a_model_without_temporal_layers_is_refused():
    with pytest.raises(UserError, match="no temporal layers"):
        trainable_parameters(NoTemporal, True)


def sums_of(cell, seeds, scale=1.0):
    for seed in seeds:
        cell(Tensor(np.float32(scale)), *draw(seed), T)
    return [np.array(total.asnumpy()) for total in cell.sums]


def make(model_path, checkpoint, recompute=False):
    denoiser = load(model_path, checkpoint)
    denoiser.set_train(True)
    if recompute:
        recompute_blocks(denoiser.unet)
    return GradientSums(DiffusionLoss(denoiser), trainable_parameters(denoiser, False))


def test_gradients_add_up_scale_and_clear(pynative, model_path, checkpoint):
    cell = make(model_path, checkpoint)
    clear = Clear(cell.sums)
    first = sums_of(cell, [1])
    clear()
    second = sums_of(cell, [2])
    clear()
    both = sums_of(cell, [1, 2])
    clear()
    scaled = sums_of(cell, [1], 8.0)
    assert difference([a + b for a, b in zip(first, second)], both) < 1e-5
    assert difference(scaled, [8 * a for a in first]) < 1e-5


def test_gradients_are_those_of_the_loss(pynative, model_path, checkpoint):
    """Against a difference quotient along a random direction of all weights."""
    cell = make(model_path, checkpoint)
    gradients = sums_of(cell, [1])
    weights = cell.weights
    random = np.random.default_rng(0)
    directions = [random.standard_normal(w.shape).astype(np.float32) for w in weights]
    start = [np.array(w.asnumpy()) for w in weights]
    values = []
    for sign in (1, -1):
        for w, s, d in zip(weights, start, directions):
            w.set_data(Tensor(s + np.float32(sign * 1e-3) * d))
        values.append(float(cell.loss(*draw(1), T).asnumpy().mean()))
    slope = sum(float((g.astype(np.float64) * d).sum()) for g, d in zip(gradients, directions))
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("mode", [pytest.param(ops.GRAPH_MODE, marks=pytest.mark.slow), ops.PYNATIVE_MODE])
def test_recomputed_blocks_give_the_same_gradients(model_path, checkpoint, mode):
    ops.set_device("CPU", mode)
    try:
        plain, again = (sums_of(make(model_path, checkpoint, flag), [1]) for flag in (False, True))
    finally:
        ops.set_device("CPU", ops.PYNATIVE_MODE)
    assert difference(again, plain) < 1e-6
