import sys

import numpy as np
import pytest

from gm.data.frame_folder import open_clip
from gm.data.procedural import picture
from gm.data.scenes import cut_detector, find_scenes
from gm.data.transitions import find_transitions, reduced
from gm.data.videos import write_frames
from gm.errors import UserError
from tests.data.drawn_scenes import dissolved, faded, joined, scene
from tests.data.made_videos import X264, make


class Held:
    """Frames in memory, read as a clip."""

    def __init__(self, frames):
        self.held, self.length = frames, len(frames)

    def frames(self, indices):
        return self.held[list(indices)]


def starts(scenes):
    return [found.start for found in scenes]


@pytest.mark.parametrize("seed", [100, 101, pytest.param(range(102, 122), marks=pytest.mark.slow)])
def test_all_hard_cuts_of_20_joined_clips_are_found_and_no_others(seed):
    for each in [seed] if isinstance(seed, int) else seed:
        frames, cuts = joined(each)
        scenes = find_scenes(Held(frames), 30)
        assert starts(scenes) == [0, *cuts], each
        assert [s.start + s.length for s in scenes] == [*cuts, len(frames)], each


def test_cuts_are_numbers_of_frames_that_the_reader_gives(tmp_path):
    """of a file with B frames whose key frames are elsewhere, and of a folder of pictures."""
    frames, cuts = joined(3, scenes=6, size=96)
    make(frames, tmp_path / "a.mp4", *X264, "-sc_threshold", "0", "-crf", "18")
    write_frames(frames, tmp_path / "frames")
    for path in (tmp_path / "a.mp4", tmp_path / "frames"):
        with open_clip(path) as video:
            assert starts(find_scenes(video, 30)) == [0, *cuts]


@pytest.mark.parametrize("length", [8, 16, 30])
def test_most_dissolves_are_found_where_they_begin_and_end(length):
    frames, spans = dissolved(7, length)
    found = find_transitions([reduced(frame) for frame in frames])
    hits = [span for span in found if any(span[0] < end and span[1] > start for start, end in spans)]
    assert hits == found, "no transition where there is none"
    assert 2 * len(hits) > len(spans)
    for start, end in hits:
        right = next((s, e) for s, e in spans if s < end and e > start)
        assert abs(start - right[0]) <= 2 and abs(end - right[1]) <= 2


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize("length", [8, 30])
def test_fades_are_found_where_they_begin_and_end(length, colour):
    frames, spans = faded(7, length, colour)
    found = find_transitions([reduced(frame) for frame in frames])
    assert len(found) == len(spans)
    for (start, end), (first, last) in zip(found, spans):
        assert abs(start - first) <= 2 and abs(end - last) <= 2
    if colour == 0:
        black = [s for s in find_scenes(Held(frames), 30) if s.black > 0.5]
        assert len(black) == len(spans) // 2, "what lies between two fades is a black scene"


def test_a_lamp_that_is_switched_on_is_no_transition():
    frames = scene(np.random.default_rng(5), 60, 96, 0.002).astype(np.float32)
    light = np.interp(np.arange(60), [20, 40], [0.5, 1.0])[:, None, None, None]
    assert find_transitions([reduced(frame) for frame in (frames * light).astype(np.uint8)]) == []


def test_black_and_frozen_stretches_are_shares_of_the_scene():
    drawn = picture(np.random.default_rng(1), 96)
    moving = np.stack([np.roll(drawn, index, 1) for index in range(60)])
    moving[40:] = moving[39]  # stands still from 39 on
    (found,) = find_scenes(Held(moving), 30)
    assert found.frozen == pytest.approx(21 / 60) and found.black == 0
    (found,) = find_scenes(Held(moving), 60)  # less than half a second
    assert found.frozen == 0
    twice = moving[:30].repeat(2, 0)  # drawn on twos
    assert find_scenes(Held(twice), 24)[0].frozen == 0
    (dark,) = find_scenes(Held(np.full((20, 96, 96, 3), 9, np.uint8)), 30)
    assert dark.black == 1 and dark.frozen == 1


def test_frames_of_little_contrast_are_faded():
    drawn = picture(np.random.default_rng(2), 96).astype(np.float32)
    haze = np.interp(np.arange(300), [0, 240], [0.3, 1.0])[:, None, None, None]  # no fade: it begins half way
    (found,) = find_scenes(Held(np.uint8(drawn * haze + 127 * (1 - haze))), 30)
    assert found.faded == pytest.approx(69 / 300, abs=0.02)  # half the contrast is there in frame 69


def test_short_videos_have_scenes_too():
    frames = joined(4, scenes=2, shortest=6)[0]
    for count in (1, 2, 3, 5):
        assert [(s.start, s.length) for s in find_scenes(Held(frames[:count]), 30)] == [(0, count)]


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scenedetect.detectors", None)
    with pytest.raises(UserError, match="pip install -r requirements-data.txt"):
        cut_detector()
