"""Measuring video files from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gm.data.outputs import write_png
from gm.data.videos import write_video
from gm.errors import UserError
from svd_tools import evaluate as tool


@pytest.fixture
def folder(tmp_path):
    frames = np.zeros((5, 64, 96, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[20:40, 20 + 4 * i : 50 + 4 * i] = 200
    write_video(frames, tmp_path / "moving.mp4", 8)
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
