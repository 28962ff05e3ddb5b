"""Validation: which clips, at which noise levels, and how their losses become numbers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from gm.training.validation import Validation

SHAPES = (2, 4, 2, 2), (1, 3, 16, 16)


class Clips:
    frames = 2

    def __init__(self):
        self.read = []

    def __len__(self):
        return 3

    def at(self, clip):
        self.read.append(clip)
        return clip


def test_losses_are_means_over_the_clips_at_each_noise_level():
    train = SimpleNamespace(seed=0, validation=SimpleNamespace(clips=2, sigmas=[1.0, 10.0]),
                            loss=SimpleNamespace(cond_aug_mean=-3.0, cond_aug_std=0.5))
    clips = Clips()

    def loss(values, frames):
        assert frames == 2
        return values

    def example(encoded, draws):  # its loss: 100 times the clip's number from 1, plus the noise level
        return [np.array([100 * encoded, 100 * encoded + 2 * draws.sigma])]

    validation = Validation(loss, clips, lambda sample, draws: sample + 1, example, SHAPES, train)
    for _ in range(2):
        assert validation.run() == {"loss": 155.5, "loss_at": {"1": 151.0, "10": 160.0}}
    assert clips.read == [0, 1], "each is read once"
