"""Names of folders and files that are not UTF-8, through the tools for data sets."""

from __future__ import annotations

import csv
import os

from gm.data.videos import write_video
from svd_tools import check_dataset, label_videos, preview, select_clips
from tests.svd_tools.test_label_videos import moving


def test_a_name_that_is_not_utf_8_is_one_as_any_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = os.fsdecode(b"f\xfcr")
    os.mkdir(folder)
    os.mkdir("lists")
    for number, speed in enumerate((1, 2)):
        write_video(moving(speed), f"{folder}/{number}.mp4", 6)
    labels, chosen = f"lists/{folder}", f"lists/{folder}.chosen"
    for more in ([], ["--resume"]):
        assert label_videos.main([folder, "--output", labels, "--workers=1", *more]) == 0
    assert check_dataset.main([labels, "--data_dir", folder, "--frames=3"]) == 0
    assert select_clips.main([labels, "--output", chosen, "--where=length > 1"]) == 0
    with open(chosen, newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["0.mp4", "1.mp4"]
    sheet, size = f"lists/{folder}.png", ["--frames=3", "--step=1", "--height=64", "--width=64"]
    assert preview.main([labels, f"--data_dir={folder}", f"--output={sheet}", "--count=2", *size]) == 0
    assert os.path.getsize(sheet) > 0
