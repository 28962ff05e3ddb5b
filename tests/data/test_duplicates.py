import shutil
import sys

import cv2
import numpy as np
import pytest

from gm.data import duplicates
from gm.data.videos import write_frames
from gm.errors import UserError
from tests.data.drawn_scenes import scene
from tests.data.made_videos import X264, make


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """(folder, [(path, start, length)]): six different videos, then others that show the first one or a part of it."""
    folder = tmp_path_factory.mktemp("clips")
    videos = [scene(np.random.default_rng((7, seed)), 20, 96, 0.01) for seed in range(6)]
    for number, frames in enumerate(videos):
        make(frames, folder / f"{number}.mp4", *X264)
    first = videos[0]
    shutil.copy(folder / "0.mp4", folder / "copy.mp4")
    make(first, folder / "poor.mkv", "-pix_fmt", "yuv420p", "-c:v", "mpeg4", "-q:v", "12")
    small = np.stack([cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA) for frame in first])
    make(np.clip(small * 0.9 + 12, 0, 255).astype(np.uint8), folder / "small.mp4", *X264)
    make(np.concatenate([videos[1], first]), folder / "behind.mp4", *X264)
    write_frames(first, folder / "frames")
    write_frames(first, folder / "frames again")
    names = [f"{number}.mp4" for number in range(6)] + ["copy.mp4", "poor.mkv", "small.mp4", "frames", "frames again"]
    return folder, [(str(folder / name), 0, 20) for name in names] + [(str(folder / "behind.mp4"), 20, 20)]


def test_files_of_the_same_bytes_are_found(clips):
    folder, listed = clips
    found = duplicates.same_bytes([*listed, (str(folder / "copy.mp4"), 0, 10), (str(folder / "gone.mp4"), 0, 20)])
    assert {index: other for index, other in enumerate(found) if other is not None} == {6: 0, 10: 9}


def test_clips_that_look_alike_are_found_and_no_others(clips):
    _, listed = clips
    bits, failed = duplicates.hashes(listed)
    assert failed == []
    found = duplicates.alike(bits, 6)
    assert found == [None] * 6 + [0] * 6
    assert duplicates.alike(bits, 6, without=[0, 9]) == [None] * 7 + [6, 6, None, 6, 6]


def test_what_goes_makes_no_other_go():
    """Of three in a row, each near the next, the third is compared with what stays."""
    bits = np.zeros((3, duplicates.LOOKS * duplicates.BITS), np.uint8)
    bits[1, : 5 * 6] = bits[2, : 10 * 6] = 1
    assert duplicates.alike(bits, 6) == [None, 0, None]
    assert duplicates.alike(bits, 5.9) == [None, None, None]
    assert duplicates.alike(bits, 12) == [None, 0, 0]


def test_blocks_are_compared_with_earlier_blocks(monkeypatch):
    bits = np.random.default_rng(0).integers(0, 2, (11, duplicates.LOOKS * duplicates.BITS)).astype(np.uint8)
    bits[10], bits[7], bits[8] = bits[1], bits[6], bits[1]
    for size in (2, 3, 100):
        monkeypatch.setattr(duplicates, "_CHUNK", size)
        assert duplicates.alike(bits, 6) == [None] * 7 + [6, 1, None, 1]


def test_what_cannot_be_read_is_told(clips):
    folder, listed = clips
    (folder / "text.mp4").write_text("no video")
    _, failed = duplicates.hashes([listed[0], (str(folder / "text.mp4"), 0, 20), (str(folder / "1.mp4"), 5, 20)])
    assert [index for index, _ in failed] == [1, 2]
    assert "a text file" in failed[0][1] and "only the first 20 frames" in failed[1][1]


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(UserError, match="pip install -r requirements-data.txt"):
        duplicates.perceptual_hash()
