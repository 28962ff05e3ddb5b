from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gm.data.frame_folder import FrameFolder, clip_files, natural_order, open_clip
from gm.data.video_reader import VideoReader
from gm.data.videos import write_frames, write_video
from gm.errors import UserError


def frames(count=12, height=48, width=64):
    """uint8 (t, h, w, 3): noise, each frame another."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture
def clip(tmp_path):
    write_frames(frames(), tmp_path / "clip_0001")
    return tmp_path / "clip_0001"


def test_a_folder_is_read_like_a_video(clip):
    with open_clip(clip) as video:
        assert isinstance(video, VideoReader)
        assert (video.path, video.length, video.size, video.fps) == (clip, 12, (48, 64), None)
        np.testing.assert_array_equal(video.frames(range(12)), frames())
        np.testing.assert_array_equal(video.frames([7, 2, 2]), frames()[[7, 2, 2]])


def test_a_file_is_still_a_video(tmp_path):
    write_video(frames(), tmp_path / "a.mp4", 10)
    with open_clip(tmp_path / "a.mp4") as video:
        assert video.length == 12 and video.fps == 10
    assert clip_files(tmp_path / "a.mp4") == [tmp_path / "a.mp4"]
    with pytest.raises(UserError, match="no video file at"):
        open_clip(tmp_path / "gone")


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    names = ["frame1.png", "frame2.png", "frame10.png", "frame100.png", "shot2_9.png", "shot10_1.png"]
    for index, name in enumerate(names):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / name)
    assert [file.name for file in clip_files(tmp_path)] == names != sorted(names)
    assert FrameFolder(tmp_path).frames(range(6))[:, 0, 0, 0].tolist() == list(range(6))
    assert sorted(["a02", "a2", "2a", "a", "B1"], key=natural_order) == ["2a", "B1", "a", "a02", "a2"]


@pytest.mark.parametrize("other", ["00003.jpg", "3.png", "00003_mask.png", "depth_00003.webp"])
def test_two_pictures_of_one_frame_are_refused(clip, other):
    (clip / other).touch()
    with pytest.raises(UserError, match="clip_0001: .*00003.* have the same number: a clip has one picture for each"):
        FrameFolder(clip)


def test_other_files_are_no_frames(clip):
    for name in ("notes.txt", "._00003.png", "preview.gif", "meta.json"):
        (clip / name).touch()
    assert FrameFolder(clip).length == 12


def test_every_kind_of_picture_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(frames(1)[0]).save(tmp_path / "1.png")
    Image.fromarray(np.ascontiguousarray(np.rot90(frames(1)[0]))).save(tmp_path / "2.tif", format="PNG", exif=exif)
    video = FrameFolder(tmp_path)
    assert video.size == (48, 64)
    np.testing.assert_array_equal(video.frames([0, 1]), frames(1)[[0, 0]])


def test_the_first_frame_of_another_size_is_named(clip):
    Image.new("RGB", (64, 40)).save(clip / "00004.png")
    Image.new("RGB", (32, 48)).save(clip / "00009.png")
    expected = r"00004\.png has 64x40 pixels \(width x height\), the frames before it 64x48"
    with pytest.raises(UserError, match=expected):
        FrameFolder(clip).size  # noqa: B018
    with pytest.raises(UserError, match=expected):
        FrameFolder(clip).frames(range(12))
    assert FrameFolder(clip).frames(range(4)).shape == (4, 48, 64, 3)


def test_what_cannot_be_read_is_told(clip, tmp_path):
    with pytest.raises(UserError, match="clip_0001: frame 12 was asked for, but the folder has 12 pictures"):
        FrameFolder(clip).frames([12])
    content = (clip / "00003.png").read_bytes()
    (clip / "00003.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"00003\.png"):
        FrameFolder(clip).frames(range(12))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: a folder without pictures"):
        open_clip(tmp_path / "empty")
    for indices in ([], [-1]):
        with pytest.raises(ValueError):
            FrameFolder(clip).frames(indices)
