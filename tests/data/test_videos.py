import os
import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from gm.data import videos
from gm.data.videos import (
    contact_sheet,
    to_uint8,
    try_out,
    write_frames,
    write_gif,
    write_video,
)
from gm.errors import UserError


def moving(count=5, height=64, width=96):
    """Smooth coloured frames that drift, uint8 (t, h, w, 3)."""
    t, y, x = np.mgrid[0:count, 0:height, 0:width].astype(np.float32)
    wave = np.sin((x + 4 * t) / 17)
    return np.stack([127 + 120 * wave, 255 * y / height, 255 * x / width], axis=-1).astype(np.uint8)


def read_back(path):
    """(frames, what ffmpeg says about the file)."""
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    frames = np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return frames, subprocess.run(command, stderr=subprocess.PIPE).stderr.decode()


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_to_uint8_clamps_and_truncates():
    values = np.array([-np.float32(3), -1, 0, 0.9999, 1, 2], np.float32)
    frames = np.broadcast_to(values[:, None, None, None], (6, 3, 2, 4))
    pixels = to_uint8(frames)
    assert pixels.shape == (6, 2, 4, 3) and pixels.dtype == np.uint8
    assert pixels[:, 1, 3, 2].tolist() == [0, 0, 127, 254, 255, 255]  # rounding would give 128 and 255


def test_to_uint8_keeps_channels_and_places():
    frames = np.random.default_rng(0).uniform(-1.2, 1.2, (2, 3, 4, 5)).astype(np.float32)
    exact = np.floor(np.clip((frames.astype(np.float64) + 1) / 2, 0, 1) * 255)
    np.testing.assert_array_equal(to_uint8(frames), exact.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_to_uint8_refuses_what_is_no_number(bad):
    frames = np.zeros((3, 3, 4, 4), np.float32)
    frames[2, 0, 1, 1] = bad
    with pytest.raises(UserError, match="frame 2 .*amp_level"):
        to_uint8(frames)


@pytest.mark.parametrize(("fps", "shown"), [(7, "7 fps"), (12.5, "12.50 fps"), (29.97, "29.97 fps")])
def test_video_read_back(tmp_path, fps, shown):
    frames = moving()
    write_video(frames, tmp_path / "x.mp4", fps)
    back, report = read_back(tmp_path / "x.mp4")
    assert back.shape == frames.shape
    assert re.search(r"Video: h264 .*yuv420p\b.* 96x64\b", report) and shown in report
    assert min(psnr(a, b) for a, b in zip(frames, back)) > 35
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "x.mp4"))
    assert count == 5 and seconds == pytest.approx(5 / fps, abs=0.02)
    assert os.listdir(tmp_path) == ["x.mp4"]


def test_video_index_comes_first_for_the_web(tmp_path):
    write_video(moving(), tmp_path / "x.mp4", 7)
    content = (tmp_path / "x.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_colours_are_labelled_and_right(tmp_path):
    """Saturated colours show a wrong or unlabelled YUV matrix at once: green moves by more than 20 levels."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255), (0, 0, 0)]
    frames = np.stack([np.full((64, 64, 3), colour, np.uint8) for colour in colours])
    write_video(frames, tmp_path / "x.mp4", 7)
    back, report = read_back(tmp_path / "x.mp4")
    assert "smpte170m/bt709/iec61966-2-1" in report
    assert np.abs(back.astype(int) - frames).max() <= 4


@pytest.mark.parametrize(("height", "width"), [(65, 97), (64, 97), (65, 96), (1, 1)])
def test_odd_sizes_are_padded_with_the_edge(tmp_path, height, width):
    frames = moving(3, height, width)
    write_video(frames, tmp_path / "x.mp4", 7)
    back, _ = read_back(tmp_path / "x.mp4")
    assert back.shape == (3, height + height % 2, width + width % 2, 3)
    assert psnr(frames, back[:, :height, :width]) > 35
    assert np.abs(back[:, -1].astype(int) - back[:, height - 1]).mean() < 8


@pytest.mark.parametrize("write", [write_video, write_gif])
@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_bad_fps(tmp_path, write, fps):
    with pytest.raises(UserError, match=f"above 0, not {fps}"):
        write(moving(), tmp_path / "x.mp4", fps)
    assert not os.listdir(tmp_path)


def test_ffmpeg_failure_is_told_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match=r"x\.mp4: ffmpeg: .+"):
        write_video(moving(), tmp_path / "x.mp4", 1e12)
    assert not os.listdir(tmp_path)


def test_no_ffmpeg(tmp_path, monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(videos.imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(UserError, match="pip install imageio-ffmpeg"):
        write_video(moving(), tmp_path / "x.mp4", 7)


def test_names_that_ffmpeg_could_misread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-y.mp4", "-o/x.mp4", "a:b/x %03d é.mp4"):
        Path(name).parent.mkdir(exist_ok=True)
        write_video(moving(2), name, 7)
        assert Path(name).stat().st_size > 0


def test_wrong_frames_are_a_programming_error(tmp_path):
    for frames in (moving().astype(np.float32), moving()[0], moving().transpose(0, 3, 1, 2), moving()[:0]):
        with pytest.raises(ValueError, match=r"uint8 \(t, h, w, 3\)"):
            contact_sheet(frames)


def test_gif_read_back(tmp_path):
    frames = moving()
    frames[:, :, :, 2] = 128  # 256 colours are few for a picture that holds every hue
    write_gif(frames, tmp_path / "x.gif", 7)
    delays = []
    with Image.open(tmp_path / "x.gif") as image:
        assert image.n_frames == 5 and image.size == (96, 64) and image.info["loop"] == 0
        for index in range(5):
            image.seek(index)
            delays.append(image.info["duration"])
            assert psnr(np.asarray(image.convert("RGB")), frames[index]) > 30
    assert sum(delays) == pytest.approx(5000 / 7, abs=15)


def test_gif_is_not_faster_than_browsers_play(tmp_path):
    write_gif(moving(), tmp_path / "x.gif", 120)
    with Image.open(tmp_path / "x.gif") as image:
        assert image.n_frames == 5 and image.info["duration"] == 20


def test_frames_folder(tmp_path):
    frames = moving(3)
    write_frames(frames, tmp_path / "x_000")
    assert sorted(os.listdir(tmp_path / "x_000")) == ["00000.png", "00001.png", "00002.png"]
    for index in range(3):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x_000" / f"{index:05d}.png")), frames[index])
    assert os.listdir(tmp_path) == ["x_000"]
    with pytest.raises(UserError, match="x_000 exists already"):
        write_frames(frames, tmp_path / "x_000")


def test_frames_folder_is_whole_or_absent(tmp_path, monkeypatch):
    saved = []

    def interrupted(self, path, **_):
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt
        path.write_bytes(b"x")

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_frames(moving(3), tmp_path / "x_000")
    assert len(saved) == 2 and not os.listdir(tmp_path)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (5, 3, 2), (14, 4, 4), (25, 5, 5)])
def test_sheet_layout(count, columns, rows):
    frames = np.stack([np.full((10, 20, 3), 5 * index, np.uint8) for index in range(count)])
    sheet = contact_sheet(frames)
    assert sheet.shape == (rows * 14 - 4, columns * 24 - 4, 3) and sheet.dtype == np.uint8
    for index in range(count):
        row, column = divmod(index, columns)
        tile = sheet[row * 14 : row * 14 + 10, column * 24 : column * 24 + 20]
        np.testing.assert_array_equal(tile, frames[index])
    assert (sheet[10:14] == 255).all() and (sheet[:, 20:24] == 255).all()


def test_sheet_columns():
    assert contact_sheet(moving(5, 10, 20), columns=5).shape == (10, 5 * 24 - 4, 3)
    assert contact_sheet(moving(5, 10, 20), columns=9).shape == (10, 5 * 24 - 4, 3)
    with pytest.raises(ValueError, match="columns"):
        contact_sheet(moving(), columns=0)


def test_sheet_is_at_most_2400_wide_and_undistorted():
    sheet = contact_sheet(np.zeros((25, 144, 1024, 3), np.uint8))
    height, width = sheet.shape[:2]
    assert 2380 < width <= 2400
    assert ((height - 16) / 5) / ((width - 16) / 5) == pytest.approx(144 / 1024, rel=0.01)


@pytest.mark.parametrize("write", [write_video, write_gif])
def test_no_such_folder_is_a_user_error(tmp_path, write):
    with pytest.raises(UserError, match=r"cannot write .*nowhere/x\.out: .*nowhere: No such file"):
        write(moving(), tmp_path / "nowhere" / "x.out", 7)


def test_ctrl_c_during_ffmpeg_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(command, *_):
        Path(command[-1]).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(videos, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_video(moving(), tmp_path / "x.mp4", 7)
    assert not os.listdir(tmp_path)


def ffmpeg(tmp_path, monkeypatch, script):
    """Put a shell script in ffmpeg's place."""
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(videos.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    return program


def test_an_ffmpeg_that_hangs_has_a_time_limit(tmp_path, monkeypatch):
    ffmpeg(tmp_path, monkeypatch, "exec sleep 77")
    monkeypatch.setattr(videos, "_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"x\.mp4: ffmpeg .* did not end in \d+ s"):
        write_video(moving(), tmp_path / "x.mp4", 7)
    assert os.listdir(tmp_path) == ["ffmpeg"]


@pytest.mark.parametrize(("script", "reason"), [("kill -SEGV $$", "ended by signal 11"), ("exit 3", "exit status 3")])
def test_an_ffmpeg_that_crashes(tmp_path, monkeypatch, script, reason):
    ffmpeg(tmp_path, monkeypatch, script)
    with pytest.raises(UserError, match=f"ffmpeg: {reason}"):
        write_video(moving(), tmp_path / "x.mp4", 7)
    assert os.listdir(tmp_path) == ["ffmpeg"]


def test_what_cannot_be_written_is_found_by_trying(tmp_path, monkeypatch):
    for kind in ("mp4", "gif"):
        try_out(kind, 7, tmp_path)
        with pytest.raises(UserError, match="ffmpeg"):
            try_out(kind, 1e-12, tmp_path)
    ffmpeg(tmp_path, monkeypatch, "exit 1")
    with pytest.raises(UserError, match="exit status 1"):
        try_out("mp4", 7, tmp_path)
    assert os.listdir(tmp_path) == ["ffmpeg"]
