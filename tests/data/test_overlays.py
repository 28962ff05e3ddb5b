import cv2
import numpy as np
import pytest

from gm.data.overlays import Overlays
from tests.data.drawn_scenes import scene


def measured(frames):
    overlays = Overlays()
    for frame in frames:
        overlays.add(frame)
    return overlays


@pytest.fixture(scope="module")
def frames():
    """8 frames of 200x320 that move by 12 pixels each."""
    wide = np.random.default_rng(0).integers(0, 255, (26, 60, 3), np.uint8)
    wide = cv2.resize(wide, (480, 208), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:200, 12 * index :][:, :320] for index in range(8)])


@pytest.mark.parametrize(
    "top, bottom, left, right, crop",
    [
        (0, 0, 0, 0, ""),
        (24, 24, 0, 0, "320:152:0:24"),
        (0, 0, 40, 40, "240:200:40:0"),
        (20, 30, 16, 0, "304:150:16:20"),
        (1, 1, 0, 0, ""),
    ],
)
def test_bars_are_told_by_the_crop_that_removes_them(frames, top, bottom, left, right, crop):
    barred = np.full_like(frames, 4)
    inside = np.s_[:, top : 200 - bottom, left : 320 - right]
    barred[inside] = frames[inside]
    assert measured(barred).crop() == crop
    if crop:
        barred[3, 5, 100:200] = barred[3, 100, 5:9] = 255  # something is shown there once
        assert measured(barred).crop() != crop


def test_a_black_scene_has_no_bars(frames):
    assert measured(frames // 32).crop() == ""


def test_a_logo_before_a_moving_picture_is_found(frames):
    marked = frames.copy()
    for frame in marked:
        cv2.putText(frame, "NEWS 24", (190, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    assert measured(frames).overlay() == 0
    assert 0.5 < measured(marked).overlay() < 6
    still = marked[:1].repeat(8, 0)
    assert measured(still).overlay() == 0, "nobody can tell a logo from a picture that stands still"


def test_most_ordinary_scenes_have_no_overlay():
    """but for the point that a zoom leaves where it is."""
    found = [measured(scene(np.random.default_rng(seed), 32, 192, 0.02)[::4]).overlay() for seed in range(12)]
    assert sum(value > 0.1 for value in found) <= 3
