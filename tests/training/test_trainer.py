"""The bookkeeping of a step, with an optimizer that only says how long the gradient was."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from gm.errors import UserError
from gm.training.loss_scale import LossScale
from gm.training.trainer import Trainer


class Optimizer:
    def __init__(self, norms):
        self.norms, self.calls, self.updates = iter(norms), [], 0

    def step(self, rate, divisor):
        self.calls.append((rate, divisor))
        norm = next(self.norms)
        self.updates += math.isfinite(norm)
        return norm


class Ema:
    def __init__(self):
        self.seen = []

    def update(self, updates):
        self.seen.append(updates)


def make(norms):
    trainer = Trainer.__new__(Trainer)
    loader = SimpleNamespace(batch_size=5, workers=1, prefetch=1, max_failed_share=0.1)
    trainer.train = SimpleNamespace(optimizer=SimpleNamespace(accumulate=3), loader=loader)
    trainer.plan = SimpleNamespace(global_batch=5, clips_of_a_step=15, dataset=range(100))
    trainer.optimizer, trainer.ema = Optimizer(norms), Ema()
    trainer.loss_scale = LossScale(SimpleNamespace(initial=8.0, growth_steps=100), dynamic=True)
    trainer.state = SimpleNamespace(step=0, samples=0, skipped=0)
    trainer.skipped_in_a_row = 0
    return trainer


def test_a_step_without_an_update_is_counted_and_changes_no_mean():
    trainer = make([1.0, math.inf, math.nan, 2.0])
    assert [trainer.update(0.1 * n) for n in range(4)][3] == 2.0
    assert (trainer.state.step, trainer.state.skipped, trainer.skipped_in_a_row) == (4, 2, 0)
    assert trainer.ema.seen == [1, 2]
    # The sums are of 3 batches, each times the loss scale, which is halved after each step without an update.
    assert trainer.optimizer.calls == [(0.0, 24.0), (0.1, 24.0), (0.2, 12.0), (pytest.approx(0.3), 6.0)]


def test_too_many_in_a_row_end_the_run():
    trainer = make([math.inf] * 29 + [1.0] + [math.inf] * 30)
    for _ in range(59):
        trainer.update(0.1)
    with pytest.raises(UserError, match="step 60: the gradient was not finite 30 times in a row"):
        trainer.update(0.1)


def test_the_loader_goes_on_after_the_clips_that_were_shown():
    trainer = make([1.0, 1.0])
    for expected in (0, 3, 6):  # batches: three of five clips in a step
        assert trainer.loader().next_batch == expected and trainer.state.samples == 5 * expected
        if expected < 6:
            trainer.update(0.1)


def test_no_clip_is_left_out_where_the_batch_changes_several_times():
    """A place in the stream that is not a batch's beginning was kept, and the next change counted from it."""
    trainer, shown = make([1.0] * 9), set()
    trainer.train.optimizer.accumulate = 1
    for batch in (5, 3, 4):
        trainer.plan.global_batch = trainer.train.loader.batch_size = trainer.plan.clips_of_a_step = batch
        trainer.go_back_to_a_batch()
        loader = trainer.loader()
        assert loader.next_batch * batch == trainer.state.samples
        for number in range(loader.next_batch, loader.next_batch + 1):
            shown.update(loader.positions(number))
        trainer.update(0.1)
    assert shown == set(range(max(shown) + 1))
