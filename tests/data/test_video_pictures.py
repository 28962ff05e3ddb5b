"""Geometry and colour: what ffmpeg shows, and what the drawn source was."""

import logging

import cv2
import numpy as np
import pytest

from gm import places
from gm.data import video_pictures
from gm.data.video_crop import container_crop
from gm.data.video_reader import open_video
from gm.errors import UserError
from tests.data.made_videos import HEIGHT, WIDTH, X264, alike, by_matrix, coded, ffmpeg, make, numbers, shown


def read(path):
    with open_video(path) as video:
        frames = video.frames(range(video.length))
        assert video.size == frames.shape[1:3]
        return frames


# ffmpeg writes the matrix for these options → what a player shows, from the stored picture (t, h, w, 3)
TURNS = {
    (): lambda p: p,
    ("-display_hflip",): lambda p: p[:, :, ::-1],
    ("-display_vflip",): lambda p: p[:, ::-1],
    ("-display_rotation", "180"): lambda p: p[:, ::-1, ::-1],
    ("-display_rotation", "90"): lambda p: np.rot90(p, 1, (1, 2)),
    ("-display_rotation", "270"): lambda p: np.rot90(p, 3, (1, 2)),
    ("-display_rotation", "90", "-display_hflip"): lambda p: np.rot90(p, 1, (1, 2))[:, :, ::-1],
    ("-display_rotation", "90", "-display_vflip"): lambda p: np.rot90(p, 1, (1, 2))[:, ::-1],
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make(coded(6), tmp_path_factory.mktemp("plain") / "a.mp4", *X264)


@pytest.mark.parametrize("options", TURNS, ids="".join)
@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_every_turn_and_mirror(plain, tmp_path, options, suffix):
    ffmpeg(*options, "-i", plain, "-c", "copy", tmp_path / f"turned.{suffix}")
    frames = read(tmp_path / f"turned.{suffix}")
    assert np.array_equal(frames, TURNS[options](read(plain)))
    # ffmpeg turns before it makes RGB: colours at edges differ by little, a wrong turn by much
    assert np.abs(frames.astype(int) - shown(tmp_path / f"turned.{suffix}", size=frames.shape[1:3])).max() <= 8


@pytest.mark.parametrize("suffix", ["mp4", "ts", "mkv"])
def test_a_turn_that_the_stream_states_once_holds_for_all_frames(plain, tmp_path, suffix):
    """An SEI message, of the first picture alone."""
    path, kept = tmp_path / f"turned.{suffix}", tmp_path / "kept"
    turn = "h264_metadata=display_orientation=insert:rotate=90"
    ffmpeg("-i", plain, "-c", "copy", "-bsf:v", turn, path)
    right = np.rot90(read(plain), 1, (1, 2))
    assert np.array_equal(read(path), right)
    for _ in "made", "kept":
        with open_video(path, index_folder=kept) as video:
            assert np.array_equal(video.frames([4]), right[4:5])
            assert video.size == right.shape[1:3]


def with_clap(source, target, aperture):
    """Copy of an mp4 whose index is at its end, with a clap box: width, height, offsets, each with its denominator."""
    content = bytearray(source.read_bytes())
    box = (40).to_bytes(4, "big") + b"clap" + b"".join(n.to_bytes(4, "big", signed=True) for n in aperture)
    place = content.find(b"avcC") - 4
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        start = content.find(name, content.find(b"stsd") if name == b"avc1" else content.find(b"moov")) - 4
        content[start : start + 4] = (int.from_bytes(content[start : start + 4], "big") + 40).to_bytes(4, "big")
    target.write_bytes(content[:place] + box + content[place:])
    return target


@pytest.mark.parametrize("turn", [(), ("-display_rotation", "90")], ids=["upright", "turned"])
@pytest.mark.parametrize(
    "aperture, left, top, size",
    [
        ((96, 1, 56, 1, 0, 1, -4, 1), 0, 0, (56, 96)),  # the lines below, as cameras with 1088 lines
        ((64, 1, 48, 1, 0, 1, 0, 1), 16, 8, (48, 64)),
        ((160, 2, 40, 1, -4, 1, 8, 2), 4, 16, (40, 80)),
    ],
)
def test_the_part_that_the_container_says_is_shown_in_mp4(plain, tmp_path, turn, aperture, left, top, size):
    ffmpeg(*turn, "-i", plain, "-c", "copy", tmp_path / "plain.mp4")
    path = with_clap(tmp_path / "plain.mp4", tmp_path / "part.mp4", aperture)
    part = read(plain)[:, top : top + size[0], left : left + size[1]]
    frames = read(path)
    assert frames.shape[1:3] == (size[::-1] if turn else size)
    # chroma beyond the edge is not seen by the filter that makes colours of it
    assert np.abs(frames.astype(int) - (np.rot90(part, 1, (1, 2)) if turn else part))[:, 6:-6, 6:-6].max() <= 1
    if not turn:
        assert alike(frames, shown(path, size=size))


@pytest.mark.parametrize(
    "aperture",
    [
        (200, 1, 64, 1, 0, 1, 0, 1),
        (96, 0, 64, 1, 0, 1, 0, 1),
        (0, 1, 64, 1, 0, 1, 0, 1),
    ],
)
def test_a_part_that_cannot_be_is_the_whole(plain, tmp_path, aperture):
    path = with_clap(plain, tmp_path / "part.mp4", aperture)
    assert container_crop(path, 1, 0, (HEIGHT, WIDTH)) == (0, 0, 0, 0)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_structures_that_are_not_whole_cut_nothing_off(plain, tmp_path, suffix):
    ffmpeg("-i", plain, "-c", "copy", tmp_path / f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    for end in range(0, len(content), 37):
        (tmp_path / "b").write_bytes(content[:end])
        assert container_crop(tmp_path / "b", 1, 0, (HEIGHT, WIDTH)) == (0, 0, 0, 0)


def test_a_track_that_describes_no_picture_is_cropped_by_nothing(tmp_path):
    path = tmp_path / "bare.mkv"
    entry = bytes([0xAE, 0x80 + 3, 0x83, 0x80 + 1, 1])  # a video, and no element Video in it
    tracks = bytes.fromhex("1654AE6B") + bytes([0x80 + len(entry)]) + entry
    path.write_bytes(bytes.fromhex("1A45DFA380 18538067") + bytes([0x80 + len(tracks)]) + tracks)
    assert container_crop(path, 1, 0, (HEIGHT, WIDTH)) == (0, 0, 0, 0)


def test_the_part_that_the_container_says_is_shown_in_matroska(plain, tmp_path):
    ffmpeg("-i", plain, "-c", "copy", tmp_path / "plain.mkv")
    content = (tmp_path / "plain.mkv").read_bytes()
    colours = bytes.fromhex("55b0 88 55b7 81 01 55b8 81 02")  # whose place is taken by what is cut below and above
    assert content.count(colours) == 1
    (tmp_path / "part.mkv").write_bytes(content.replace(colours, bytes.fromhex("54aa 81 08 54bb 81 10 ec 81 00")))
    assert alike(read(tmp_path / "part.mkv"), shown(tmp_path / "part.mkv", size=(40, 96)))


@pytest.mark.parametrize("shape", ["64/45", "1/2", "2", "10/11"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_pixels_that_are_not_square(tmp_path, shape, suffix):
    path = make(coded(3), tmp_path / f"a.{suffix}", "-vf", f"setsar={shape}", *X264)
    with open_video(path) as video:
        height, width = video.size
        aspect = WIDTH / HEIGHT * eval(shape)
        assert height == HEIGHT and width / height == pytest.approx(aspect, rel=0.02)
    assert np.array_equal(read(path), shown(path, by_matrix("bt601", width), (height, width)))


def test_the_shape_of_the_picture_in_mpeg2(tmp_path):
    path = make(coded(3, 720, 480), tmp_path / "a.mpg", "-vf", "setdar=16/9", "-c:v", "mpeg2video", "-q:v", "2")
    with open_video(path) as video:
        assert video.size == (480, 853)


def test_a_circle_is_round(tmp_path):
    frames = np.full((2, 576, 720, 3), 30, np.uint8)
    for frame in frames:  # round on a screen of 1024x576
        cv2.ellipse(frame, (360, 288), (round(100 * 45 / 64), 100), 0, 0, 360, (220, 220, 220), -1)
    picture = read(make(frames, tmp_path / "pal.mp4", "-vf", "setsar=64/45", *X264))[0, :, :, 1] > 128
    assert abs(picture.any(0).sum() - 200) <= 2 and abs(picture.any(1).sum() - 200) <= 2


def test_nonsense_about_the_shape_of_pixels_is_left_alone(tmp_path):
    assert read(make(coded(2), tmp_path / "a.mp4", "-vf", "setsar=1/500", *X264)).shape == (2, HEIGHT, WIDTH, 3)


MATRICES = {"bt709": "bt709", "smpte170m": "bt601", "bt470bg": "bt601", "bt2020nc": "bt2020", "smpte240m": "smpte240m"}


@pytest.mark.parametrize("tag", MATRICES)
@pytest.mark.parametrize("span", ["tv", "pc"])
def test_the_colour_matrix_and_range_in_the_file(tmp_path, tag, span):
    matrix = MATRICES[tag]
    tagged = (
        f"scale=out_color_matrix={matrix}:out_range={span}:flags=accurate_rnd+full_chroma_int,"
        f"format=yuv444p,setparams=colorspace={tag}:range={span}"
    )
    source = coded(2)
    path = make(source, tmp_path / "a.mkv", "-vf", tagged, "-c:v", "libx264", "-qp", "0")
    frames = read(path)
    assert np.array_equal(frames, shown(path, by_matrix(f"{matrix}:in_range={span}:out_range=pc")))
    assert np.abs(frames.astype(int) - source).max() <= 3


@pytest.mark.parametrize("tag", MATRICES)
@pytest.mark.parametrize("span", ["tv", "pc"])
def test_colours_of_half_the_size_are_those_between_within_two(tmp_path, tag, span):
    """The usual kind, 8 bits 4:2:0, natural and drawn."""
    matrix, width, height = MATRICES[tag], 256, 160
    source = np.concatenate([natural(width, height), coded(1, width, height)])
    tagged = (
        f"scale=out_color_matrix={matrix}:out_range={span}:flags=accurate_rnd,"
        f"format=yuv420p,setparams=colorspace={tag}:range={span}"
    )
    path = make(source, tmp_path / "a.mkv", "-vf", tagged, "-c:v", "libx264", "-qp", "0")
    frames, right = read(path), f"{matrix}:in_range={span}:out_range=pc"
    exact = shown(path, by_matrix(right), (height, width)).astype(int)
    assert alike(frames, exact)
    assert np.abs(frames - exact).mean() < 0.5 and np.abs((frames - exact).mean((0, 1, 2))).max() < 0.25
    assert np.abs(frames[0].astype(int) - source[0]).mean() < 2
    shifted = shown(path, by_matrix(f"{right}:in_chroma_loc=left"), (height, width))
    assert not alike(frames, shifted), "the colours' place makes no difference"


@pytest.mark.parametrize("width, height", [(95, 64), (96, 63), (97, 65)])
def test_odd_sizes_are_what_ffmpeg_makes_of_them(tmp_path, width, height):
    codec = ("-pix_fmt", "yuv420p", "-c:v", "libvpx-vp9", "-lossless", "1")
    path = make(coded(1, 104, 72)[:, :height, :width], tmp_path / "a.webm", *codec)
    assert np.array_equal(read(path), shown(path, size=(height, width)))


def natural(width, height):
    picture = cv2.cvtColor(cv2.imread(str(places.DEMO)), cv2.COLOR_BGR2RGB)
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)[None]


@pytest.mark.parametrize("kind", ["yuv420p", "yuv444p"])
def test_a_file_that_says_rgb_of_other_pictures_is_read(tmp_path, kind):
    path = make(coded(2), tmp_path / "a.mkv", *X264, "-pix_fmt", kind, "-bsf:v", "h264_metadata=matrix_coefficients=0")
    assert np.array_equal(read(path), shown(path))


@pytest.mark.parametrize("tag", MATRICES)
@pytest.mark.parametrize("full", [False, True])
def test_flat_colours_are_those_of_the_standard(tmp_path, tag, full):
    """Patches of all (Y, Cb, Cr), also impossible ones, against ITU-T H.273 in float64."""
    red, blue = {
        "bt709": (0.2126, 0.0722),
        "smpte170m": (0.299, 0.114),
        "bt470bg": (0.299, 0.114),
        "bt2020nc": (0.2627, 0.0593),
        "smpte240m": (0.212, 0.087),
    }[tag]
    colours = np.random.default_rng(3).integers(1, 255, (12, 16, 3)).astype(np.uint8)
    planes = [colours[:, :, n].repeat(16, 0).repeat(16, 1) for n in range(3)]
    raw = tmp_path / "a.yuv"
    raw.write_bytes(b"".join(plane.tobytes() for plane in (planes[0], planes[1][::2, ::2], planes[2][::2, ::2])))
    path, span = tmp_path / "a.mkv", "pc" if full else "tv"
    ffmpeg(
        "-f",
        "rawvideo",
        "-pix_fmt",
        "yuv420p",
        "-s",
        "256x192",
        "-i",
        raw,
        "-vf",
        f"setparams=colorspace={tag}:range={span}",
        "-c:v",
        "libx264",
        "-qp",
        "0",
        path,
    )
    y, cb, cr = (colours.astype(float) - [0 if full else 16, 128, 128]).transpose(2, 0, 1) / (
        255 if full else np.array([219, 224, 224])[:, None, None]
    )
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    truth = np.clip(255 * np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], -1), 0, 255)
    middles = read(path)[0].reshape(12, 16, 16, 16, 3).transpose(0, 2, 1, 3, 4)[:, :, 6:10, 6:10]
    assert np.abs(middles - truth[:, :, None, None]).max() <= 1


@pytest.mark.parametrize(
    "width, height, matrix", [(1280, 720, "bt709"), (1280, 96, "bt709"), (96, 720, "bt709"), (720, 576, "bt601")]
)
def test_untagged_colours_are_those_of_its_size(tmp_path, width, height, matrix):
    source = coded(1, width, height)
    untagged = f"scale=out_color_matrix={matrix},format=yuv444p,setparams=colorspace=unknown:range=unknown"
    path = make(source, tmp_path / "a.mkv", "-vf", untagged, "-c:v", "libx264", "-qp", "0")
    frames = read(path)
    assert np.array_equal(frames, shown(path, by_matrix(matrix), (height, width)))
    assert np.abs(frames.astype(int) - source).mean() < 1


FORMATS = {
    "yuv420p10le": "libx265",
    "yuv422p": "libx264",
    "yuv422p10le": "prores_ks",
    "yuva444p10le": "prores_ks",
    "rgb24": "png",
    "rgba": "png",
    "pal8": "png",
    "gray": "ffv1",
    "gray10le": "ffv1",
    "gray16be": "png",
    "ya8": "png",
    "monob": "png",
    "gbrp": "libx264rgb",
    "gbrp16le": "ffv1",
    "yuvj420p": "mjpeg",
    "argb": "qtrle",
    "bgr0": "ffv1",
    "yuva420p": "libvpx-vp9",
}
ROUNDED = ("yuvj420p", "yuva420p", "pal8")  # by us, the alpha left out; the last by the ffmpeg of PyAV 15


@pytest.mark.parametrize("kind", FORMATS)
def test_every_pixel_format(tmp_path, kind):
    suffix = {"prores_ks": "mov", "qtrle": "mov", "libvpx-vp9": "webm"}.get(FORMATS[kind], "mkv")
    source = coded(2)
    path = make(source, tmp_path / f"a.{suffix}", "-pix_fmt", kind, "-c:v", FORMATS[kind])
    frames = read(path)
    truth = shown(path, by_matrix("bt601:out_range=pc") if kind[:3] == "yuv" else "format=gbrp")
    assert (alike if kind in ROUNDED else np.array_equal)(frames, truth)
    if kind not in ("monob", "pal8", "gray", "gray10le", "gray16be", "ya8"):
        assert np.abs(frames.astype(int) - source).mean() < 12
    assert numbers(frames) == [0, 1]


@pytest.mark.parametrize(
    "suffix, codec", [("avi", "rawvideo"), ("mov", "rawvideo"), ("avi", "msrle"), ("nut", "rawvideo")]
)
def test_a_palette_that_came_with_an_earlier_packet(tmp_path, suffix, codec):
    """Some containers hand it out once, or where it changes: a decoder that begins later shows black."""
    each = ("-filter_complex", "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1")
    source = coded(8) if suffix == "mov" else np.concatenate([coded(4), 255 - coded(4)])
    path = make(source, tmp_path / f"a.{suffix}", *(each if suffix != "mov" else ()), "-c:v", codec, "-pix_fmt", "pal8")
    truth = shown(path, "format=gbrp")
    assert alike(read(path), truth) and truth.max() > 150
    with open_video(path) as video:
        for number in (5, 2, 7, 6, 0):
            assert alike(video.frames([number])[0], truth[number])


@pytest.mark.parametrize("kind", ["rgb555le", "rgb565le", "bgr565le"])
def test_packed_colours_reach_white(tmp_path, kind):
    """ffmpeg's way from these to planes of colours ends at 248, its way to rgb24 at 255."""
    source = np.concatenate([coded(1), np.full((1, HEIGHT, WIDTH, 3), 255, np.uint8)])
    path = make(source, tmp_path / "a.nut", "-c:v", "rawvideo", "-pix_fmt", kind)
    frames = read(path)
    assert np.array_equal(frames, shown(path, "format=rgb24")) and (frames[1] == 255).all()


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_turn_beside_what_has_no_name_in_pyav(tmp_path, turn):
    """ffmpeg 8.1 hands on the tags of each TIFF as EXIF."""
    path = make(coded(2), tmp_path / "a.mov", "-c:v", "tiff", "-pix_fmt", "rgb24")
    ffmpeg("-display_rotation", turn, "-i", path, "-c", "copy", tmp_path / "turned.mov")
    assert np.array_equal(read(tmp_path / "turned.mov"), np.rot90(coded(2), turn // 90, (1, 2)))


@pytest.mark.parametrize(
    "codec, bitstream", [("libx264", "h264_metadata"), ("libx265", "hevc_metadata")], ids=["h264", "hevc"]
)
def test_what_the_stream_cuts_off_at_the_left(tmp_path, codec, bitstream):
    """Decoders leave some of it, for their alignment, unless they are told not to."""
    options = ("-pix_fmt", "yuv420p", "-c:v", codec, "-bsf:v", f"{bitstream}=crop_left=6:crop_top=2")
    path = make(coded(3), tmp_path / "a.mp4", *options)
    frames = read(path)
    assert frames.shape[1:3] == (HEIGHT - 2, WIDTH - 6)
    assert alike(frames, shown(path, size=(HEIGHT - 2, WIDTH - 6)))


@pytest.mark.parametrize(
    "suffix, codec",
    [
        ("mp4", ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-flags", "+ildct+ilme")),
        ("ts", ("-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-q:v", "2")),
    ],
)
def test_interlaced_pictures_are_made_whole(tmp_path, suffix, codec):
    path = make(coded(24), tmp_path / f"a.{suffix}", "-vf", "interlace=scan=tff", *codec)
    truth = shown(path, f"bwdif=mode=send_frame:deint=interlaced,{by_matrix('bt601')}")
    assert np.abs(truth.astype(int) - shown(path)).mean() > 1, "there is no comb to take out"
    with open_video(path) as video:
        frames = video.frames(range(12))
        # the filter treats the edges of the first frame in another way in each version of ffmpeg
        assert np.abs(frames.astype(int) - truth)[1:-1].max() <= 2 and np.abs(frames.astype(int) - truth).mean() < 0.5
        for indices in ([0], [11], [5, 3, 9], [4, 5, 6, 8]):
            assert np.array_equal(video.frames(indices), frames[indices])
    with open_video(path) as video:
        assert np.array_equal(video.frames([7, 1]), frames[[7, 1]])


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_high_dynamic_range_is_brought_down_with_one_warning(tmp_path, caplog, transfer):
    source = coded(2)
    path = make(
        source,
        tmp_path / "a.mkv",
        "-vf",
        "setparams=colorspace=gbr:color_primaries=bt709:color_trc=bt709,"
        f"zscale=t={transfer}:p=bt2020:m=bt2020nc:r=tv,format=yuv420p10le",
        "-c:v",
        "libx265",
        "-x265-params",
        "log-level=none",
    )
    untreated = np.abs(shown(path, by_matrix("bt2020")).astype(int) - source).mean()
    video_pictures._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        frames = read(path)
        read(path)
    assert untreated > 25 and np.abs(frames.astype(int) - source).mean() < untreated / 2
    with (
        pytest.raises(UserError, match=r"a\.mkv: high dynamic range .* hdr is refuse"),
        open_video(path, hdr="refuse") as video,
    ):
        video.frames([0])
    assert len(caplog.messages) == 1 and str(path) in caplog.messages[0] and "high dynamic range" in caplog.messages[0]


@pytest.mark.parametrize("suffix", ["ts", "mp4", "mkv"])
def test_a_size_that_changes_is_told_with_the_frame(tmp_path, suffix):
    parts = [make(coded(20, *size), tmp_path / f"{size[0]}.ts", *X264) for size in ((192, 128), (96, 64))]
    (tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    path = tmp_path / f"joined.{suffix}"
    if suffix != "ts":
        ffmpeg("-i", tmp_path / "joined.ts", "-c", "copy", path)
    with open_video(path) as video:
        assert video.length == 40 and video.size == (128, 192)
        assert numbers(video.frames([3, 19])) == [3, 19]
        for indices, first in ((range(40), 20), ([25], 25), ([18, 30], 30)):
            with pytest.raises(UserError, match=rf"frame {first} is 96x64, the first one 192x128"):
                video.frames(indices)
