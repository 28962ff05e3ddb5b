"""Measuring video files from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gm.data import metrics
from gm.data.images import load_image
from gm.data.outputs import write_png
from gm.data.videos import write_frames, write_video
from gm.errors import UserError
from svd_tools import evaluate as tool


@pytest.fixture
def folder(tmp_path):
    frames = np.zeros((5, 64, 96, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[20:40, 20 + 4 * i : 50 + 4 * i] = 200
    write_video(frames, tmp_path / "moving.mp4", 8)
    write_frames(frames, tmp_path / "frames")
    write_png(frames[0], tmp_path / "first.png")
    (tmp_path / "broken.mp4").write_text("not a video")
    return tmp_path


def test_what_can_be_read_is_measured_and_the_rest_told(folder, capsys):
    paths = [str(folder / "broken.mp4"), str(folder / "moving.mp4")]
    assert tool.main([*paths, f"--image={folder / 'first.png'}", f"--json={folder / 'out.json'}"]) == 1
    printed = capsys.readouterr()
    assert "moving.mp4" in printed.out and "motion_score" in printed.out
    assert f"left out: {paths[0]}" in printed.err
    found = json.loads((folder / "out.json").read_text())
    assert list(found) == paths[1:] and found[paths[1]]["first_frame_psnr"] > 30


def test_nothing_to_measure(folder):
    with pytest.raises(UserError, match="broken.mp4"):
        tool.main([str(folder / "broken.mp4")])
    assert tool.main([str(folder / "moving.mp4")]) == 0


def test_a_folder_of_frames_is_measured_like_a_video(folder):
    frames = np.stack([load_image(path) for path in sorted((folder / "frames").iterdir())])
    path = str(folder / "frames")
    assert tool.main([path, "--frames_fps=8", f"--json={folder / 'out.json'}"]) == 0
    found = json.loads((folder / "out.json").read_text())[path]
    assert found["motion_score"] == pytest.approx(metrics.evaluate(frames, 8.0)["motion_score"]) != 0
    with pytest.raises(UserError, match="frames: a folder of pictures states no frame rate: give it by --frames_fps"):
        tool.main([path])
    with pytest.raises(UserError, match="--frames_fps must be above 0"):
        tool.main([path, "--frames_fps=0"])


def test_videos_of_one_name_are_told_apart():
    found = {name: {"motion_score": 1.0} for name in ("a/video.mp4", "b/video.mp4", "b/other.mp4")}
    assert tool.table(found).splitlines()[0].split() == ["a/video.mp4", "b/video.mp4", "other.mp4"]
