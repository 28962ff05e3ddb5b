"""What is opened at all: plain files with a video in them, whatever their names and first bytes say."""

import os
import shutil

import numpy as np
import pytest

from gm.data.video_reader import SUFFIXES, open_video
from gm.errors import UserError
from tests.data.made_videos import X264, coded, ffmpeg, make, numbers


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make(coded(10), tmp_path_factory.mktemp("file") / "a.mp4", *X264)


@pytest.mark.parametrize(
    "name",
    [
        "12:30.mp4",
        "concat:a|b.mp4",
        "http:||x.mp4",
        "file:a.mp4",
        "-y.mp4",
        " lead.mp4",
        "a%03d.mp4",
        "é😀.mp4",
        "quo'te.mp4",
        "a#b?c=1.mp4",
        "no suffix",
        "a.m3u8",
        "a.ffconcat",
        "-",
        "pipe:0",
    ],
)
def test_a_name_is_only_a_name(video, tmp_path, monkeypatch, name):
    shutil.copy(video, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, name):
        with open_video(path) as opened:
            assert numbers(opened.frames([7])) == [7]


def playlists(target):
    yield "a.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n".encode()
    yield "b.mp4", f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,é\n{target}\n".encode()
    yield "c.ffconcat", f"ffconcat version 1.0\nfile '{target}'\n".encode()
    yield "d.mp4", f"ffconcat version 1.0\n# \xe9\xff\nfile '{target}'\n".encode("latin-1")
    yield "e.mp4", f"\ufeffffconcat version 1.0\nfile '{target}'\n".encode()
    yield "f.mpd", b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>'
    yield "g.mp4", "<!DOCTYPE html><title>Zugriff verweigert – für Sie</title>".encode()
    yield "h.mp4", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"


def test_text_and_playlists_are_refused_as_what_they_are(video, tmp_path):
    for name, content in playlists(video):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="text file, not a video") as error:
            open_video(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def test_a_playlist_that_is_not_recognised_opens_nothing_either(video, tmp_path):
    content = f"#EXTM3U\n#EXTINF:1,\n{video}\n"
    (tmp_path / "a.m3u8").write_bytes(bytes(1) + content.encode())
    (tmp_path / "b.m3u8").write_text(content, encoding="utf-16")
    for name in ("a.m3u8", "b.m3u8"):
        with pytest.raises(UserError, match="not a video that can be read"):
            open_video(tmp_path / name)


def test_pictures_and_sound_are_not_videos(tmp_path):
    make(coded(1), tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "png.mp4")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "sine=duration=0.2",
        "-i",
        tmp_path / "a.png",
        "-map",
        0,
        "-map",
        1,
        "-c:v",
        "png",
        "-disposition:v:0",
        "attached_pic",
        tmp_path / "song.m4a",
    )
    for name, reason in {"png.mp4": "not a video", "song.m4a": "no video in it", "a.png": "not a video"}.items():
        with pytest.raises(UserError, match=reason):
            open_video(tmp_path / name)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    kinds = {tmp_path: "a folder", "/dev/null": "a device", tmp_path / "pipe.mp4": "a pipe"}
    with pytest.raises(UserError, match=r"no video file at .*absent\.mp4"):
        open_video(tmp_path / "absent.mp4")
    for path, kind in kinds.items():
        with pytest.raises(UserError, match=f"^{path} is {kind}, not a video file"):
            open_video(path)


def test_the_suffixes_of_cameras_and_of_the_web_are_known():
    assert {".mp4", ".mov", ".ts", ".mts", ".m2ts", ".3gp", ".wmv", ".flv", ".ogv", ".mpg", ".gif"} <= set(SUFFIXES)


def damaged(content, random):
    content = bytearray(content)
    kind, place = random.integers(4), int(random.integers(len(content)))
    if kind == 0:
        for at in random.integers(len(content), size=random.choice([1, 5, 100])):
            content[at] = random.integers(256)
    elif kind == 1:
        del content[place:]
    elif kind == 2:
        content[: min(2000, len(content)) : 97] = random.bytes(len(range(0, min(2000, len(content)), 97)))
    else:
        content[place : place + 500] = random.bytes(300)
    return bytes(content)


@pytest.mark.parametrize(
    "suffix, options",
    [
        ("mp4", X264),
        ("mkv", X264),
        ("ts", X264),
        ("avi", ("-c:v", "mpeg4")),
        ("gif", ()),
        ("webm", ("-c:v", "libvpx")),
        ("mpg", ("-c:v", "mpeg2video")),
    ],
)
def test_any_bytes_are_read_or_refused_in_words(tmp_path, suffix, options):
    whole = make(coded(25), tmp_path / f"whole.{suffix}", *options).read_bytes()
    random, path = np.random.default_rng(0), tmp_path / f"damaged.{suffix}"
    refused = 0
    for _ in range(25):
        path.write_bytes(damaged(whole, random))
        try:
            with open_video(path) as video:
                assert video.frames([video.length - 1, 0]).shape[:1] == (2,)
                assert len(video.frames(range(video.length))) == video.length
        except UserError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused
