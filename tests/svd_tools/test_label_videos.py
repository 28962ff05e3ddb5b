import csv
import os
import random
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from gm import locks
from gm.data import motion
from gm.data.frame_folder import open_clip
from gm.data.metadata import read_metadata
from gm.data.outputs import write_png
from gm.data.videos import write_frames, write_gif, write_video
from gm.errors import UserError
from svd_tools import label_videos as tool
from tests.data.drawn_scenes import joined
from tests.data.made_videos import make


def moving(pixels_per_frame, count=13):
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (12, 40, 3), np.uint8)
    wide = cv2.resize(coarse, (320, 96), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:64, 20 + i * pixels_per_frame :][:, :96] for i in range(count)])


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    (folder / "sub, one").mkdir(parents=True)
    write_video(moving(0), folder / "still.mp4", 6)
    write_video(moving(2), folder / "sub, one" / "fast.mp4", 6)
    write_gif(moving(1), folder / "slow.gif", 5)
    (folder / "notes.txt").write_text("not a video")
    (folder / ".hidden.mp4").write_text("not ours")
    return folder


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_labels_can_be_trained_on_and_tell_the_motion(videos, tmp_path):
    output = tmp_path / "labels.csv"
    assert tool.main([str(videos), "--output", str(output)]) == 0
    rows = {row["path"]: row for row in rows_of(output)}
    assert list(rows) == ["slow.gif", "still.mp4", "sub, one/fast.mp4"]
    assert [row["length"] for row in rows.values()] == ["13"] * 3
    assert [float(row["fps"]) for row in rows.values()] == [5.0, 6.0, 6.0]
    scores = [float(rows[path]["motion_score"]) for path in ("still.mp4", "slow.gif", "sub, one/fast.mp4")]
    assert scores[0] < 0.2 and scores[1] > 3 and scores[2] > 1.5 * scores[1]
    for row in rows.values():
        assert int(row["motion_bucket_id"]) == motion.bucket(float(row["motion_score"]))
    metadata = read_metadata(output, videos, 3, 2, verify_files="open")
    assert len(metadata.clips) == 3 and metadata.clips[0].fps == 5.0
    left = sorted(path.name for path in tmp_path.iterdir() if path != videos)
    assert left == [".labels.csv.folder", "labels.csv"], "nothing else is left behind"


def test_bad_videos_are_left_out_and_told(videos, tmp_path, capsys):
    (videos / "a_text.mp4").write_text("not a video")
    content = (videos / "still.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(content[: len(content) // 2])
    write_video(moving(0, 1), videos / "single.mp4", 6)
    output = tmp_path / "labels.csv"
    assert tool.main([str(videos), "--output", str(output)]) == 1
    assert len(rows_of(output)) == 3
    error = capsys.readouterr().err
    summary = error[error.index("3 videos left out") :]
    assert "a_text.mp4: a text file" in summary and "cut.mp4" in summary and "single.mp4: has a single frame" in summary


def test_a_name_that_is_not_utf8_is_left_out_and_told(videos, tmp_path, capsys):
    os.rename(videos / "still.mp4", os.fsencode(videos) + b"/caf\xe9.mp4")
    assert tool.main([str(videos), "--output", str(tmp_path / "labels.csv")]) == 1
    assert [row["path"] for row in rows_of(tmp_path / "labels.csv")] == ["slow.gif", "sub, one/fast.mp4"]
    assert "b'caf\\xe9.mp4': a name that is not UTF-8" in capsys.readouterr().err


def test_resuming_measures_only_what_is_missing(videos, tmp_path, monkeypatch):
    output, partial = tmp_path / "labels.csv", tmp_path / "labels.csv.partial"
    whole = tmp_path / "whole.csv"
    tool.label_videos(videos, whole)
    lines = whole.read_text().splitlines(keepends=True)
    partial.write_text("".join(lines[:2]) + lines[2][:-3])  # killed while it wrote the second row

    measured = []
    original = tool.label

    def counted(folder, path, *options):
        measured.append(path)
        return original(folder, path, *options)

    monkeypatch.setattr(tool, "label", counted)
    with pytest.raises(UserError, match="labels.csv.partial exists: pass --resume"):
        tool.label_videos(videos, output)
    assert tool.label_videos(videos, output, resume=True) == []
    assert sorted(measured) == ["still.mp4", "sub, one/fast.mp4"]
    assert output.read_text() == whole.read_text() and not partial.exists()

    with pytest.raises(UserError, match="labels.csv exists: pass --resume"):
        tool.label_videos(videos, output)
    (videos / "slow.gif").rename(videos / "renamed.gif")
    measured.clear()
    tool.label_videos(videos, output, resume=True)  # a finished file is brought up to date
    assert measured == ["renamed.gif"]
    assert [row["path"] for row in rows_of(output)] == ["renamed.gif", "still.mp4", "sub, one/fast.mp4"]


def test_resuming_measures_anew_what_has_changed(videos, tmp_path, capsys):
    """Another video under the name of one that was listed, and folders of frames at another rate."""
    for name in ("folder", "touched"):
        (videos / name).mkdir()
        for number in range(3):
            write_png(moving(2, 3)[number], videos / name / f"{number}.png")
    output = tmp_path / "labels.csv"
    options = dict(resume=True, frames_fps=8.0)
    tool.label_videos(videos, output, **options)
    first = {row["path"]: row for row in rows_of(output)}
    tool.label_videos(videos, output, **options)
    assert "measured anew" not in capsys.readouterr().err and {row["path"]: row for row in rows_of(output)} == first
    os.replace(videos / "sub, one/fast.mp4", videos / "still.mp4")  # which was written before the list was
    later = output.stat().st_mtime_ns + 10**9
    tool.label_videos(videos, output, **options)
    assert capsys.readouterr().err.count("measured anew") == 1
    second = {row["path"]: row for row in rows_of(output)}
    assert second["still.mp4"]["motion_score"] == first["sub, one/fast.mp4"]["motion_score"]
    os.utime(videos / "still.mp4", (1, 1))
    os.utime(videos / "touched/2.png", ns=(later + 10**10, later + 10**10))
    tool.label_videos(videos, output, **options)
    assert "touched: it or its frame rate has changed" in capsys.readouterr().err
    os.utime(videos / "touched/2.png", (1, 1))
    tool.label_videos(videos, output, resume=True, frames_fps=12.0)
    assert capsys.readouterr().err.count("measured anew") == 2
    assert {row["path"]: row["fps"] for row in rows_of(output)}["folder"] == "12"


def test_resuming_without_high_dynamic_range_leaves_out_what_was_listed_with_it(tmp_path, capsys):
    videos, output = tmp_path / "videos", tmp_path / "labels.csv"
    videos.mkdir()
    for name, transfer in (("plain", "bt709"), ("bright", "smpte2084")):
        tags = f"setparams=color_trc={transfer}:colorspace=bt2020nc:color_primaries=bt2020"
        make(moving(2), videos / f"{name}.mkv", "-pix_fmt", "yuv420p10le", "-c:v", "libx264", "-vf", tags)
    assert tool.main([str(videos), "--output", str(output)]) == 0
    assert [row["path"] for row in rows_of(output)] == ["bright.mkv", "plain.mkv"]
    assert tool.main([str(videos), "--output", str(output), "--resume", "--hdr=refuse"]) == 1
    assert [row["path"] for row in rows_of(output)] == ["plain.mkv"]
    assert "bright.mkv: high dynamic range (PQ), and hdr is refuse" in capsys.readouterr().err
    assert tool.main([str(videos), "--output", str(output), "--resume"]) == 0
    assert [row["path"] for row in rows_of(output)] == ["bright.mkv", "plain.mkv"]


def test_another_folder_with_the_same_names_does_not_take_over_a_list(tmp_path):
    """Its videos are older than the list, so that nothing else tells them from the ones that were measured."""
    first, second, output = tmp_path / "first", tmp_path / "second", tmp_path / "labels.csv"
    for folder, speed in ((first, 0), (second, 2)):
        folder.mkdir()
        write_video(moving(speed), folder / "a.mp4", 6)
    tool.label_videos(first, output)
    listed = output.read_bytes()
    with pytest.raises(UserError, match=f"is of the videos in {first}, not of those in {second}: name another"):
        tool.label_videos(second, output, resume=True)
    assert output.read_bytes() == listed
    (tmp_path / "link").symlink_to(first)
    assert tool.label_videos(tmp_path / "link", output, resume=True) == []  # the same by another name
    output.unlink()
    tool.label_videos(second, output)
    assert float(rows_of(output)[0]["motion_score"]) > 1
    assert tool.label_videos(second, output, resume=True) == []


def test_an_interrupted_run_keeps_its_rows(videos, tmp_path, monkeypatch):
    original = tool.label

    def interrupted(folder, path, *options):
        if path == "sub, one/fast.mp4":
            raise KeyboardInterrupt
        return original(folder, path, *options)

    monkeypatch.setattr(tool, "label", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tool.label_videos(videos, tmp_path / "labels.csv", workers=1)
    assert not (tmp_path / "labels.csv").exists()
    assert list(tool.read_rows(tmp_path / "labels.csv.partial")) == ["slow.gif", "still.mp4"]


def test_wrong_calls_are_refused(videos, tmp_path):
    output = tmp_path / "labels.csv"
    (tmp_path / "empty").mkdir()
    for arguments, reason in [
        ([tmp_path / "nowhere", "--output", output], "no folder at"),
        ([tmp_path / "empty", "--output", output], "no videos in"),
        ([videos, "--output", tmp_path / "no" / "labels.csv"], "cannot write .*no"),
        ([videos, "--output", "."], "--output=. is a folder: name the file"),
        ([videos, "--output", tmp_path, "--resume"], "--output=.* is a folder: name the file"),
        ([videos, "--output", output, "--workers", "0"], "--workers must be at least 1, not 0"),
    ]:
        with pytest.raises(UserError, match=reason):
            tool.main([str(argument) for argument in arguments])
    output.write_text("name,score\na.mp4,1\n")
    with pytest.raises(UserError, match="does not have the columns path,length"):
        tool.main([str(videos), "--output", str(output), "--resume"])


NAMES = [
    " lead.mp4", "trail.mp4 ", '"quoted" it.mp4', "a,b;c.mp4", "two\nlines.mp4", "a\rb.mp4", "a\r\nb.mp4", "#1.mp4",
    "\ufeffbom.mp4", "\u2028.mp4", "a\x0bb\x85.mp4", "back\\slash.mp4", "NA.mp4", "é.mp4", "e\u0301.mp4",
    "-x.mp4", "'.mp4", "\t.mp4", " /  .mp4", "=1+1.mp4", "\x1b[31m.mp4",
]  # fmt: skip


def test_every_name_that_is_written_is_read_back(tmp_path):
    """trained on: read by train.py's own reader. And read again by --resume."""
    write_video(moving(1), tmp_path / "one.mp4", 6)
    for name in NAMES:
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / "one.mp4", path)
    output = tmp_path / "labels.csv"
    named = [name for name in NAMES if not name.endswith(" ")]  # a suffix with a blank is none
    assert tool.main([str(tmp_path / "videos"), "--output", str(output)]) == 0
    assert sorted(row["path"] for row in rows_of(output)) == sorted(named)
    clips = read_metadata(output, tmp_path / "videos", 3, 2, verify_files="open").clips
    assert sorted(str(clip.path) for clip in clips) == sorted(str(tmp_path / "videos" / name) for name in named)
    assert sorted(tool.read_rows(output)) == sorted(named)
    before = output.read_bytes()
    assert tool.main([str(tmp_path / "videos"), "--output", str(output), "--resume"]) == 0
    assert output.read_bytes() == before


def test_folders_of_frames_are_clips(videos, tmp_path, capsys):
    (videos / "clips").mkdir()
    write_frames(moving(2), videos / "clips" / "one")
    (videos / "clips" / "one" / "meta.json").touch()
    for name in ("still.jpg", "sub, one/fast.png", "clips/cover.webp", "clips/one/._00001.png"):
        (videos / name).touch()  # previews, and what macOS leaves
    output = tmp_path / "labels.csv"
    assert tool.main([str(videos), f"--output={output}", "--frames_fps=6"]) == 0
    assert "left out by suffix: 5 other files (1 .jpg, 1 .json, 1 .png, 1 .txt, 1 .webp)" in capsys.readouterr().err
    rows = {row["path"]: row for row in rows_of(output)}
    assert sorted(rows) == ["clips/one", "slow.gif", "still.mp4", "sub, one/fast.mp4"]
    assert rows["clips/one"]["length"] == "13" and rows["clips/one"]["fps"] == "6"
    bucket, other = (int(rows[path]["motion_bucket_id"]) for path in ("clips/one", "sub, one/fast.mp4"))
    assert abs(bucket - other) <= 2, "the same content as a video"
    assert len(read_metadata(output, videos, 3, 2, verify_files="open").clips) == 4


def test_folders_of_frames_that_cannot_be_labelled_are_told(videos, tmp_path, capsys):
    write_frames(moving(2), videos / "frames")
    assert tool.main([str(videos), f"--output={tmp_path / 'a.csv'}"]) == 1
    assert "frames: a folder of pictures states no frame rate: give it by --frames_fps" in capsys.readouterr().err
    cv2.imwrite(str(videos / "frames" / "00007.png"), np.zeros((8, 8, 3), np.uint8))
    assert tool.main([str(videos), f"--output={tmp_path / 'b.csv'}", "--frames_fps=6"]) == 1
    assert "00007.png has 8x8 pixels" in capsys.readouterr().err
    for bad in ("0", "-1"):
        with pytest.raises(UserError, match="--frames_fps must be above 0"):
            tool.main([str(videos), f"--output={tmp_path / 'c.csv'}", f"--frames_fps={bad}"])


def test_links_are_followed_once(videos, tmp_path, capsys):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    write_video(moving(1), tmp_path / "elsewhere" / "deep" / "far.mp4", 6)
    (videos / "a link").symlink_to(tmp_path / "elsewhere")
    (videos / "a same").symlink_to(videos / "sub, one")  # sorted before what it leads to
    (tmp_path / "elsewhere" / "back").symlink_to(videos)
    (videos / "self.mp4").symlink_to("self.mp4")
    (videos / "copy.mp4").symlink_to("still.mp4")
    assert tool.main([str(videos), f"--output={tmp_path / 'labels.csv'}"]) == 1
    assert [row["path"] for row in rows_of(tmp_path / "labels.csv")] == [
        "a link/deep/far.mp4", "copy.mp4", "slow.gif", "still.mp4", "sub, one/fast.mp4"
    ]  # fmt: skip
    error = capsys.readouterr().err
    assert "a same: a link to a folder that is searched anyway" in error and "back: a link to a folder" in error
    assert "1 videos left out" in error and "self.mp4" in error


def test_a_folder_that_cannot_be_read_is_told(videos, tmp_path, capsys, monkeypatch):
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("sub, one"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)  # not by chmod: tests may run as root
    assert tool.main([str(videos), f"--output={tmp_path / 'labels.csv'}"]) == 1
    assert "sub, one: cannot look into this folder: Permission denied" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "labels.csv")) == 2


def test_the_command_line(videos, tmp_path):
    (videos / "a_text.mp4").write_text("not a video")
    result = subprocess.run(
        [sys.executable, "svd_tools/label_videos.py", str(videos), "--output", str(tmp_path / "labels.csv")],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert "3 videos labelled" in result.stdout and "1 videos left out" in result.stderr
    assert "Traceback" not in result.stderr


def test_one_process_at_a_time_writes_a_list(tmp_path):
    lock = locks.take(tmp_path / ".labels.csv.lock")
    for resume in (False, True):
        with pytest.raises(UserError, match="another process is writing .*labels.csv"):
            tool.label_videos(tmp_path, tmp_path / "labels.csv", resume=resume)
    lock.release()


def test_buckets_are_fitted_to_the_collection(tmp_path, capsys):
    """On a finished list, so that no video is measured."""
    folder, output, other = tmp_path / "videos", tmp_path / "labels.csv", tmp_path / "other.csv"
    folder.mkdir()
    rows = [",".join(tool.COLUMNS)]
    for number in range(25):
        (folder / f"{number:02}.mp4").touch()
        score = (7 * number) % 25 / 4
        rows.append(f"{number:02}.mp4,30,{motion.bucket(score)},6,{score:.4f}")
    for path in (output, other):
        path.write_text("\n".join(rows) + "\n")
    argv = [str(folder), "--resume"]
    tool.main([*argv, f"--output={output}"])
    assert output.read_bytes() == other.read_bytes(), "the fixed scale is the default"
    tool.main([*argv, f"--output={output}", "--calibrate"])
    assert "labels.calibration.json: bucket 127 is the median motion of the 25 clips" in capsys.readouterr().out
    fitted = sorted(rows_of(output), key=lambda row: float(row["motion_score"]))
    assert [float(row["motion_score"]) for row in fitted] == [n / 4 for n in range(25)]
    assert [int(row["motion_bucket_id"]) for row in fitted] == [round(254 * n / 24) for n in range(25)]
    assert [row["path"] for row in rows_of(output)] == [f"{number:02}.mp4" for number in range(25)]

    before = output.read_bytes(), (tmp_path / "labels.calibration.json").read_bytes()
    tool.main([*argv, f"--output={output}", "--calibrate"])
    tool.main([*argv, f"--output={other}", f"--calibration={tmp_path / 'labels.calibration.json'}"])
    for name in ("labels", "other"):
        assert ((tmp_path / f"{name}.csv").read_bytes(), (tmp_path / f"{name}.calibration.json").read_bytes()) == before
    with pytest.raises(UserError, match="has a scale of its own.*--calibrate fits it anew"):
        tool.main([*argv, f"--output={output}"])
    with pytest.raises(UserError, match="give one of them"):
        tool.main([*argv, f"--output={output}", "--calibrate", "--calibration=x.json"])


@pytest.fixture(scope="module")
def joins(tmp_path_factory):
    """(folder, {name: first frames of its scenes}): videos of 3, 1 and 2 scenes, and one that has a single frame."""
    folder, starts = tmp_path_factory.mktemp("joins"), {}
    for name, count in (("a.mp4", 3), ("b, b.mp4", 1), ("c.mp4", 2)):
        frames, cuts = joined(count, count, shortest=24, size=64)
        write_video(frames, folder / name, 12)
        starts[name] = [0, *cuts]
    write_video(joined(1, 1, size=64)[0][:1], folder / "single.mp4", 12)
    return folder, starts


def test_scenes_are_rows_that_can_be_trained_on(joins, tmp_path, capsys):
    folder, starts = joins
    output = tmp_path / "labels.csv"
    assert tool.main([str(folder), f"--output={output}", "--split_scenes"]) == 1  # one is left out
    assert "3 videos, 6 scenes, labelled" in capsys.readouterr().out
    rows = rows_of(output)
    assert {name: [int(row["start"]) for row in rows if row["path"] == name] for name in starts} == starts
    assert tuple(rows[0]) == tool.SCENE_COLUMNS and {(row["width"], row["height"]) for row in rows} == {("64", "64")}
    clips = read_metadata(output, folder, 3, 2, verify_files="open").clips
    assert [(clip.start, clip.length) for clip in clips] == [(int(r["start"]), int(r["length"])) for r in rows]
    with pytest.raises(UserError, match="does not have the columns path,length,motion_bucket_id,fps,motion_score;"):
        tool.label_videos(folder, output, resume=True)  # of another kind of labelling
    # Each scene has the motion that it has as a video of its own.
    with open_clip(folder / "a.mp4") as video:
        row = rows[1]
        start, length = int(row["start"]), int(row["length"])
        alone = motion.motion_score(video.frames(range(start, start + length)), 12)
    assert float(row["motion_score"]) == pytest.approx(alone, abs=1e-3)


def test_scenes_of_a_video_that_was_cut_off_are_found_anew(joins, tmp_path):
    folder, _ = joins
    whole, output = tmp_path / "whole.csv", tmp_path / "labels.csv"
    tool.label_videos(folder, whole, split_scenes=True)
    content = whole.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for size in (ends[1] + 9, ends[2], ends[4], ends[4] + 9):  # within the first video, and after the second
        output.unlink(missing_ok=True)
        (tmp_path / "labels.csv.partial").write_bytes(content[:size])  # what a killed run leaves
        tool.label_videos(folder, output, resume=True, split_scenes=True)
        assert output.read_bytes() == content, size


@pytest.mark.slow
def test_killed_ten_times_it_ends_with_the_same_bytes(joins, tmp_path):
    folder, _ = joins
    for number in range(20):
        os.link(folder / "a.mp4", tmp_path / f"{number}.mp4")
    whole, output = tmp_path / "whole.csv", tmp_path / "labels.csv"
    tool.label_videos(tmp_path, whole, split_scenes=True)
    command = [
        sys.executable,
        "svd_tools/label_videos.py",
        str(tmp_path),
        f"--output={output}",
        "--split_scenes",
        "--resume",
        "--workers=1",
    ]
    chance, killed = random.Random(0), 0
    while killed < 10:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(chance.uniform(1.5, 4))
            killed += process.poll() is None
            process.send_signal(signal.SIGKILL)
        if output.exists():
            assert output.read_bytes() == whole.read_bytes()
            output.unlink()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert output.read_bytes() == whole.read_bytes()
