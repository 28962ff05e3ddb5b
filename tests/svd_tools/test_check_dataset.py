import os

import numpy as np
import pytest
from PIL import Image

from gm.data.videos import write_frames, write_video
from gm.errors import UserError
from svd_tools import check_dataset as tool

HEAD = "path,length,motion_bucket_id,start,fps\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    frames = np.random.default_rng(0).integers(0, 255, (40, 32, 64, 3), np.uint8)
    for name in ("a.mp4", "b.mp4"):
        write_video(frames, folder / name, 10)
    write_frames(frames[:12], folder / "frames")
    content = bytearray((folder / "a.mp4").read_bytes())
    place = len(content) // 2
    content[place : place + 4000] = np.random.default_rng(0).bytes(4000)
    (folder / "damaged.mp4").write_bytes(content)
    (folder / "half").mkdir()
    for number, frame in enumerate(frames[:12]):
        Image.fromarray(frame).save(folder / "half" / f"{number}.jpg")
    broken = folder / "half" / "5.jpg"
    broken.write_bytes(broken.read_bytes()[:1000])
    return folder


def call(folder, tmp_path, rows, *options):
    (tmp_path / "labels.csv").write_text(HEAD + rows)
    return tool.main([str(tmp_path / "labels.csv"), f"--data_dir={folder}", *options])


GOOD = "a.mp4,25,10,0,\na.mp4,15,20,25,\nb.mp4,40,30,,\nframes,12,30,,5\n"
SAMPLES = ("--frames=4", "--step=5", "--batch_size=2", "--height=64", "--width=64")


def test_it_says_what_training_would_do(folder, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    assert call(folder, tmp_path, GOOD, *SAMPLES, f"--picture={picture}") == 0
    told = capsys.readouterr().out
    assert "4 rows of 3 files" in told
    assert "an epoch has 2 samples, one of each row, of 4 frames, 5 apart: 1 batches of 2" in told
    assert f"they can begin at {25 - 15 + 40 - 15} frames" in told
    assert "dropped: 2 rows shorter than frames * step = 20 frames" in told
    assert "sizes are not in the list" in told and picture.exists()


def test_deep_opens_every_file(folder, tmp_path, capsys):
    assert call(folder, tmp_path, GOOD, *SAMPLES, "--deep") == 0
    told = capsys.readouterr().out
    assert "for 64x64 (height x width) 4 of 4 rows are enlarged, by at most 2.00" in told
    assert "cropping takes 50 % of their pixels away, of the worst row 50 %" in told
    assert "every frame of every file can be read" in told


def test_deep_names_what_cannot_be_read(folder, tmp_path, capsys):
    rows = GOOD + "damaged.mp4,10,1,0,\ndamaged.mp4,10,1,20,\nhalf,12,1,,5\n"
    assert call(folder, tmp_path, rows, *SAMPLES) == 0, "nothing is opened"
    bad = rows.replace("b.mp4,40", "b.mp4,41").replace("a.mp4,15,20,25", "a.mp4,16,20,25")
    with pytest.raises(UserError) as error:
        call(folder, tmp_path, bad, *SAMPLES, "--deep")
    message = str(error.value)
    assert "4 faults" in message
    assert f"line 3: start 25 and length 16 end at 41, but {folder}/a.mp4 has 40 frames" in message
    assert f"line 4: length is 41, but {folder}/b.mp4 has 40 frames" in message
    assert "line 6: " in message and "damaged.mp4: " in message
    assert "line 8: " in message and "5.jpg" in message
    assert "4 frames, 5 apart" in capsys.readouterr().out, "the table is printed all the same"


def test_what_training_refuses_is_told(folder, tmp_path):
    with pytest.raises(UserError, match="2 faults\n  line 2: .*gone.mp4 does not exist\n  line 3: length is not a num"):
        call(folder, tmp_path, "gone.mp4,20,1,,\na.mp4,x,1,,\n", *SAMPLES)
    with pytest.raises(UserError, match="--step must be at least 1, not 0"):
        call(folder, tmp_path, GOOD, "--step=0")


def test_each_folder_is_listed_once_and_no_file_is_opened(tmp_path, monkeypatch):
    rows = []
    for part in range(3):
        (tmp_path / f"part{part}").mkdir()
        for number in range(20):
            (tmp_path / f"part{part}" / f"{number}.mp4").touch()
            rows += [f"part{part}/{number}.mp4,40,1,{40 * scene},\n" for scene in range(5)]
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    monkeypatch.setattr(tool, "open_clip", None)
    assert call(tmp_path, tmp_path, "".join(rows), "--frames=4") == 0
    assert sorted(listed) == [str(tmp_path / f"part{part}") for part in range(3)]
