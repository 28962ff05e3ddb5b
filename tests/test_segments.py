"""The segments of a longer video: colours with which the next one begins. (tests/test_job.py makes such videos.)"""

from __future__ import annotations

import numpy as np
import pytest

from gm.data.procedural import picture, push_in
from gm.segments import Chain, unshifted

SHIFT = np.array([9.0, -7.0, 4.0])


@pytest.fixture(scope="module")
def image():
    """A camera that pushes in on its middle shows other colours with every frame."""
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    reddish = np.exp(-4 * (x * x + y * y))[..., None] * (110, 0, -40) + 40
    return np.clip(picture(np.random.default_rng(4), 128) * 0.5 + reddish, 0, 255).astype(np.uint8)


def shifted(frames, shift):
    return np.clip(np.rint(frames + shift), 0, 255).astype(np.uint8)


def mean(frame):
    return frame.mean((0, 1))


def test_a_shift_of_colours_is_undone_and_what_comes_nearer_keeps_its_own(image):
    true = push_in(image, 11, 128, 1.02, (0.5, 0.5))
    assert mean(true[-1])[0] - mean(image)[0] > 4  # so that the picture's mean would be wrong
    for given, frames in (
        (image, shifted(true, SHIFT)),
        (image, true),
        (None, shifted(true, SHIFT * np.linspace(0, 1, 11).reshape(-1, 1, 1, 1))),
    ):
        np.testing.assert_allclose(mean(unshifted(given, frames)), mean(true[-1]), atol=1.0)


def test_points_that_are_gone_say_nothing(image):
    """A camera that pans leaves a bright half behind; of what it still shows the colours are the same."""
    wide = np.concatenate([np.clip(image.astype(int) + 80, 0, 255).astype(np.uint8)[:, :64], image], 1)
    true = np.stack([wide[:, 4 * k : 4 * k + 128] for k in range(11)])
    assert mean(true[0])[0] - mean(true[-1])[0] > 15
    np.testing.assert_allclose(mean(unshifted(true[0], shifted(true, SHIFT))), mean(true[-1]), atol=1.5)


def test_what_every_segment_does_to_the_colours_does_not_pile_up(image):
    def last_frame(shift):
        chain = Chain(image, 4)
        for k in range(4):
            frames = shifted(push_in(chain.image, 8, 128, 1.01, (0.5, 0.5)), shift)
            chain.sampled(np.zeros((8, 4, 16, 16), np.float32))
            chain.decoded(frames, frames if k < 3 else None)
        assert chain.frames.shape[0] == 8 + 3 * 4
        return mean(chain.frames[-1])

    np.testing.assert_allclose(last_frame(SHIFT) - last_frame(0), SHIFT, atol=1.5)  # and not four times as much
