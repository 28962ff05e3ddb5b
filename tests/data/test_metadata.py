import bz2
import gzip
import logging
import lzma
import os
import re
import socket
import time
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gm.data.metadata import read_metadata
from gm.data.videos import write_frames, write_video
from gm.errors import UserError

HEAD = "path,length,motion_bucket_id\n"


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b, c.mp4", "ü.mp4", "sub/d.mp4", "sub/e.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def read(folder, text, encoding="utf-8", frames=4, step=2, **options):
    (folder / "labels.csv").write_bytes(text.encode(encoding))
    return read_metadata(folder / "labels.csv", folder, frames, step, **options)


def fault(folder, text, **options):
    with pytest.raises(UserError) as error:
        read(folder, text, **options)
    assert "labels.csv" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("ending, encoding", [("\n", "utf-8"), ("\r\n", "utf-8-sig")])
def test_rows_are_read_as_they_are_meant(folder, ending, encoding):
    rows = [
        " path , length,motion_bucket_id,note,fps",
        "a.mp4,20,127,,7.5",
        '"b, c.mp4", 21 ,0,x,',
        "",
        "ü.mp4,22.0,255,NA,30",
        f"{folder}/sub/d.mp4,8,64,,1",
        "sub/../sub/e.mp4,8,64,,1",
    ]
    metadata = read(folder, ending.join(rows) + ending, encoding)
    names = [str(clip.path.relative_to(folder)) for clip in metadata.clips]
    assert names == ["a.mp4", "b, c.mp4", "ü.mp4", "sub/d.mp4", "sub/e.mp4"]
    assert [clip.length for clip in metadata.clips] == [20, 21, 22, 8, 8]
    assert [clip.motion_bucket_id for clip in metadata.clips] == [127, 0, 255, 64, 64]
    assert [clip.fps for clip in metadata.clips] == [7.5, None, 30.0, 1.0, 1.0]
    assert [clip.line for clip in metadata.clips] == [2, 3, 5, 6, 7]
    assert metadata.dropped == []


def test_all_faults_are_told_together_with_their_lines(folder):
    text = (
        "path,length,motion_bucket_id,fps\n"
        "a.mp4,20,127,7\n"  # line 2, the only good one
        "a.mp4,twenty,127,7\n"
        "a.mp4,-5,127,7\n"
        "a.mp4,0,127,7\n"
        "a.mp4,20,,7\n"
        ",20,127,7\n"
        "gone.mp4,20,127,7\n"
        "sub,20,127,7\n"
        "a.mp4,20.5,1,7\n"
        "a.mp4,inf,1,7\n"
        "a.mp4,20,1,0\n"
        "a.mp4,20\n"
        "a.mp4,20,1,fast\n"
    )
    message = fault(folder, text)
    for expected in (
        "line 3: length is not a number: 'twenty'",
        "line 4: length must be at least 1 frame, not '-5'",
        "line 5: length must be at least 1 frame, not '0'",
        "line 6: motion_bucket_id is empty",
        "line 7: path is empty",
        f"line 8: {folder}/gone.mp4 does not exist",
        f"line 9: {folder}/sub: a folder without pictures",
        "line 10: length must be a whole number, not '20.5'",
        "line 11: length is not a number: 'inf'",
        "line 12: fps must be above 0, not '0'",
        "line 13: motion_bucket_id is empty",
        "line 14: fps is not a number: 'fast'",
    ):
        assert expected in message
    assert "12 faults" in message and "line 2:" not in message


def test_lines_are_counted_over_quoted_line_breaks_and_blank_lines(folder):
    message = fault(folder, HEAD + '"two\nlines.mp4",20,1\n\na.mp4,x,1\n')
    assert "line 2: " in message and "line 5: length is not a number: 'x'" in message


def test_only_the_first_20_faults_are_listed(folder):
    message = fault(folder, HEAD + "gone.mp4,20,1\n" * 33)
    assert "33 faults" in message and "line 21:" in message and "line 22:" not in message
    assert message.endswith("… and 13 more")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "is empty"),
        (HEAD, "lists no clips"),
        (HEAD + "\n\n", "lists no clips"),
        ("path,length\na.mp4,20\n", "line 1: missing column motion_bucket_id; it has path, length"),
        ("a.mp4,20,127\n", "missing column path, length, motion_bucket_id"),
        ("path,length,motion_bucket_id,length\na.mp4,20,1,30\n", "line 1: the column length appears more than once"),
        (HEAD + "a.mp4,20,1\nb, c.mp4,20,1\nb, c, d.mp4,20,1\n", "line 3: 4 fields where the header has 3"),
        (HEAD + "b, c.mp4,20,1\n", "line 2: 4 fields where the header has 3"),
        (HEAD + 'a.mp4,20,1\n"a.mp4,20,1\n', "line 3: "),
        (HEAD + "a.mp4,20,1\na.mp4,2\x000,1\n", "line 3: a null character: the file is damaged, or UTF-16"),
        (HEAD.replace(",", ";"), "separated by semicolons: save it with commas"),
        (HEAD.replace(",", "\t"), "separated by tabs: save it with commas"),
    ],
)
def test_a_file_that_is_no_table_of_clips_is_refused(folder, text, expected):
    assert expected in fault(folder, text)


def test_other_encodings_and_missing_files_are_told(folder):
    assert "not UTF-8" in fault(folder, HEAD + "ü.mp4,20,1\n", encoding="latin-1")
    with pytest.raises(UserError, match="no metadata file at .*none.csv"):
        read_metadata(folder / "none.csv", folder, 4, 2)
    os.mkfifo(folder / "pipe.csv")
    for path, kind in ((folder, "a folder"), (folder / "pipe.csv", "a pipe"), ("/dev/zero", "a device")):
        with pytest.raises(UserError, match=f"metadata file {path} is {kind}"):
            read_metadata(path, folder, 4, 2)


def test_short_clips_are_dropped_and_listed(folder, caplog):
    text = HEAD + "a.mp4,8,1\nsub/d.mp4,7,1\nü.mp4,1,1\n"
    with caplog.at_level(logging.WARNING):
        metadata = read(folder, text, frames=4, step=2)
    assert [clip.line for clip in metadata.clips] == [2]
    assert [clip.line for clip in metadata.dropped] == [3, 4]
    assert "2 of 3 clips dropped" in caplog.text and "d.mp4 (7 frames)" in caplog.text
    assert "every clip is shorter than frames * step = 4 * 3 = 12" in fault(folder, text, step=3)


@pytest.mark.parametrize(
    "lengths, frames, step, remedy",
    [
        ((9, 8, 40), 4, 3, "step=2 would keep them all"),
        ((9, 3, 40), 4, 3, "step=2 would keep the longest of them, frames=3 with step=1 all"),
        ((3, 2, 40), 4, 3, "frames=2 with step=1 would keep them all"),
        ((3, 2, 40), 4, 1, "frames=2 with step=1 would keep them all"),
    ],
)
def test_what_would_keep_short_clips_is_named_and_does_so(folder, caplog, lengths, frames, step, remedy):
    text = HEAD + "".join(f"{name},{length},1\n" for name, length in zip(("a.mp4", "ü.mp4", "sub/d.mp4"), lengths))
    with caplog.at_level(logging.WARNING):
        read(folder, text, frames=frames, step=step)
    assert remedy in caplog.text
    changed = dict(part.split("=") for part in re.findall(r"(?:frames|step)=\d+", remedy.split(", ")[-1]))
    kept = read(folder, text, **{"frames": frames, **{name: int(value) for name, value in changed.items()}})
    assert len(kept.clips) == 3


def test_odd_buckets_are_a_warning(folder, caplog):
    with caplog.at_level(logging.WARNING):
        metadata = read(folder, HEAD + "a.mp4,20,300\nü.mp4,20,-1\nsub/d.mp4,20,255\n")
    assert [clip.motion_bucket_id for clip in metadata.clips] == [300, -1, 255]
    assert "line 2: 300" in caplog.text and "line 3: -1" in caplog.text and "line 4" not in caplog.text


def test_opening_the_files_finds_wrong_lengths_and_damage(folder):
    frames = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), np.uint8)
    write_video(frames, folder / "a.mp4", 10)
    write_video(frames, folder / "long.mp4", 10)
    write_video(frames[:1], folder / "one.mp4", 10)
    (folder / "cut.mp4").write_bytes((folder / "a.mp4").read_bytes()[:8000])
    damaged = bytearray((folder / "a.mp4").read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 3000] = np.random.default_rng(0).bytes(3000)
    (folder / "damaged.mp4").write_bytes(damaged)
    (folder / "text.mp4").write_text("not a video")
    names = ("a", "long", "cut", "text", "one", "gone", "damaged")
    text = HEAD + "".join(f"{name}.mp4,{13 if name == 'long' else 12},1\n" for name in names)
    message = fault(folder, text, verify_files="open")
    assert "6 faults" in message
    assert f"line 3: length is 13, but {folder}/long.mp4 has 12 frames" in message
    assert "line 4: " in message and "can be read (the file states 12)" in message
    assert "line 5: " in message and "a text file" in message
    assert "line 8: " in message and "damaged.mp4: frame 11 was asked for" in message
    assert "one.mp4 has 1 frame" in message and "gone.mp4 does not exist" in message
    assert "1 fault\n  line 7" in fault(folder, text, verify_files="exists")  # looks no further than the name
    for _ in "made", "kept":
        found = read(folder, HEAD + "a.mp4,12,1\n", verify_files="open", index_folder=folder / "index")
        assert len(found.clips) == 1 and len(list((folder / "index").iterdir())) == 1


def test_100000_rows_are_checked_in_seconds(tmp_path):
    rows = []
    for part in range(20):
        (tmp_path / f"part{part}").mkdir()
        for number in range(50):
            (tmp_path / f"part{part}" / f"{number}.mp4").touch()
    for link in range(100):
        (tmp_path / f"link{link}").symlink_to(".")  # so that 1000 files have 100000 paths
    for row in range(100_000):
        path = f"link{row // 1000}/part{row % 20}/{row // 20 % 50}.mp4"
        rows.append(f"{path},{30 + row % 100},{row % 256},24\n")
    rows[77_777] = "link3/part3/none.mp4,30,1,24\n"
    (tmp_path / "labels.csv").write_text("path,length,motion_bucket_id,fps\n" + "".join(rows))
    start = time.process_time()  # others may be at work on this machine
    with pytest.raises(UserError, match="1 fault\n  line 77779: .*none.mp4 does not exist"):
        read_metadata(tmp_path / "labels.csv", tmp_path, 4, 2)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "name", [" lead.mp4", "trail.mp4 ", " a b .mp4", '"quoted".mp4', "#1.mp4", "a,b.mp4", "two\\nlines.mp4"]
)
def test_names_are_taken_as_they_stand(tmp_path, name):
    (tmp_path / name).touch()
    quoted = name.replace('"', '""')
    assert read(tmp_path, f'{HEAD}"{quoted}",20,1\n').clips[0].path == tmp_path / name


def test_blanks_around_a_cell_are_no_fault_and_the_exact_name_goes_first(folder):
    assert read(folder, HEAD + "  a.mp4 , 20 , 1\n").clips[0].path == folder / "a.mp4"
    (folder / " a.mp4").touch()
    paths = [clip.path.name for clip in read(folder, HEAD + " a.mp4,20,1\na.mp4,20,1\n").clips]
    assert paths == [" a.mp4", "a.mp4"]


def test_a_path_that_nearly_exists_gets_a_hint(folder):
    decomposed = unicodedata.normalize("NFD", "é.mp4")
    (folder / "sub" / decomposed).touch()
    message = fault(folder, HEAD + "sub/é.mp4,20,1\nsub\\d.mp4,20,1\nSub/D.MP4,20,1\nsub/x.mp4,20,1\n")
    assert "é.mp4 does not exist; on disk the same name is spelled in another Unicode form (NFD" in message
    assert f"line 3: {folder}/sub\\d.mp4 does not exist; {folder}/sub/d.mp4 does: write / instead of \\" in message
    assert f"line 4: {folder}/Sub/D.MP4 does not exist; '{folder}/sub/d.mp4' does, which differs" in message
    assert message.endswith("x.mp4 does not exist")
    (folder / "ç").mkdir()
    (folder / "ç" / "1.mp4").touch()
    form = unicodedata.normalize("NFD", "ç")
    assert "another Unicode form (NFC)" in fault(folder, f"{HEAD}{form}/1.mp4,20,1\n")
    (folder / "b\\c.mp4").touch()  # a name like any other here
    assert len(read(folder, HEAD + "b\\c.mp4,20,1\n").clips) == 1


def test_a_clip_twice_is_a_fault(folder):
    text = HEAD + f"a.mp4,20,1\nsub/d.mp4,20,1\n./a.mp4,20,9\n{folder}/sub/../sub/d.mp4,20,1\na.mp4,20,1\n"
    message = fault(folder, text)
    assert "3 faults" in message
    assert f"line 4: {folder}/a.mp4 is listed already, in line 2" in message
    assert f"line 5: {folder}/sub/d.mp4 is listed already, in line 3" in message and "line 6: " in message


PARTS = "path,length,motion_bucket_id,start\n"


def test_scenes_of_one_file_are_clips(folder):
    rows = "a.mp4,20,1,30\na.mp4,30,2,0\nsub/d.mp4,9,3,\na.mp4,8,4, 50 \nsub/e.mp4,20,5,4.0\n"
    clips = read(folder, PARTS + rows).clips
    assert [(clip.start, clip.length, clip.end, clip.part) for clip in clips] == [
        (30, 20, 50, True), (0, 30, 30, True), (0, 9, 9, False), (50, 8, 58, True), (4, 20, 24, True)
    ]  # fmt: skip
    without = read(folder, HEAD + "sub/d.mp4,9,3\n").clips[0]
    assert without.label == clips[2].label, "what was cached without the column stays valid"
    assert len({clip.label for clip in (clips[0], replace(clips[0], start=31), replace(clips[0], start=0))}) == 3


def test_scenes_that_share_frames_are_a_fault(folder):
    rows = "a.mp4,20,1,30\na.mp4,31,1,0\na.mp4,9,1,50\n./a.mp4,5,1,30\nü.mp4,90,1,\nü.mp4,8,1,80\nü.mp4,8,1,88\n"
    message = fault(folder, PARTS + rows)
    assert f"line 3: frames 30 to 30 of {folder}/a.mp4 are in line 2 already" in message
    assert f"line 5: {folder}/a.mp4 is listed already, in line 2" in message
    assert f"line 7: frames 80 to 87 of {folder}/ü.mp4 are in line 6 already" in message
    assert f"line 8: frames 88 to 89 of {folder}/ü.mp4 are in line 6 already" in message and "4 faults" in message


def test_bad_starts_are_told(folder):
    message = fault(folder, PARTS + "a.mp4,20,1,-1\nü.mp4,20,1,x\nsub/d.mp4,20,1,1.5\nsub/e.mp4,20,1,inf\n")
    for expected in (
        "line 2: start must be 0 or more, not '-1'",
        "line 3: start is not a number: 'x'",
        "line 4: start must be a whole number, not '1.5'",
        "line 5: start is not a number: 'inf'",
        "4 faults",
    ):
        assert expected in message


def test_scenes_lie_within_their_file(folder):
    frames = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), np.uint8)
    write_video(frames, folder / "a.mp4", 10)
    write_frames(frames, folder / "clip")
    rates = "path,length,motion_bucket_id,start,fps\n"
    good = "a.mp4,8,1,0,\na.mp4,4,1,8,\nclip,4,1,8,7\nclip,8,1,0,7\n"
    assert len(read(folder, rates + good, frames=4, step=1, verify_files="open").clips) == 4
    message = fault(folder, rates + "a.mp4,8,1,0,\na.mp4,5,1,8,\nclip,8,1,5,7\n", step=1, verify_files="open")
    assert f"line 3: start 8 and length 5 end at 13, but {folder}/a.mp4 has 12 frames" in message
    assert f"line 4: start 5 and length 8 end at 13, but {folder}/clip has 12 pictures" in message
    assert "2 faults" in message
    # A row that does not say where it begins is the whole file.
    assert "length is 8, but" in fault(folder, rates + "a.mp4,8,1,,\n", step=1, verify_files="open")
    assert "length is 8, but" in fault(folder, rates + "clip,8,1,,7\n", step=1)


def test_what_is_no_file_is_told_and_a_loop_of_links_harms_no_other(folder):
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "gone.mp4").symlink_to("nowhere")
    (folder / "link.mp4").symlink_to("a.mp4")
    os.mkfifo(folder / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(folder / "s.mp4"))
    names = ("a", "link", "loop", "gone", "pipe", "s")
    message = fault(folder, HEAD + "".join(f"{name}.mp4,20,1\n" for name in names))
    assert "4 faults" in message and "line 4: " in message
    kinds = {"loop": "a link to itself", "gone": "a link to nothing", "pipe": "a pipe", "s": "a socket"}
    for name, kind in kinds.items():
        assert f"{name}.mp4 is {kind}, not a video file" in message


@pytest.mark.parametrize(
    "content, expected",
    [(gzip.compress(b"path"), "compressed with gzip"), (b"PK\3\4\x14\0", "a zip archive or a spreadsheet"),
     (bz2.compress(b"path"), "compressed with bzip2"), (lzma.compress(b"path"), "compressed with xz")],
)  # fmt: skip
def test_a_packed_list_is_told(tmp_path, content, expected):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=f"labels.csv is {expected}"):
        read_metadata(tmp_path / "labels.csv", tmp_path, 4, 2)


def test_a_plain_list_is_read_whatever_its_suffix(folder):
    (folder / "labels.csv.gz").write_text(HEAD + "a.mp4,20,1\n")
    assert len(read_metadata(folder / "labels.csv.gz", folder, 4, 2).clips) == 1


def test_folders_of_frames_are_clips(folder):
    frames = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), np.uint8)
    write_frames(frames, folder / "clip_1")
    write_frames(frames, folder / "clip_2")
    Image.new("RGB", (32, 30)).save(folder / "clip_2" / "00011.png")
    rates = "path,length,motion_bucket_id,fps\n"
    for how in ("exists", "open"):
        (clip,) = read(folder, rates + "clip_1,12,1,7\n", verify_files=how).clips
        assert (clip.path, clip.length, clip.fps) == (folder / "clip_1", 12, 7.0)
    assert len(read(folder, rates + "clip_2,12,1,7\n").clips) == 1
    assert "00011.png has 32x30 pixels" in fault(folder, rates + "clip_2,12,1,7\n", verify_files="open")
    message = fault(folder, rates + "clip_1,12,1,\nclip_2,13,1,7\nsub,12,1,7\n")
    assert f"line 2: {folder}/clip_1: a folder of pictures states no frame rate: give it in the column fps" in message
    assert f"line 3: length is 13, but {folder}/clip_2 has 12 pictures" in message
    assert f"line 4: {folder}/sub: a folder without pictures" in message
    assert "states no frame rate" in fault(folder, HEAD + "clip_1,12,1\n")
