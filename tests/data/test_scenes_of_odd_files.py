"""Scenes of files as phones, cameras and editors write them: each row begins where ffmpeg shows the scene."""

import csv

import numpy as np
import pytest

from gm.data.video_reader import open_video
from svd_tools import label_videos as tool
from tests.data.drawn_scenes import joined
from tests.data.made_videos import OPEN_GOP, X264, edit_box, ffmpeg, make, shown

SIDE = 96
QUIET = ("-sc_threshold", "0", "-crf", "18")  # no key frame at a cut
VARIABLE = (
    "-vf",
    "setpts='if(lt(N,40),N/30,40/30+(N-40)/10)/TB'",
    "-fps_mode",
    "passthrough",
    "-enc_time_base",
    "1/1000",
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """(frames, the scene of each, folder, {file: [start of each row]}, what was told)."""
    folder = tmp_path_factory.mktemp("odd")
    frames, cuts = joined(5, scenes=4, shortest=20, size=SIDE)
    scene_of = np.searchsorted(cuts, np.arange(len(frames)), side="right")
    source = make(frames, folder / "plain.mp4", *X264, *QUIET)
    make(frames, folder / "variable.mkv", *X264, *QUIET, *VARIABLE)
    make(frames, folder / "open.mp4", *OPEN_GOP, "-crf", "18")
    for name, options in (
        ("turned.mp4", ("-display_rotation", "90")),
        ("mirrored.mov", ("-display_hflip",)),
        ("camera.mts", ()),
    ):
        ffmpeg(*options, "-i", source, "-c", "copy", folder / name)
    for name, whole in (("cut.mp4", "plain.mp4"), ("cut.mkv", "plain.mp4"), ("cut open.mp4", "open.mp4")):
        ffmpeg("-ss", "0.7", "-i", folder / whole, "-c", "copy", "-t", "2", folder / name)

    def shorten(content, place):
        units = int.from_bytes(content[place + 12 : place + 16], "big")
        content[place + 12 : place + 16] = (units * 2 // 3).to_bytes(4, "big")

    edit_box(source, folder / "trimmed.mp4", b"elst", shorten)
    ffmpeg("-i", source, "-c", "copy", "-movflags", "+faststart", folder / "cut off.mp4")
    content = (folder / "cut off.mp4").read_bytes()
    (folder / "cut off.mp4").write_bytes(content[: len(content) * 2 // 3])
    output = tmp_path_factory.mktemp("labels") / "labels.csv"
    failures = tool.label_videos(folder, output, split_scenes=True)
    starts = {}
    with open(output, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            starts.setdefault(row["path"], []).append(int(row["start"]))
    return frames, scene_of, folder, starts, dict(failures)


def begin(scenes):
    """The first frames of scenes, from the scene of each frame."""
    return [0, *(np.flatnonzero(np.diff(scenes)) + 1).tolist()]


@pytest.mark.parametrize("name", ["plain.mp4", "variable.mkv", "open.mp4", "turned.mp4", "mirrored.mov", "camera.mts"])
def test_of_all_frames(labelled, name):
    _, scene_of, _, starts, _ = labelled
    assert len(begin(scene_of)) == 4 and starts[name] == begin(scene_of)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut open.mp4", "trimmed.mp4"])
def test_of_a_part(labelled, name):
    frames, scene_of, folder, starts, _ = labelled
    pictures = shown(folder / name, size=(SIDE, SIDE))
    assert 20 < len(pictures) < len(frames)
    small, known = (a[:, ::8, ::8].reshape(len(a), -1).astype(int) for a in (pictures, frames))
    nearest = [int(np.abs(known - one).mean(1).argmin()) for one in small]
    assert len(begin(scene_of[nearest])) > 1 and starts[name] == begin(scene_of[nearest])


def test_a_file_that_is_cut_off_has_no_row_and_one_message(labelled):
    frames, _, folder, starts, failures = labelled
    assert list(failures) == ["cut off.mp4"] and "cut off.mp4" not in starts and len(starts) == 10
    assert "cut off" in failures["cut off.mp4"] and f"{len(frames)}" in failures["cut off.mp4"]
    with open_video(folder / "plain.mp4") as video:
        assert video.length == len(frames)
