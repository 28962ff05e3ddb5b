import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from gm.data.video_reader import open_video
from gm.data.videos import write_gif, write_video
from gm.errors import UserError

HEIGHT, WIDTH, FPS, COUNT = 64, 96, 12.0, 30


def numbered(count):
    """Frames that tell their number: left two thirds grey 10 + 6 * (i % 40), right third red where i // 40 is odd."""
    frames = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
    for index in range(count):
        frames[index, :, :64] = 10 + 6 * (index % 40)
        frames[index, :, 64:] = (200, 30, 30) if index // 40 % 2 else (30, 30, 200)
    return frames


def numbers(frames):
    low = np.rint((frames[:, 8:-8, 8:56].mean((1, 2, 3)) - 10) / 6)
    return [int(n) for n in low]


def ffmpeg(*arguments):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def overwritten(source, target, part):
    """Copy with the bytes of a part (from, to, as shares of the file) replaced by noise."""
    content = bytearray(source.read_bytes())
    start, end = (int(share * len(content)) for share in part)
    content[start:end] = np.random.default_rng(0).bytes(end - start)
    target.write_bytes(content)
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    frames = numbered(COUNT)
    write_video(frames, folder / "clip.mp4", FPS)
    for name, options in {
        "clip.mkv": ["-c", "copy"],
        "clip.mov": ["-c", "copy"],
        "clip.avi": ["-c:v", "mpeg4", "-q:v", "2"],
        "clip.webm": ["-c:v", "libvpx", "-b:v", "2M", "-g", "8"],
    }.items():
        ffmpeg("-i", folder / "clip.mp4", *options, folder / name)
    noisy = np.random.default_rng(1).integers(0, 255, frames.shape, np.uint8)
    write_video(noisy, folder / "noisy.mp4", FPS)  # large frames: what is cut off is pictures, index in front
    write_gif(frames, folder / "clip.gif", 10)
    return folder


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.mov", "clip.avi", "clip.webm"])
def test_every_container_gives_the_frames_asked_for(folder, name):
    with open_video(folder / name) as video:
        assert (video.length, video.size) == (COUNT, (HEIGHT, WIDTH))
        assert video.fps == pytest.approx(FPS, rel=1e-3)
        frames = video.frames([3, 0, 17, 17, 29])
        assert frames.dtype == np.uint8 and frames.shape == (5, HEIGHT, WIDTH, 3)
        assert numbers(frames) == [3, 0, 17, 17, 29]
        assert numbers(video.frames([2])) == [2]  # backwards
        assert numbers(video.frames(range(1, 30, 4))) == list(range(1, 30, 4))
    red, _, blue = frames[0, 32, 80]
    assert blue > 150 and red < 80, "channels are not RGB"


def test_long_skips_are_exact(folder, tmp_path):
    count = 400
    write_video(numbered(count), tmp_path / "long.mp4", 24)
    with open_video(tmp_path / "long.mp4") as video:
        frames = video.frames([1, 290, 291, 399])
        assert numbers(frames) == [1, 290 % 40, 291 % 40, 399 % 40]
        assert [bool(frame[32, 80, 0] > 120) for frame in frames] == [False, True, True, True]
        with pytest.raises(UserError, match="first 400 frames"):
            video.frames([5, 700])


def test_gif_frames_are_exact_and_its_rate_is_the_mean(tmp_path):
    frames = numbered(10)
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[50, 150] * 5, loop=0)
    with open_video(tmp_path / "a.gif") as video:
        assert (video.length, video.fps, video.size) == (10, 10.0, (HEIGHT, WIDTH))
        assert np.array_equal(video.frames(range(10)), frames)


def test_rotated_video_is_upright(folder, tmp_path):
    ffmpeg("-display_rotation", 90, "-i", folder / "clip.mp4", "-c", "copy", tmp_path / "rotated.mp4")
    with open_video(folder / "clip.mp4") as video:
        straight = video.frames([5])[0]
    with open_video(tmp_path / "rotated.mp4") as video:
        assert video.size == (WIDTH, HEIGHT)
        assert np.array_equal(video.frames([5])[0], np.rot90(straight))


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_file_that_ends_early_says_how_many_frames_can_be_read(folder, tmp_path, damage):
    path = tmp_path / "damaged.mp4"
    if damage == "cut off":
        content = (folder / "noisy.mp4").read_bytes()
        path.write_bytes(content[: len(content) // 2])
    else:
        overwritten(folder / "noisy.mp4", path, (0.5, 0.6))
    with open_video(path) as video:
        with pytest.raises(UserError, match=rf"damaged\.mp4.* states {COUNT}") as error:
            video.frames(range(COUNT))
        readable = int(re.search("first ([0-9]+) frames", str(error.value)).group(1))
        assert 2 < readable < COUNT - 2
        with pytest.raises(UserError, match=f"only the first {readable} frames"):
            video.frames([COUNT - 1])
        with open_video(folder / "noisy.mp4") as whole:
            assert np.array_equal(video.frames(range(readable)), whole.frames(range(readable)))
        with pytest.raises(UserError, match=f"only the first {readable} frames"):
            video.frames([readable])


def test_a_video_trimmed_without_re_encoding_never_jumps(tmp_path):
    write_video(numbered(120), tmp_path / "whole.mp4", 30)  # one group of pictures: all 120 stay in the file
    ffmpeg("-ss", 2, "-i", tmp_path / "whole.mp4", "-c", "copy", tmp_path / "trimmed.mp4")
    with open_video(tmp_path / "trimmed.mp4") as video:
        assert video.length == 60
        assert numbers(video.frames(range(0, 60, 7))) == [(60 + index) % 40 for index in range(0, 60, 7)]
        with pytest.raises(UserError, match="only the first 60 frames"):
            video.frames([60])


def test_a_wrong_length_in_the_header_of_an_avi_is_not_believed(folder, tmp_path):
    content = bytearray((folder / "clip.avi").read_bytes())
    for name, offset in (b"avih", 24), (b"strh", 40):
        place = content.find(name) + offset
        assert int.from_bytes(content[place : place + 4], "little") == COUNT
        content[place : place + 4] = (99).to_bytes(4, "little")
    (tmp_path / "liar.avi").write_bytes(content)
    with open_video(tmp_path / "liar.avi") as video:
        assert video.length == COUNT
        with pytest.raises(UserError, match=f"only the first {COUNT} frames"):
            video.frames([50])


def test_sizes_that_decord_cannot_read_are_read_all_the_same(tmp_path):
    frames = np.full((5, 32, 48, 3), 90, np.uint8)
    write_video(frames, tmp_path / "small.mp4", 10)
    with open_video(tmp_path / "small.mp4") as video:
        assert video.size == (32, 48)
        assert np.abs(video.frames([1, 4]).astype(int) - 90).max() < 4


def test_what_comes_before_the_damage_can_be_read(folder, tmp_path):
    content = (folder / "noisy.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with open_video(folder / "noisy.mp4") as whole, open_video(tmp_path / "cut.mp4") as cut:
        assert np.array_equal(cut.frames([0, 2]), whole.frames([0, 2]))


def test_unreadable_files_are_named_with_the_reason(folder, tmp_path):
    (tmp_path / "text.mp4").write_text("path,length\n")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(5000))
    ffmpeg("-i", folder / "noisy.mp4", "-c", "copy", tmp_path / "whole.mp4")  # index at the end
    (tmp_path / "half.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:20000])
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", tmp_path / "sound.mp4")
    for name, reason in {
        "text.mp4": "a text file",
        "empty.mp4": "an empty file",
        "noise.mkv": "not a video that",
        "half.mp4": "its index",
        "sound.mp4": "not a video that",
        "absent.mp4": "no video file at",
        ".": "is a folder, not a video file",
    }.items():
        with pytest.raises(UserError, match=reason) as error:
            open_video(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_wrong_use_is_told(folder):
    with open_video(folder / "clip.mp4") as video:
        with pytest.raises(ValueError, match="-1"):
            video.frames([0, -1])
        with pytest.raises(ValueError, match="at least one"):
            video.frames([])
