"""When an index is made without decoding, and when a kept one is believed."""

import os

import av
import numpy as np
import pytest

from gm.data import video_index, video_index_store
from gm.data.video_decoder import Decoder
from gm.data.video_reader import open_video
from gm.errors import UserError
from tests.data.made_videos import HEVC, OPEN_GOP, X264, coded, ffmpeg, make, numbers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    make(coded(60), folder / "closed.mp4", *X264)
    make(coded(60), folder / "open.mp4", *OPEN_GOP)
    make(coded(60), folder / "hevc.mp4", *HEVC)
    make(coded(60), folder / "vp8.webm", "-c:v", "libvpx", "-b:v", "1M", "-auto-alt-ref", "1", "-lag-in-frames", "16")
    make(coded(60), folder / "mpeg4.mp4", "-c:v", "mpeg4", "-q:v", "3")
    ffmpeg("-i", folder / "closed.mp4", "-c", "copy", folder / "closed.mkv")
    ffmpeg("-i", folder / "closed.mp4", "-c", "copy", folder / "closed.ts")
    return folder


def index_of(path):
    decoder = Decoder(path)
    try:
        return video_index.make_index(decoder), video_index.index_by_decoding(decoder)
    finally:
        decoder.close()


@pytest.mark.parametrize(
    "name, decoded",
    [
        ("closed.mp4", False),
        ("closed.mkv", False),
        ("closed.ts", False),
        ("vp8.webm", False),
        ("open.mp4", True),
        ("mpeg4.mp4", True),
    ],
)
def test_a_file_is_decoded_only_where_its_packets_do_not_tell(folder, name, decoded):
    index, by_decoding = index_of(folder / name)
    assert index.decoded == decoded and by_decoding.decoded
    assert index.shown == by_decoding.shown and len(index) == 60
    assert index.fps == by_decoding.fps == pytest.approx(30, rel=1e-3)
    assert index.size == by_decoding.size == (64, 96)
    assert by_decoding.damaged is None


@pytest.mark.parametrize("name", ["open.mp4", "hevc.mp4"])
def test_frames_before_an_open_start_are_decoded_from_the_one_before(folder, name):
    index, _ = index_of(folder / name)
    assert len(index.starts) == 3 and index.starts[0].first == 0
    for start in index.starts[1:]:
        picture = index.shown.index(start.number)
        leading = [frame for frame in range(60) if index.shown[frame] > start.number and frame < picture]
        assert start.first == picture and (leading or name == "hevc.mp4")
        assert all(index.start_of(frame).number < start.number for frame in leading)
        assert index.start_of(picture) == start


@pytest.mark.parametrize(
    "change",
    [
        lambda shown: shown[:30] + [999] + shown[30:],
        lambda shown: shown[:30] + shown[31:],
    ],
    ids=["one too many", "one too few"],
)
def test_a_stream_that_is_not_what_its_packets_say_is_decoded(folder, monkeypatch, change):
    """The index that packets give is checked by every read."""
    honest = video_index._index_by_packets

    def wrong(seen, stream):
        index = honest(seen, stream)
        return video_index.replace(index, shown=change(index.shown))

    monkeypatch.setattr(video_index, "_index_by_packets", wrong)
    with open_video(folder / "closed.mp4") as video:
        assert numbers(video.frames([29, 31, 35])) == [29, 31, 35]
        assert video.length == 60


def test_a_kept_index_spares_looking_through_the_file(folder, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    for name in ("closed.mp4", "open.mp4", "mpeg4.mp4"):
        with open_video(folder / name, index_folder=kept) as video:
            before = video.fps, video.length, video.size, numbers(video.frames([41, 3]))
        with monkeypatch.context() as patch:
            patch.setattr(video_index_store, "make_index", lambda *_: pytest.fail("made again"))
            with open_video(folder / name, index_folder=kept) as video:
                assert (video.fps, video.length, video.size, numbers(video.frames([41, 3]))) == before
    assert len(list(kept.iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "same time", "version", "folder"])
def test_a_kept_index_that_is_not_right_is_made_anew(folder, tmp_path, monkeypatch, damage):
    kept, path = tmp_path / "kept", tmp_path / "a.mp4"
    first, second = ((folder / name).read_bytes().ljust(20000, b"\0") for name in ("closed.mp4", "open.mp4"))
    path.write_bytes(first)
    open_video(path, index_folder=kept).close()
    (file,) = kept.iterdir()
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[:-3])
    elif damage == "flipped":
        file.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "other":  # the video is another one now
        make(coded(20, first=100), path, *X264)
    elif damage == "same time":  # and of the same size, as when a data set is made again and copied with its times
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_bytes(second)
        os.utime(path, ns=times)
    elif damage == "version":
        monkeypatch.setattr(video_index_store, "FORMAT", 99)
    else:
        file.unlink()
        file.mkdir()
    with open_video(path, index_folder=kept) as video:
        expected = list(range(100, 120)) if damage == "other" else list(range(60))
        assert numbers(video.frames(range(1, len(expected), 4))) == expected[1::4]
        assert numbers(video.frames(range(video.length))) == expected


def test_a_folder_that_cannot_be_written_is_a_warning(folder, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with open_video(folder / "closed.mp4", index_folder=tmp_path / "file" / "kept") as video:
        assert video.length == 60
    assert "closed.mp4 is not kept" in caplog.text


def test_a_seek_that_lands_too_late_begins_further_back(folder, monkeypatch):
    seeks = []
    honest = Decoder._found

    def late(self, wanted, time):
        seeks.append(time)
        return honest(self, wanted, time + 10**6) if len(seeks) < 3 else honest(self, wanted, time)

    monkeypatch.setattr(Decoder, "_found", late)
    with open_video(folder / "closed.ts") as video:
        seeks.clear()
        assert numbers(video.frames([55])) == [55]
    assert len(seeks) == 3
    monkeypatch.setattr(Decoder, "_found", lambda *_: None)  # no seek works at all
    with open_video(folder / "closed.ts") as video:
        assert numbers(video.frames([55, 4])) == [55, 4]


def test_pictures_that_a_decoder_has_patched_up_are_damaged(tmp_path):
    content = bytearray(make(coded(40), tmp_path / "a.mkv", "-c:v", "mpeg2video", "-q:v", "2", "-g", "50").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = np.random.default_rng(3).bytes(300)
    (tmp_path / "patched.mkv").write_bytes(content)
    with open_video(tmp_path / "patched.mkv") as video, pytest.raises(UserError, match="can be read"):
        video.frames(range(video.length))


def test_ffmpeg_says_nothing_by_itself(folder, tmp_path, capfd):
    content = bytearray((folder / "closed.mkv").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    (tmp_path / "damaged.mkv").write_bytes(content)
    with open_video(tmp_path / "damaged.mkv") as video, pytest.raises(UserError, match=r"damaged\.mkv.* can be read"):
        video.frames(range(60))
    assert capfd.readouterr() == ("", "") and av.logging.get_level() is None
