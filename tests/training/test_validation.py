"""Validation: which clips, at which noise levels, and how their losses become numbers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gm.training.validation import Validation

SHAPES = {(16, 16): ((2, 4, 2, 2), (1, 3, 16, 16)), (8, 16): ((2, 4, 1, 2), (1, 3, 8, 16))}


class Clips:
    frames = 2

    def __init__(self, first=0, count=3):
        self.first, self.count, self.read = first, count, []

    def __len__(self):
        return self.count

    def at(self, clip):
        self.read.append(clip)
        return self.first + clip


def validation(held_out):
    train = SimpleNamespace(
        seed=0,
        output_dir="nothing is written by a run of one device",
        validation=SimpleNamespace(clips=2, sigmas=[1.0, 10.0]),
        loss=SimpleNamespace(cond_aug_mean=-3.0, cond_aug_std=0.5),
    )

    def loss(values, frames):
        assert frames == 2
        return values

    def example(encoded, draws):  # its loss: 100 times the clip's number from 1, plus the noise level
        return [np.array([100 * encoded, 100 * encoded + 2 * draws.sigma])]

    return Validation(loss, held_out, lambda sample, draws: sample + 1, example, SHAPES.get, train)


def test_losses_are_means_over_the_clips_at_each_noise_level():
    clips = Clips()
    found = validation({(16, 16): clips})
    for _ in range(2):
        assert found.run() == {"loss": 155.5, "loss_at": {"1": 151.0, "10": 160.0}}
    assert clips.read == [0, 1], "each is read once"


def test_each_size_has_a_loss_of_its_own():
    found = validation({(16, 16): Clips(), (8, 16): Clips(6, 1)})
    for _ in range(2):
        assert found.run() == {
            "loss": pytest.approx((155.5 * 2 + 705.5) / 3),
            "loss_of_size": {"16x16": 155.5, "8x16": 705.5},
            "loss_at": {"1": pytest.approx((151 * 2 + 701) / 3), "10": pytest.approx((160 * 2 + 710) / 3)},
        }
