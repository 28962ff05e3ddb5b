"""Frame n is frame n: every kind of file against what ffmpeg shows when it decodes it from its beginning."""

import av
import numpy as np
import pytest

from gm.data.video_reader import open_video
from gm.errors import UserError
from tests.data.made_videos import HEVC, OPEN_GOP, X264, alike, coded, edit_box, ffmpeg, make, numbers, shown


def assert_as_ffmpeg(path, expected=None, reads=12):
    """All frames in order, and single ones in random order, are ffmpeg's but for colours' rounding. expected: their
    numbers."""
    truth = shown(path)
    with open_video(path) as video:
        assert video.length == len(truth)
        read = video.frames(range(video.length))
        assert alike(read, truth)
        for number in np.random.default_rng(1).permutation(len(truth))[:reads].tolist():
            assert alike(video.frames([number])[0], truth[number]), f"frame {number} read by itself"
        if expected is not None:
            assert numbers(read) == list(expected)
        return video.fps


KINDS = {
    "h264.mp4": X264,
    "h264.mkv": X264,
    "h264.ts": X264,
    "h264.avi": X264,
    "h264.flv": X264,
    "open.mp4": OPEN_GOP,
    "open.MTS": OPEN_GOP,
    "hevc.mp4": HEVC,
    "hevc.ts": HEVC,
    "av1.mp4": ("-c:v", "libaom-av1", "-cpu-used", "8"),
    "vp8.webm": ("-c:v", "libvpx", "-b:v", "1M", "-auto-alt-ref", "1", "-lag-in-frames", "16"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-b:v", "1M", "-cpu-used", "8"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-q:v", "3", "-bf", "2"),
    "packed.avi": ("-c:v", "libxvid", "-q:v", "3", "-bf", "2"),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-bf", "2"),
    "mpeg2.vob": ("-c:v", "mpeg2video"),
    "wmv.wmv": ("-c:v", "wmv2"),
    "flv.flv": ("-c:v", "flv"),
    "theora.ogv": ("-c:v", "libtheora", "-q:v", "8"),
    "h263.3gp": ("-s", "176x144", "-c:v", "h263"),
    "prores.mov": ("-c:v", "prores_ks"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "anim.gif": (),
    "refresh.mp4": ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=20"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_container_and_codec(tmp_path, name):
    make(coded(50, *((176, 144) if "3gp" in name else ())), tmp_path / name, *KINDS[name])
    if "3gp" in name:  # its only small size
        with open_video(tmp_path / name) as video:
            assert numbers(video.frames(range(50))) == list(range(50))
        return
    # Of pictures that lie packed in one packet ffmpeg, too, loses two at the end.
    fps = assert_as_ffmpeg(tmp_path / name, None if name == "packed.avi" else range(50))
    assert fps == pytest.approx(30, rel=0.12 if name.endswith("gif") else 0.05 if "packed" in name else 2e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    make(coded(60), folder / "a.mp4", *X264)
    make(coded(60), folder / "open.mp4", *OPEN_GOP)
    make(coded(60), folder / "hevc.mp4", *HEVC)
    make(coded(60), folder / "a.ts", *X264)
    make(coded(60, first=60), folder / "b.ts", *OPEN_GOP)
    return folder


@pytest.mark.parametrize("seconds", [1.0, 0.5, 1.9])
def test_trimmed_at_the_end_by_an_edit_list(folder, tmp_path, seconds):
    def shorten(content, place):
        timescale = content.find(b"mvhd") + 16
        units = int(seconds * int.from_bytes(content[timescale : timescale + 4], "big"))
        content[place + 12 : place + 16] = units.to_bytes(4, "big")

    path = edit_box(folder / "a.mp4", tmp_path / "trimmed.mp4", b"elst", shorten)
    assert assert_as_ffmpeg(path, range(round(30 * seconds))) == pytest.approx(30)


@pytest.mark.parametrize("source", ["a.mp4", "open.mp4", "hevc.mp4"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_cut_without_encoding_again(folder, tmp_path, source, suffix):
    path = tmp_path / f"cut.{suffix}"
    ffmpeg("-ss", "0.9", "-i", folder / source, "-c", "copy", "-t", "0.8", path)
    assert_as_ffmpeg(path)


CODECS = {
    "closed": (X264, "mp4 mkv mov ts flv"),
    "open": (OPEN_GOP, "mp4 mkv mov ts"),
    "without B": ((*X264, "-bf", "0"), "mp4 mkv ts"),
    "hevc": (HEVC, "mp4 mkv mov ts"),
    "hevc closed": ((*HEVC[:-1], HEVC[-1] + ":open-gop=0"), "mp4 mkv"),
    "mpeg2": (("-c:v", "mpeg2video", "-bf", "2"), "ts mpg mkv"),
    "mpeg4": (("-c:v", "mpeg4", "-bf", "2"), "mp4 avi"),
    "vp9": (("-c:v", "libvpx-vp9", "-cpu-used", "8", "-g", "20"), "webm mp4"),
    "av1": (("-c:v", "libsvtav1", "-preset", "12", "-g", "20"), "webm mp4"),
}
CUTS = [
    ([], []),
    (["-ss", "0.9"], []),
    (["-ss", "1.27"], []),
    (["-ss", "1.34"], []),
    ([], ["-ss", "0.7"]),
    ([], ["-to", "1.1"]),
    (["-ss", "0.5"], ["-to", "1.2"]),
    (["-ss", "1.0"], ["-t", "0.71"]),
]


@pytest.mark.slow
@pytest.mark.parametrize("codec, suffix", [(codec, one) for codec, (_, all_) in CODECS.items() for one in all_.split()])
def test_all_cuts_without_encoding_again(tmp_path, codec, suffix):
    make(coded(66), tmp_path / "source.mkv", *CODECS[codec][0])
    ffmpeg("-i", tmp_path / "source.mkv", "-c", "copy", tmp_path / f"whole.{suffix}")
    for before, after in CUTS:
        ffmpeg(*before, "-i", tmp_path / f"whole.{suffix}", "-c", "copy", *after, tmp_path / f"cut.{suffix}")
        if codec == "open" and suffix == "ts" and "-ss" in before + after:
            # The cut holds no parameters, with which a decoder could begin: ffmpeg shows nothing.
            with pytest.raises(UserError, match="none of its frames"):
                open_video(tmp_path / f"cut.{suffix}")
        else:
            assert_as_ffmpeg(tmp_path / f"cut.{suffix}", reads=66)


def test_transport_streams_of_700_frames(tmp_path):
    make(coded(700), tmp_path / "a.mts", *X264[:-1], "50")
    with open_video(tmp_path / "a.mts") as video:
        assert (video.length, video.fps) == (700, pytest.approx(30))
        for start in (211, 640, 3, 333, 49, 50, 51):
            assert numbers(video.frames(range(start, start + 56, 4))) == list(range(start, start + 56, 4))


def test_time_stamps_that_wrap_around(folder, tmp_path):
    ffmpeg("-i", folder / "a.ts", "-c", "copy", "-output_ts_offset", 2**33 / 90000 - 1, tmp_path / "wrap.ts")
    assert_as_ffmpeg(tmp_path / "wrap.ts", range(60))


@pytest.mark.parametrize("parts", ["ab", "ba", "aba"])
def test_streams_joined_byte_by_byte(folder, tmp_path, parts):
    (tmp_path / "joined.ts").write_bytes(b"".join((folder / f"{part}.ts").read_bytes() for part in parts))
    order = [n for part in parts for n in (range(60) if part == "a" else range(60, 120))]
    assert assert_as_ffmpeg(tmp_path / "joined.ts", order) == pytest.approx(30, rel=0.01)


@pytest.mark.parametrize("part", ["a", "b"])
def test_a_recording_that_begins_within_a_group(folder, tmp_path, part):
    content = (folder / f"{part}.ts").read_bytes()
    (tmp_path / "late.ts").write_bytes(content[len(content) // 3 + 77 :])
    assert_as_ffmpeg(tmp_path / "late.ts")


# As .ts, the joined cuts of x264 hold no parameters: ffmpeg shows nothing.
@pytest.mark.parametrize("source, suffix", [("open.mp4", "mp4"), ("hevc.mp4", "mp4"), ("hevc.mp4", "ts")])
def test_cuts_of_open_groups_joined(folder, tmp_path, source, suffix):
    if source == "hevc.mp4" and av.library_versions["libavcodec"][0] < 62:
        pytest.skip("the ffmpeg of PyAV 15 shows leading pictures that ffmpeg 8 and 9 leave out")
    for name, start in ("1.mkv", "0.7"), ("2.mkv", "1.4"):
        ffmpeg("-ss", start, "-i", folder / source, "-c", "copy", tmp_path / name)
    (tmp_path / "list.txt").write_text("file 1.mkv\nfile 2.mkv\n")
    ffmpeg("-f", "concat", "-i", tmp_path / "list.txt", "-c", "copy", tmp_path / f"joined.{suffix}")
    assert_as_ffmpeg(tmp_path / f"joined.{suffix}", reads=40)


# Frames keep the times that a filter gave them. (ffmpeg 7.0 drops the last one by "vfr".)
AS_TIMED = ("-fps_mode", "passthrough", "-enc_time_base", "1/1000")


def test_variable_frame_rate(tmp_path):
    slower = ["-vf", "setpts='if(lt(N,30),N/30,1+(N-30)/10)/TB'", *AS_TIMED]
    make(coded(60), tmp_path / "a.mkv", *X264, *slower)
    ffmpeg("-i", tmp_path / "a.mkv", "-c", "copy", tmp_path / "a.mp4")
    # 3.9 s from the first frame to the last, which is shown for 1/30 or 1/10 s
    assert 60 / 4.001 < assert_as_ffmpeg(tmp_path / "a.mkv", range(60)) < 60 / 3.93
    # ffmpeg 7.0 leaves the last one of an mp4 no time: then 59 in 3.8 or 3.9 s
    assert 60 / 4.001 < assert_as_ffmpeg(tmp_path / "a.mp4") < 59 / 3.8 + 0.01


def test_a_long_file_of_variable_frame_rate(tmp_path):
    slower = ["-vf", "setpts='if(lt(N,350),N/30,350/30+(N-350)/10)/TB'", *AS_TIMED]
    make(coded(700), tmp_path / "a.mkv", *X264, *slower)
    with open_video(tmp_path / "a.mkv") as video:
        assert video.length == 700
        for start in (300, 640, 257, 0):
            assert numbers(video.frames(range(start, start + 56, 4))) == list(range(start, start + 56, 4))


def test_duplicate_time_stamps(tmp_path):
    jitter = ["-vf", "setpts='(N+0.3*mod(N,2))/30/TB'", *AS_TIMED]
    make(coded(60), tmp_path / "a.mkv", *X264, "-bf", "0", *jitter)
    ffmpeg("-i", tmp_path / "a.mkv", "-c", "copy", tmp_path / "a.mp4")

    def no_durations(content, place):
        for entry in range(0, int.from_bytes(content[place + 8 : place + 12], "big"), 2):
            content[place + 16 + 8 * entry : place + 20 + 8 * entry] = bytes(4)

    assert_as_ffmpeg(edit_box(tmp_path / "a.mp4", tmp_path / "same.mp4", b"stts", no_durations), range(60))


@pytest.mark.parametrize("options", [X264, ("-c:v", "mpeg4", "-q:v", "3", "-g", "20")], ids=["h264", "mpeg4"])
def test_without_a_table_of_key_frames(tmp_path, options):
    make(coded(60), tmp_path / "a.mp4", *options)

    def rename(content, place):
        content[place : place + 4] = b"free"

    assert_as_ffmpeg(edit_box(tmp_path / "a.mp4", tmp_path / "b.mp4", b"stss", rename), range(60), reads=30)


@pytest.mark.parametrize("source", ["a.mp4", "open.mp4", "hevc.mp4"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_times_of_decoding_in_place_of_those_of_showing(folder, tmp_path, source, suffix):
    def rename(content, place):
        content[place : place + 4] = b"free"

    edit_box(folder / source, tmp_path / "a.mp4", b"ctts", rename)
    edit_box(tmp_path / "a.mp4", tmp_path / "b.mp4", b"edts", rename)
    ffmpeg("-i", tmp_path / "b.mp4", "-c", "copy", tmp_path / f"c.{suffix}")
    truth = shown(tmp_path / f"c.{suffix}")
    for step in (3, 4):  # as a clip is read: what lies between is not asked for
        with open_video(tmp_path / f"c.{suffix}") as video:
            assert alike(video.frames(range(1, 60, step)), truth[1::step])
            assert video.fps == pytest.approx(30, rel=0.02)
    assert_as_ffmpeg(tmp_path / f"c.{suffix}", range(60))


@pytest.mark.parametrize("source", ["a.mp4", "open.mp4", "hevc.mp4", "closed.mp4"])
@pytest.mark.parametrize("lost", ["between(n,18,25)", "not(mod(n,17))*gt(n,0)"])
def test_a_recording_with_lost_packets(folder, tmp_path, source, lost):
    """A decoder hides pictures after a loss, and makes others up from what it was given before."""
    if source in ("hevc.mp4", "closed.mp4") and av.library_versions["libavcodec"][0] < 62:
        pytest.skip("the ffmpeg of PyAV 15 makes others up than ffmpeg 8 and 9")
    if source == "closed.mp4":
        make(coded(60), folder / source, *HEVC[:-1], HEVC[-1] + ":open-gop=0")
    ffmpeg("-i", folder / source, "-c", "copy", "-bsf:v", f"noise=drop='{lost}'", tmp_path / "a.mp4")
    truth = shown(tmp_path / "a.mp4", threads=1)
    for number in np.random.default_rng(1).permutation(len(truth))[:20].tolist():
        with open_video(tmp_path / "a.mp4") as video:
            assert alike(video.frames([number])[0], truth[number]), number


def test_fragments_live_streams_and_bare_streams(folder, tmp_path):
    ffmpeg("-i", folder / "a.mp4", "-c", "copy", "-movflags", "frag_keyframe+empty_moov", tmp_path / "fragments.mp4")
    (tmp_path / "live.mkv").write_bytes(ffmpeg("-i", folder / "a.mp4", "-c", "copy", "-f", "matroska", "-"))
    ffmpeg("-i", folder / "a.mp4", "-c", "copy", tmp_path / "bare.h264")
    for name in ("fragments.mp4", "live.mkv", "bare.h264"):
        assert_as_ffmpeg(tmp_path / name, range(60))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("marks", [(), ("v", "0"), ("v:0", "default", "v:1", "0"), ("v:0", "0", "v:1", "default")])
def test_of_two_streams_the_one_that_ffmpeg_takes(tmp_path, suffix, marks):
    make(coded(10, first=100), tmp_path / "small.mp4", *X264)
    make(coded(10, width=192, height=128), tmp_path / "large.mp4", *X264)
    marks = [f"-disposition:{word}" if word.startswith("v") else word for word in marks]
    path = tmp_path / f"two.{suffix}"
    ffmpeg("-i", tmp_path / "small.mp4", "-i", tmp_path / "large.mp4", "-map", 0, "-map", 1, "-c", "copy", *marks, path)
    header = ffmpeg("-i", path, "-frames:v", 1, "-c:v", "ppm", "-f", "image2pipe", "-")[:12].split()
    size = int(header[2]), int(header[1])
    with open_video(path) as video:
        assert video.size == size
        assert alike(video.frames(range(10)), shown(path, size=size))


def test_a_cover_picture_is_not_the_video(folder, tmp_path):
    make(coded(1, width=640, height=480), tmp_path / "cover.png")
    ffmpeg(
        "-i",
        folder / "a.mp4",
        "-i",
        tmp_path / "cover.png",
        "-map",
        0,
        "-map",
        1,
        "-c",
        "copy",
        "-disposition:v:1",
        "attached_pic",
        tmp_path / "song.mp4",
    )
    with open_video(tmp_path / "song.mp4") as video:
        assert (video.length, video.size) == (60, (64, 96))


def test_any_number_of_threads_gives_the_same(folder):
    for name in ("a.mp4", "open.mp4", "b.ts"):
        with open_video(folder / name) as one, open_video(folder / name, threads=4) as four:
            assert np.array_equal(one.frames(range(60)), four.frames(range(60)))
            assert np.array_equal(one.frames([41, 7]), four.frames([41, 7]))
