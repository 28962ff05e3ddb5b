"""Checkpoints of a run: everything is in them, and a damaged one is never taken."""

from __future__ import annotations

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from gm.errors import UserError
from gm.training.ema import Ema
from gm.training.loss_scale import LossScale
from gm.training.optimizer import AdamW
from gm.training.state import Damaged, TrainingState, checkpoints
from gm.training.step import zeros_like_each

SHAPES = {"u.weight": (3, 2), "u.bias": (3,)}


def make(seed, dtype=ms.float32, fixed=None):
    """A state in the middle of a run; all its numbers come from the seed."""
    random = np.random.default_rng(seed)
    values = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    parameters = {name: Parameter(Tensor(value, dtype), name=name) for name, value in values.items()}
    settings = SimpleNamespace(beta1=0.9, beta2=0.98, eps=1e-8, weight_decay=0.01, clip_norm=None, shard=False)
    optimizer = AdamW(parameters, zeros_like_each(parameters, "g"), settings, values.__getitem__)
    ema = Ema(list(SHAPES), optimizer.weights)
    for group in (*(moments.values() for moments in optimizer.moments.values()), ema.means):
        for p in group:
            p.set_data(Tensor(random.standard_normal(p.shape).astype(np.float32)))
    scale = LossScale(SimpleNamespace(initial=2.0**seed, growth_steps=10), dynamic=True)
    scale.good = seed
    state = TrainingState(optimizer, ema, scale, fixed or {"train.seed": 1}, {"train.epochs": seed})
    state.step, state.samples, state.skipped, optimizer.updates = 10 * seed, 20 * seed, seed, 9 * seed
    return state


def contents(state):
    o = state.optimizer
    groups = o.weights, *(moments.values() for moments in o.moments.values()), state.ema.means
    arrays = [p.asnumpy() for group in groups for p in group]
    numbers = state.step, state.samples, state.skipped, o.updates, state.loss_scale.scale, state.loss_scale.good
    return arrays, numbers


def assert_equal(a, b):
    (arrays, numbers), (others, other_numbers) = contents(a), contents(b)
    assert numbers == other_numbers
    assert len(arrays) == len(others) > 0 and all(np.array_equal(x, y) for x, y in zip(arrays, others))


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16])
def test_everything_comes_back(tmp_path, dtype):
    saved, other = make(3, dtype), make(4, dtype)
    path = saved.save(tmp_path, 2)
    other.load(path)
    assert_equal(saved, other)
    assert other.settings_before == {"train.epochs": 3} and other.settings == {"train.epochs": 4}
    for p, w in zip(other.optimizer.parameters.values(), other.optimizer.weights):
        assert np.array_equal(p.asnumpy(), w.asnumpy().astype(p.asnumpy().dtype))


def test_the_newest_is_loaded_and_only_the_last_are_kept(tmp_path):
    for seed in (1, 2, 12):
        make(seed).save(tmp_path, 2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000020.safetensors", "step-00000120.safetensors"]
    state = make(5)
    assert state.load_latest(tmp_path).name == "step-00000120.safetensors"
    assert_equal(state, make(12))


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, size, caplog):
    make(1).save(tmp_path, 3)
    path = make(2).save(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:size])
    state = make(5)
    assert state.load_latest(tmp_path).name == "step-00000010.safetensors"
    assert_equal(state, make(1))
    assert path.name in caplog.text
    with pytest.raises(UserError):
        state.load(path)


def zero_data(content):
    """As a power failure leaves it: the header is on the disk, the data is not."""
    start = 8 + int.from_bytes(content[:8], "little")
    return content[:start] + bytes(len(content) - start)


def other_record(content):
    start = content.index(b'{"format"')
    return content[:start] + b"[".ljust(len(content) - start)


DAMAGE = {
    "zeros": lambda content: bytes(len(content)),
    "zero data": zero_data,
    "a flipped byte": lambda content: (
        content[: content.index(b'{"format"') - 9] + b"\x7f" + content[content.index(b'{"format"') - 8 :]
    ),
    "no record": other_record,
    "a record without its numbers": lambda content: content.replace(b'"updates"', b'"UPDATES"'),
    "a record of other types": lambda content: content.replace(b'"step": 20', b'"step": []'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_inside_is_seen_and_nothing_taken(tmp_path, damage, caplog):
    make(1).save(tmp_path, 3)
    path = make(2).save(tmp_path, 3)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    state = make(5)
    with pytest.raises(Damaged):
        state.load(path)
    assert_equal(state, make(5))
    assert state.load_latest(tmp_path).name == "step-00000010.safetensors"
    assert_equal(state, make(1))
    assert path.name in caplog.text


def test_checkpoints_of_earlier_versions_are_read(tmp_path, monkeypatch):
    """They have neither checksums nor every fixed setting, and tell no settings."""
    saved = make(3, fixed={})
    record = saved._record
    monkeypatch.setattr(saved, "_record", lambda checksums: record({}))
    saved.settings = None
    state = make(4)
    state.load(saved.save(tmp_path, 1))
    assert_equal(state, make(3))


def test_the_folder_is_made_again_where_it_was_deleted(tmp_path):
    assert make(1).save(tmp_path / "run" / "checkpoints", 1).exists()


def test_size(tmp_path):
    state = make(1)
    assert 0 < state.save(tmp_path, 1).stat().st_size - state.size() < 3000


def test_damaged_checkpoints_of_later_steps_do_not_push_out_new_ones(tmp_path):
    for seed in (6, 8):
        make(seed).save(tmp_path, 2).write_bytes(b"cut")
    path = make(1).save(tmp_path, 1)
    assert path.exists() and make(5).load_latest(tmp_path) == path


def test_the_loss_scale_of_float32_is_not_taken_over_by_float16(tmp_path):
    saved, other = make(3), make(4)
    saved.loss_scale = LossScale(saved.loss_scale, dynamic=False)
    other.load(saved.save(tmp_path, 2))
    assert (other.loss_scale.scale, other.step) == (2.0**4, 30)


def test_no_checkpoint(tmp_path):
    assert make(1).load_latest(tmp_path) is None
    assert make(1).load_latest(tmp_path / "missing") is None


def test_where_none_is_whole_nothing_is_begun_anew(tmp_path):
    """The run's metrics and weights would be written over, and the disk may but be away for a moment."""
    for seed in (1, 2):
        path = make(seed).save(tmp_path, 2)
        path.write_bytes(path.read_bytes()[:-1])
    state = make(5)
    with pytest.raises(UserError, match=f"none of the checkpoints in {tmp_path} .* truncated"):
        state.load_latest(tmp_path)
    assert_equal(state, make(5))


def test_a_checkpoint_of_another_run_is_refused_and_nothing_changed(tmp_path):
    path = make(1, fixed={"train.seed": 1, "train.ema": True}).save(tmp_path, 1)
    state = make(2, fixed={"train.seed": 7, "train.ema": True})
    with pytest.raises(UserError, match="train.seed was 1 and is 7 now"):
        state.load(path)
    assert_equal(state, make(2))
    without = make(2)
    without.ema = None
    with pytest.raises(UserError, match="8 tensors, this run has 6"):
        without.load(path)


def test_weights_alone_are_no_training_checkpoint(tmp_path, checkpoint):
    with pytest.raises(UserError, match="not a training checkpoint"):
        make(1).load(checkpoint)
