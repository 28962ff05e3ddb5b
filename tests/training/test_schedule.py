"""Learning rates and lengths of runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gm.training.schedule import learning_rate, total_steps


def rates(total=10, **options):
    schedule = SimpleNamespace(**{"name": "constant", "warmup_steps": 0, "end_factor": 0.0, **options})
    return [learning_rate(step, 2.0, schedule, total) for step in range(total)]


def test_constant():
    assert rates() == [2.0] * 10


def test_warmup_grows_linearly_and_reaches_the_peak():
    assert rates(warmup_steps=4) == pytest.approx([0.4, 0.8, 1.2, 1.6] + [2.0] * 6)


def test_cosine_ends_at_the_end_factor():
    found = rates(name="cosine", end_factor=0.1)
    assert found[0] == 2.0 and found[-1] == pytest.approx(0.2)
    assert found == sorted(found, reverse=True)
    assert found[3] == pytest.approx(0.2 + 1.8 * 0.75)  # cos(60 degrees) = 1/2


def test_cosine_starts_after_the_warmup():
    found = rates(name="cosine", warmup_steps=3)
    assert found[3] == 2.0 and found[-1] == pytest.approx(0.0)


@pytest.mark.parametrize("warmup", [9, 10, 20])
def test_a_warmup_as_long_as_the_run_is_no_division_by_zero(warmup):
    assert all(0 <= rate <= 2.0 for rate in rates(name="cosine", warmup_steps=warmup))


@pytest.mark.parametrize(
    "epochs, max_steps, clips, batch, accumulate, steps",
    [
        (1, None, 8, 1, 1, 8),
        (1, None, 8, 3, 1, 3),
        (2, None, 8, 2, 2, 4),
        (0.5, None, 8, 1, 1, 4),
        (9, 5, 8, 1, 1, 5),
        (0, None, 8, 1, 1, 0),
        (1.1, None, 10, 1, 1, 11),
        (1.1, None, 100, 11, 1, 10),
    ],
)
def test_steps_of_a_run(epochs, max_steps, clips, batch, accumulate, steps):
    assert total_steps(epochs, max_steps, clips, batch * accumulate) == steps


@pytest.mark.parametrize(
    "step, samples, batch, steps", [(6, 6, 2, 9), (3, 6, 1, 9), (2, 6, 4, 4), (12, 12, 1, 12), (14, 14, 3, 14)]
)
def test_a_resumed_run_shows_what_is_left_in_batches_of_its_own_size(step, samples, batch, steps):
    assert total_steps(4, None, 3, batch, step, samples) == steps
