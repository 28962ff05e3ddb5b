"""AdamW, clipping, overflow, float32 weights of a float16 network, running means: against NumPy in float64."""

from __future__ import annotations

import math
import os
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from gm import ops
from gm.training.ema import Ema, decay_after
from gm.training.loss_scale import LossScale
from gm.training.optimizer import AdamW, owners
from gm.training.step import zeros_like_each

SHAPES = {"a.weight": (5, 4), "a.bias": (5,), "conv.weight": (3, 2, 3, 1, 1), "m.mix_factor": (1,)}


@pytest.fixture(params=[ops.GRAPH_MODE, ops.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    ops.set_device("CPU", request.param)
    yield request.param
    ops.set_device("CPU", ops.PYNATIVE_MODE)


def settings(**changes):
    values = {"beta1": 0.9, "beta2": 0.98, "eps": 1e-8, "weight_decay": 0.1, "clip_norm": None, "shard": False}
    return SimpleNamespace(**{**values, **changes})


def make(random, dtype=ms.float32, **changes):
    values = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    parameters = {name: Parameter(Tensor(value, dtype), name=name) for name, value in values.items()}
    sums = zeros_like_each(parameters, "gradient")
    return values, AdamW(parameters, sums, settings(**changes), values.__getitem__)


def draw(random):
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def give(optimizer, gradients):
    for total, gradient in zip(optimizer.sums, gradients.values()):
        total.set_data(Tensor(gradient))


class Reference:
    """AdamW as torch.optim.AdamW's documentation writes it."""

    def __init__(self, values, options):
        self.w = {name: value.astype(np.float64) for name, value in values.items()}
        self.m = {name: 0.0 for name in values}
        self.v = {name: 0.0 for name in values}
        self.options, self.n = options, 0

    def step(self, rate, gradients):
        o, self.n = self.options, self.n + 1
        for name, g in gradients.items():
            g = g.astype(np.float64)
            self.w[name] *= 1 - rate * (o.weight_decay if len(SHAPES[name]) > 1 else 0)
            self.m[name] = o.beta1 * self.m[name] + (1 - o.beta1) * g
            self.v[name] = o.beta2 * self.v[name] + (1 - o.beta2) * g * g
            first, second = self.m[name] / (1 - o.beta1**self.n), self.v[name] / (1 - o.beta2**self.n)
            self.w[name] -= rate * first / (np.sqrt(second) + o.eps)


def difference(optimizer, reference):
    # NumPy's max, not Python's, which may pass over a NaN.
    return np.max([np.abs(w.asnumpy() - reference.w[name]).max() for name, w in zip(SHAPES, optimizer.weights)])


@pytest.mark.parametrize("eps", [1e-8, 0.3])
def test_updates_are_adamw_s(mode, eps):
    random = np.random.default_rng(0)
    values, optimizer = make(random, eps=eps)
    reference = Reference(values, settings(eps=eps))
    for step in range(5):
        gradients = draw(random)
        give(optimizer, {name: 6 * g for name, g in gradients.items()})
        norm = optimizer.step(0.02 * (step + 1), 6)
        reference.step(0.02 * (step + 1), gradients)
        squares = sum((g.astype(np.float64) ** 2).sum() for g in gradients.values())
        assert norm == pytest.approx(math.sqrt(squares), rel=1e-6)
        assert not any(total.asnumpy().any() for total in optimizer.sums)
    assert difference(optimizer, reference) < 2e-6
    assert reference.n == optimizer.updates == 5


def test_the_global_norm_is_clipped(mode):
    random = np.random.default_rng(1)
    values, optimizer = make(random, clip_norm=0.5, eps=0.3)  # a large eps: Adam alone hardly sees the gradient's size
    reference = Reference(values, settings(eps=0.3))
    for factor in (1.0, 1e-3):  # the second one is below the limit
        gradients = {name: factor * g for name, g in draw(random).items()}
        give(optimizer, gradients)
        norm = optimizer.step(0.1, 1)
        scale = min(1.0, 0.5 / norm)
        reference.step(0.1, {name: g * scale for name, g in gradients.items()})
    assert difference(optimizer, reference) < 2e-6


def test_without_an_update_no_graph_is_kept_from_there_on(monkeypatch):
    """What clears the sums would be found in the place of the update by a run that makes one."""
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    random = np.random.default_rng(0)
    _, optimizer = make(random)
    kept = []
    for name in ("_clear", "_apply"):
        monkeypatch.setattr(optimizer, name, lambda *_: kept.append("MS_COMPILER_CACHE_ENABLE" in os.environ))
    for value in (1, np.inf, 1):
        give(optimizer, {name: np.full(shape, value, np.float32) for name, shape in SHAPES.items()})
        optimizer.step(1e-3, 1.0)
    assert kept == [True, False, False]


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_an_overflow_changes_nothing(mode, bad):
    random = np.random.default_rng(2)
    values, optimizer = make(random)
    gradients = draw(random)
    gradients["a.bias"][2] = bad
    give(optimizer, gradients)
    assert not math.isfinite(optimizer.step(0.1, 1))
    assert optimizer.updates == 0
    assert all(np.array_equal(w.asnumpy(), values[name]) for name, w in zip(SHAPES, optimizer.weights))
    groups = *(moments.values() for moments in optimizer.moments.values()), optimizer.sums
    assert not any(p.asnumpy().any() for group in groups for p in group)


@pytest.mark.parametrize("form", ["usual", "plain"])
def test_no_graph_holds_zeros_as_large_as_the_sums(form):
    from mindspore.common.api import _cell_graph_executor

    ops.set_device("CPU", ops.GRAPH_MODE)
    if form == "plain":
        ops.bind(ops.choose("GPU", ops.version()))
    try:
        parameters = {"w": Parameter(Tensor(np.ones((512, 512), np.float32)), name="w")}
        optimizer = AdamW(parameters, zeros_like_each(parameters, "gradient"), settings())
        assert optimizer.step(1e-3, 1) == 0
        optimizer._clear()
    finally:
        ops.set_device("CPU", ops.PYNATIVE_MODE)
    cells = [*optimizer._squares, *optimizer._updates, *optimizer._clear._parts]
    compiled = [(cell, phase) for cell in cells for phase in cell.compile_cache]
    graphs = [_cell_graph_executor._get_func_graph_proto(*each, "mind_ir") for each in compiled]
    assert len(graphs) == len(cells) == 3
    assert max(map(len, graphs)) < 2**16  # the sums have 2**20 bytes


def test_a_float16_network_follows_float32_weights(mode):
    random = np.random.default_rng(3)
    values, optimizer = make(random, ms.float16)
    reference = Reference(values, settings())
    for _ in range(20):
        gradients = draw(random)
        give(optimizer, gradients)
        optimizer.step(1e-5, 1)  # below float16's resolution: only float32 weights can add such steps up
        reference.step(1e-5, gradients)
    assert difference(optimizer, reference) < 1e-6
    for p, w in zip(optimizer.parameters.values(), optimizer.weights):
        assert p.dtype == ms.float16 and w.dtype == ms.float32
        assert np.array_equal(p.asnumpy(), w.asnumpy().astype(np.float16))


def test_the_running_mean(mode):
    random = np.random.default_rng(4)
    values, optimizer = make(random)
    ema = Ema(list(SHAPES), optimizer.weights)
    expected = {name: value.astype(np.float64) for name, value in values.items()}
    for updates in range(1, 5):
        give(optimizer, draw(random))
        optimizer.step(0.1, 1)
        ema.update(updates)
        for name, w in zip(SHAPES, optimizer.weights):
            decay = (1 + updates) / (10 + updates)
            expected[name] = decay * expected[name] + (1 - decay) * w.asnumpy()
    assert all(np.allclose(p.asnumpy(), expected[name], rtol=0, atol=1e-6) for name, p in zip(SHAPES, ema.means))


def test_the_running_mean_s_decay_is_limited():
    assert decay_after(1) == 2 / 11 and decay_after(10**6) == 0.9999


def test_loss_scale_halves_and_doubles():
    scale = LossScale(SimpleNamespace(initial=8.0, growth_steps=3), dynamic=True)
    seen = []
    for overflow in (False, False, True, False, False, False, False):
        scale.update(overflow)
        seen.append(scale.scale)
    assert seen == [8, 8, 4, 4, 4, 8, 8]
    for _ in range(10):
        scale.update(True)
    assert scale.scale == 1
    largest = LossScale(SimpleNamespace(initial=2.0**24, growth_steps=1), dynamic=True)
    largest.update(False)
    assert largest.scale == 2.0**24


def test_float32_has_no_loss_scale():
    scale = LossScale(SimpleNamespace(initial=8.0, growth_steps=1), dynamic=False)
    scale.update(False)
    scale.update(True)
    assert scale.scale == 1


def test_weights_are_shared_out_evenly():
    sizes = [100, 1, 50, 50, 3, 96]
    found = owners(sizes, 3)
    loads = [sum(size for size, owner in zip(sizes, found) if owner == device) for device in range(3)]
    assert sum(loads) == sum(sizes) and loads == [100, 100, 100]
    assert owners(sizes, 1) == [0] * 6
