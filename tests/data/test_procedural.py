"""Drawn pictures and the camera over them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gm.data import procedural
from gm.data.flow import camera_flow
from gm.data.metrics import evaluate
from gm.data.motion import bucket, score
from gm.data.procedural import clip, draw_back, pan, picture, push_in


def generator(seed=0):
    return np.random.default_rng(seed)


def test_the_same_seed_draws_the_same_picture_and_another_seed_another():
    first, again, other = (picture(generator(seed), 64) for seed in (0, 0, 1))
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_pictures_differ_in_colour_brightness_and_detail():
    shown = [picture(generator(seed), 64).astype(float) for seed in range(40)]
    assert np.std([one.mean() for one in shown]) > 20
    assert np.std([one.std() for one in shown]) > 10
    assert min(one.std() for one in shown) > 3  # none is of one colour
    white = [np.mean(one.min(-1) > 200) for one in shown]
    assert max(white) > 0.4  # things on a white ground are among them


def test_the_camera_enlarges_about_its_centre():
    canvas = cv2.GaussianBlur(picture(generator(3), 256), (0, 0), 2)
    frames = push_in(canvas, 5, 64, 1.1, (0.5, 0.5))
    assert frames.shape == (5, 64, 64, 3)
    zoom = 1.1**4
    matrix = np.array([[zoom, 0, 31.5 * (1 - zoom)], [0, zoom, 31.5 * (1 - zoom)]])
    expected = cv2.warpAffine(frames[0], matrix, (64, 64), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(expected[4:-4, 4:-4].astype(float) - frames[4][4:-4, 4:-4]).mean() < 6
    assert np.abs(frames[0].astype(float) - frames[4]).mean() > 8
    shrunk = cv2.resize(canvas, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(float) - frames[0]).max() <= 3


def test_the_camera_turns_right_and_what_it_sees_moves_left():
    canvas = cv2.GaussianBlur(picture(generator(4), 256), (0, 0), 2)
    frames = pan(canvas, 6, 64, 2 / 64)
    assert frames.shape == (6, 64, 64, 3)
    assert np.abs(frames[0][:, 10:].astype(float) - frames[5][:, :54]).mean() < 4
    assert evaluate(frames, 10.0)["motion_right"] < -20


@pytest.mark.parametrize(
    ("direction", "seen"),
    [((-1, 0), (1, 0)), ((0, -1), (0, 1)), ((0, 1), (0, -1)), ((1, -1), (-1, 1))],
)
def test_the_camera_turns_every_way_at_the_speed_that_is_asked_for(direction, seen):
    canvas = cv2.GaussianBlur(picture(generator(4), 256), (0, 0), 2)
    frames = pan(canvas, 6, 64, 2 / 64, direction)
    moved = frames[0].astype(float)
    rows, columns = (slice(max(0, 10 * way), 64 + min(0, 10 * way)) for way in (seen[1], seen[0]))
    before = tuple(slice(64 - s.stop, 64 - s.start) for s in (rows, columns))
    assert np.abs(moved[before] - frames[5][rows, columns]).mean() < 4
    right, down, growth = camera_flow(frames) * 64
    assert (right, down) == pytest.approx((2 * seen[0], 2 * seen[1]), abs=0.4) and abs(growth) < 0.5


def test_the_camera_draws_back_at_the_speed_that_is_asked_for():
    canvas = cv2.GaussianBlur(picture(generator(3), 256), (0, 0), 2)
    back, forth = draw_back(canvas, 5, 64, 1.03), push_in(canvas, 5, 64, 1.03, (0.5, 0.5))
    np.testing.assert_array_equal(back, forth[::-1])
    assert camera_flow(back) == pytest.approx((0, 0, -0.03), abs=0.006)
    assert camera_flow(forth) == pytest.approx((0, 0, 0.03), abs=0.006)


def test_speeds_cover_the_buckets():
    found = [bucket(clip(generator(seed), 14, 64, 24.0, 215.0).motion) for seed in range(30)]
    assert min(found) < 60 and 190 < max(found) < 230


def test_one_score_is_one_zoom_in_most_pictures(monkeypatch):
    """The bucket that is drawn is the one that is measured, within 2, although plain areas have no flow."""
    wanted = []
    monkeypatch.setattr(procedural, "score", lambda drawn: wanted.append(drawn) or score(drawn))
    found = [bucket(clip(generator(seed), 14, 64, 24.0, 215.0).motion) for seed in range(30)]
    assert np.mean(np.abs(np.subtract(found, wanted)) < 2) > 0.5  # most; by chance it would be 4 of 215


@pytest.mark.parametrize("most", [0.0, 215.0])
def test_the_motion_of_a_clip_is_measured_not_assumed(most):
    drawn = clip(generator(1), 14, 64, 14.0, most)
    assert drawn.frames.shape == (14, 64, 64, 3)
    assert (drawn.motion < 0.1) == (most == 0.0)


def test_the_preview_command_writes_a_picture(tmp_path, capsys):
    path = tmp_path / "preview.png"
    procedural.main([f"--output={path}", "--clips=2", "--size=32"])
    assert cv2.imread(str(path)).shape[0] > 2 * 32
    assert "motion buckets" in capsys.readouterr().out
