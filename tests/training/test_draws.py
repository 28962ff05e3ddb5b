"""Random numbers of a sample."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from gm.training.draws import held_out, kept, training_draws, validation_draws

LOSS = SimpleNamespace(p_mean=1.0, p_std=1.6, cond_aug_mean=-3.0, cond_aug_std=0.5, dropout=0.1)
SHAPES = (2, 4, 2, 2), (1, 3, 8, 8)


def many(count, **changes):
    loss = SimpleNamespace(**{**vars(LOSS), **changes})
    return [training_draws(3, position, loss, *SHAPES) for position in range(count)]


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b))


def test_a_sample_s_numbers_follow_from_seed_and_position():
    first = training_draws(1, 5, LOSS, *SHAPES)
    assert equal(first, training_draws(1, 5, LOSS, *SHAPES))
    assert not equal(first, training_draws(1, 6, LOSS, *SHAPES))
    assert not equal(first, training_draws(2, 5, LOSS, *SHAPES))
    assert not np.array_equal(first.posterior, first.noise)


def test_noise_levels_have_the_configured_distributions():
    draws = many(3000)
    sigma, aug = (np.log([getattr(d, name) for d in draws]) for name in ("sigma", "cond_aug"))
    assert abs(sigma.mean() - 1.0) < 0.1 and abs(sigma.std() - 1.6) < 0.08
    assert abs(aug.mean() + 3.0) < 0.03 and abs(aug.std() - 0.5) < 0.025
    assert abs(np.corrcoef(sigma, aug)[0, 1]) < 0.06
    noise = np.concatenate([part.ravel() for d in draws for part in (d.noise, d.posterior, d.pixel_noise)])
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01


def test_dropout_is_three_events_of_the_given_probability_each():
    pairs = [(d.keep_context, d.keep_concat) for d in many(6000)]
    for pair in ((False, True), (True, False), (False, False)):
        assert abs(pairs.count(pair) / 6000 - 0.1) < 0.015
    assert all(pair == (True, True) for pair in [(d.keep_context, d.keep_concat) for d in many(100, dropout=0.0)])


def test_edges_of_the_dropout_events():
    found = [kept(u, 0.25) for u in (0.0, 0.25, 0.5, 0.75)]
    assert found == [(False, True), (False, False), (True, False), (True, True)]


def test_validation_is_the_same_each_time_and_drops_nothing():
    first = validation_draws(1, 0, 0, 3.0, LOSS, *SHAPES)
    assert equal(first, validation_draws(1, 0, 0, 3.0, LOSS, *SHAPES))
    assert first.sigma == 3 and first.keep_context and first.keep_concat
    assert abs(first.cond_aug - np.exp(-3)) < 1e-6
    assert not np.array_equal(first.noise, validation_draws(1, 0, 1, 3.0, LOSS, *SHAPES).noise)
    assert not np.array_equal(first.noise, training_draws(1, 0, LOSS, *SHAPES).noise)


def test_held_out_clips():
    assert held_out(0, 10, 0.0) == []
    assert len(held_out(0, 10, 0.3)) == 3 and held_out(0, 10, 0.3) == held_out(0, 10, 0.3)
    assert len(held_out(0, 10, 0.01)) == 1 and len(held_out(0, 2, 0.9)) == 1
    assert held_out(0, 1, 0.5) == []
    assert held_out(0, 100, 0.3) != held_out(1, 100, 0.3)
