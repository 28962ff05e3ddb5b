"""The segments of a longer video: colours with which the next one begins. (tests/test_job.py makes such videos.)"""

from __future__ import annotations

import numpy as np
import pytest

from gm.data.metrics import chroma
from gm.data.procedural import picture, push_in
from gm.segments import Chain, transport, unshifted

SHIFT = np.array([9.0, -7.0, 4.0])
TO_ONE = np.linspace(0, 1, 11).reshape(-1, 1, 1, 1)  # over the frames of a segment


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
    for frames in (true, shifted(true, SHIFT * TO_ONE)):
        np.testing.assert_allclose(mean(unshifted(frames, 1)[0]), mean(true[-1]), atol=1.0)


def test_points_that_are_gone_say_nothing(image):
    """A camera that pans leaves a bright half behind; of what it still shows the colours are the same."""
    wide = np.concatenate([np.clip(image.astype(int) + 80, 0, 255).astype(np.uint8)[:, :64], image], 1)
    true = np.stack([wide[:, 4 * k : 4 * k + 128] for k in range(11)])
    assert mean(true[0])[0] - mean(true[-1])[0] > 15
    np.testing.assert_allclose(mean(unshifted(shifted(true, SHIFT * TO_ONE), 1)[0]), mean(true[-1]), atol=1.5)


def test_all_frames_that_are_shared_change_alike(image):
    true = push_in(image, 11, 128, 1.01, (0.5, 0.5))
    found = unshifted(shifted(true, SHIFT * np.minimum(TO_ONE * 2, 1)), 4)
    np.testing.assert_allclose(found.mean((1, 2)), true[-4:].mean((1, 2)), atol=1.0)


def coloured(frames, factor):
    """Every colour's distance from its grey times `factor`: the mean of a picture stays, red and green part."""
    grey = frames.mean(-1, keepdims=True)
    return np.clip(np.rint(grey + factor * (frames - grey)), 0, 255).astype(np.uint8)


def segments_of(image, count, change, encoded):
    """A `Chain` of a model that pushes in, whose latents are its frames. Its frame k shows `change`(frame, k / 10) of
    what a camera would; its encoder gives back `encoded` times the colours' strength."""

    def encode(picture):
        return coloured(picture, encoded).transpose(2, 0, 1).astype(np.float32)

    chain = Chain(image, 4)
    for k in range(count):
        known = chain.known(encode)
        first = (encode(image) if known is None else known[0]).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        true = push_in(first, 8, 128, 1.01, (0.5, 0.5))
        frames = np.concatenate([change(frame[None], share) for frame, share in zip(true, np.linspace(0, 1, 8))])
        chain.sampled(frames.transpose(0, 3, 1, 2).astype(np.float32))
        chain.decoded(frames, frames if k < count - 1 else None)
    assert len(chain.frames) == 8 + (count - 1) * 4
    return chain


def test_what_every_segment_does_to_the_colours_does_not_pile_up(image):
    def last_frame(shift):
        return mean(segments_of(image, 4, lambda frame, share: shifted(frame, shift * share), 1.0).frames[-1])

    np.testing.assert_allclose(last_frame(SHIFT) - last_frame(0), SHIFT, atol=1.5)  # and not four times as much


@pytest.mark.parametrize(("drift", "encoded"), [(1.2, 1.0), (0.85, 1.0), (1.0, 1.15), (1.1, 1.15)])
def test_colours_that_every_segment_makes_stronger_do_not_pile_up(image, drift, encoded):
    """The truth is the camera's own last frame, of CIE Lab: what the encoder does once, and a segment once."""

    def last_frame(drift):
        made = segments_of(image, 4, lambda frame, share: coloured(frame, 1 + (drift - 1) * share), encoded).frames[-1]
        return chroma(made.reshape(-1, 3))

    true = chroma(coloured(push_in(image, 20, 128, 1.01, (0.5, 0.5))[-1], encoded).reshape(-1, 3))
    assert last_frame(drift) / true == pytest.approx(drift, abs=0.05)


def test_the_map_of_colours_is_the_one_that_made_them():
    """A symmetric positive map is the shortest way to what it makes, so that it is found again exactly."""
    random = np.random.default_rng(0)
    colours = random.normal(0, 12, (5000, 3)) @ random.normal(size=(3, 3)) + 128
    matrix = np.array([[1.15, -0.1, 0.02], [-0.1, 1.2, -0.05], [0.02, -0.05, 0.9]])
    found, offset = transport(colours, (colours - 128) @ matrix + 120)
    np.testing.assert_allclose(found, matrix, atol=0.02)
    np.testing.assert_allclose(np.full(3, 128) @ found + offset, np.full(3, 120), atol=0.3)


def test_grain_is_not_made_louder():
    """A wall of one colour whose grain the VAE smoothed away: dividing by what is left would bring ghosts out."""
    random = np.random.default_rng(0)
    wall = np.rint(120 + random.normal(0, 1.5, (128, 128, 3))).astype(np.uint8)
    frames = np.rint(np.full((8, 128, 128, 3), 117) + random.normal(0, 0.3, (8, 128, 128, 3))).astype(np.uint8)
    frames[:, 60:70, 60:70] += 3  # a little thing that is there by mistake
    found = unshifted(np.concatenate([wall[None], frames]), 1)[0]
    np.testing.assert_allclose(mean(found), mean(wall), atol=0.5)
    assert found.std() < 1.6 * frames[-1].std()
