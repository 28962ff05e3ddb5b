"""Metrics of videos, on clips whose truth is known."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from gm.data.flow import follow, picture_flow, same_points, visible
from gm.data.metrics import MEANINGS, chroma, evaluate, psnr, ssim
from gm.data.procedural import picture, push_in

FPS = 10.0


@pytest.fixture(scope="module")
def canvas():
    return cv2.GaussianBlur(picture(np.random.default_rng(3), 320), (0, 0), 1.0)


def pan(canvas, step, frames=8, size=128):
    """A camera that moves `step` pixels to the left with each frame: what is seen moves to the right."""
    return np.stack([canvas[64 : 64 + size, 100 - step * k : 100 - step * k + size] for k in range(frames)])


def test_every_metric_is_there_and_explained(canvas):
    frames = pan(canvas, 2)
    assert list(MEANINGS) == sorted(evaluate(frames, FPS, frames[0]), key=list(MEANINGS).index)
    assert set(MEANINGS) - set(evaluate(frames, FPS)) == {"first_frame_psnr", "first_frame_ssim"}


def test_a_still_video_has_no_motion_no_flicker_and_no_drift(canvas):
    found = evaluate(np.repeat(pan(canvas, 0, 1), 5, 0), FPS)
    for name in ("motion_score", "flicker", "warping_error", "colour_drift", "sharpness_drift", "occluded"):
        assert abs(found[name]) < 0.01, name
    assert found["loop_closure"] == math.inf


@pytest.mark.parametrize("step", [-3, 2])
def test_a_pan_has_its_direction_and_speed(canvas, step):
    found = evaluate(pan(canvas, step), FPS)
    expected = 100 * step * FPS / 128
    assert found["motion_right"] == pytest.approx(expected, rel=0.15)
    assert abs(found["motion_down"]) < 0.1 * abs(expected)


def test_following_the_flow_explains_a_push_in(canvas):
    found = evaluate(push_in(canvas, 8, 128, 1.03, (0.5, 0.5)), FPS)
    assert found["followed_closure"] > found["loop_closure"] + 5
    assert abs(found["motion_right"]) < 0.2 * found["motion_score"]


def test_noise_on_every_frame_is_flicker_and_warping_error(canvas):
    still = np.repeat(pan(canvas, 0, 1), 6, 0).astype(np.float32)
    random = np.random.default_rng(0)
    brightness = random.normal(0, 8, (6, 1, 1, 1))
    noisy = np.clip(still + brightness + random.normal(0, 10, still.shape), 0, 255).astype(np.uint8)
    found = evaluate(noisy, FPS)
    assert found["flicker"] > 5 and found["warping_error"] > 5


def test_drifts_have_their_signs(canvas):
    frames = pan(canvas, 1)
    last = cv2.GaussianBlur(frames[-1], (0, 0), 2.0).astype(np.float32) + (30, 0, 0)
    frames = np.concatenate([frames[:-1], np.clip(last, 0, 255).astype(np.uint8)[None]])
    found = evaluate(frames, FPS)
    assert found["sharpness_drift"] < -0.5 and found["colour_drift"] > 5


def test_what_a_camera_shows_is_no_drift_of_the_same_points_colours_but_a_shift_is(canvas):
    """Differences of less than 2.3 in CIE Lab are not seen (Mahy et al. 1994)."""
    y, x = np.mgrid[:320, :320] / 320
    ramp = np.stack([x, y, 1 - y], -1) * 100
    coloured = np.clip(canvas / 2 + ramp, 0, 255).astype(np.uint8)
    moves = {"push in": push_in(coloured, 12, 128, 1.04, (0.1, 0.9)), "pan": pan(coloured, 4, 12)}
    for name, frames in moves.items():
        found = evaluate(frames, FPS)
        assert found["colour_drift"] > 5 and found["followed_colour_drift"] < 1.2, name
        shifted = np.clip(frames + np.linspace(0, 1, 12).reshape(-1, 1, 1, 1) * (20, -10, 0), 0, 255).astype(np.uint8)
        mean, last = (a[-1].mean((0, 1), keepdims=True).astype(np.float32) / 255 for a in (frames, shifted))
        expected = np.linalg.norm(cv2.cvtColor(mean, cv2.COLOR_RGB2LAB) - cv2.cvtColor(last, cv2.COLOR_RGB2LAB))
        found = evaluate(shifted, FPS)["followed_colour_drift"]
        assert found == pytest.approx(expected, abs=1.2) and expected > 9, name


def test_chroma_of_colours_whose_lab_is_published():
    """Of sRGB's red, green and blue, L*a*b* is (53.24, 80.09, 67.20), (87.73, -86.18, 83.18), (32.30, 79.19, -107.86):
    Lindbloom's calculator, D65."""
    for colour, a, b in (((255, 0, 0), 80.09, 67.20), ((0, 255, 0), -86.18, 83.18), ((0, 0, 255), 79.19, -107.86)):
        assert chroma(np.full((5, 3), colour, np.uint8)) == pytest.approx(math.hypot(a, b), abs=0.5)
    assert chroma(np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(-1, 3)) == pytest.approx(0, abs=0.1)


def test_colours_that_part_are_a_drift_of_chroma_that_their_mean_does_not_show(canvas):
    coloured = np.clip(
        canvas / 3 + 90 + np.where(np.arange(320)[:, None, None] % 80 < 40, 1, -1) * (18, -18, 0), 0, 255
    )
    frames = push_in(coloured.astype(np.uint8), 12, 128, 1.02, (0.5, 0.5))
    assert abs(evaluate(frames, FPS)["followed_chroma_drift"]) < 0.1
    grey = frames.mean(-1, keepdims=True)
    stronger = grey + (1 + np.linspace(0, 0.5, 12).reshape(-1, 1, 1, 1)) * (frames - grey)
    found = evaluate(np.clip(stronger, 0, 255).astype(np.uint8), FPS)
    assert found["followed_chroma_drift"] == pytest.approx(math.log2(1.5), abs=0.12)
    assert found["followed_colour_drift"] < 2.3  # not seen


def test_without_a_point_in_common_there_is_no_drift_to_be_told(canvas):
    away = np.full((64, 64, 2), 100, np.float32)
    assert same_points(canvas[:64, :64], canvas[:64, :64], away) is None


def test_psnr_and_ssim_of_known_pictures():
    a = np.random.default_rng(0).integers(0, 240, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    assert psnr(a, a) == math.inf and ssim(a, a) == pytest.approx(1)
    b = np.clip(a.astype(int) + 16, 0, 255).astype(np.uint8)
    assert psnr(np.full_like(a, 100), np.full_like(a, 116)) == pytest.approx(20 * math.log10(255 / 16))
    assert ssim(a, b) > ssim(a, np.roll(a, 7, 1))


def test_points_that_leave_the_picture_are_not_visible(canvas):
    now, then = pan(canvas, 8, 2)
    seen = visible(picture_flow(now, then), picture_flow(then, now))
    assert seen[:, 20:90].mean() > 0.8 and seen[:, -4:].mean() < 0.1


def test_follow_undoes_a_shift(canvas):
    flow = np.zeros((64, 64, 2), np.float32)
    flow[..., 0] = 5
    assert np.array_equal(follow(canvas[:64, :69], flow)[:, :60], canvas[:64, 5:65])


@pytest.mark.parametrize("frames, image", [(1, None), (2, np.zeros((8, 8, 3), np.uint8))])
def test_what_cannot_be_measured_is_refused(canvas, frames, image):
    with pytest.raises(ValueError, match="frames"):
        evaluate(pan(canvas, 1, frames), FPS, image)
