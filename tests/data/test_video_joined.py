"""Streams joined of parts that say other things of their pictures: colours, range, shape of a pixel, bits."""

import numpy as np
import pytest

from gm.data.video_reader import open_video
from gm.errors import UserError
from tests.data.made_videos import HEVC, OPEN_GOP, X264, alike, by_matrix, coded, ffmpeg, make, shown

COUNT = 45  # frames of a part; those at the end are given out when the next part has begun
SDR = "scale=out_color_matrix=bt601:out_range=tv,setparams=color_trc=smpte170m:colorspace=smpte170m:range=tv"
FULL = "scale=out_color_matrix=bt601:out_range=pc,setparams=color_trc=smpte170m:colorspace=smpte170m:range=pc"
BT2020 = "scale=out_color_matrix=bt2020,setparams=color_primaries=bt2020:colorspace=bt2020nc:range=tv:color_trc="
PQ, HLG = f"{BT2020}smpte2084", f"{BT2020}arib-std-b67"
WHOLE = ("-pix_fmt", "yuv444p", *X264[2:])  # colours of the pictures' own size, which ffmpeg turns into RGB


def joined(folder, first, second, codec=X264, suffix="ts"):
    """(path, [path of each part]): two parts, each of a filter, one behind the other."""
    parts = [
        make(coded(COUNT, first=COUNT * k, seed=k), folder / f"{k}.ts", *codec, "-vf", filters)
        for k, filters in enumerate((first, second))
    ]
    path = folder / f"joined.{suffix}"
    if suffix == "ts":
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
    else:
        (folder / "list.txt").write_text("".join(f"file {part.name}\n" for part in parts))
        ffmpeg("-f", "concat", "-i", folder / "list.txt", "-c", "copy", path)
    return path, parts


def one_by_one(path, order):
    with open_video(path) as video:
        return np.concatenate([video.frames([index]) for index in order])


@pytest.mark.parametrize(
    "first, second, codec, suffix",
    [
        (FULL, SDR, X264, "ts"),
        (FULL, SDR, WHOLE, "ts"),
        (SDR, FULL, X264, "mp4"),
        (SDR, PQ, X264, "ts"),
        (PQ, SDR, HEVC, "mkv"),
        (PQ, HLG, HEVC, "ts"),
    ],
)
def test_each_part_has_its_own_colours(tmp_path, first, second, codec, suffix):
    path, parts = joined(tmp_path, first, second, codec, suffix)
    truth = []
    for part, filters in zip(parts, (first, second)):
        if filters in (PQ, HLG):  # whose way to SDR ffmpeg has not; `test_tone_map.py` has its truth
            with open_video(part) as video:
                truth.append(video.frames(range(COUNT)))
        else:
            span = "pc" if filters == FULL else "tv"
            truth.append(shown(part, by_matrix("bt601").replace("scale=", f"scale=in_range={span}:")))
    truth = np.concatenate(truth)
    with open_video(path) as video:
        assert alike(video.frames(range(2 * COUNT)), truth)
    order = [COUNT + 9, 3, COUNT - 1, COUNT, 2 * COUNT - 1, COUNT - 2]
    assert alike(one_by_one(path, order), truth[order])


@pytest.mark.parametrize("suffix", ["ts", "mp4"])
def test_another_shape_of_the_pixels_is_told_with_the_frame(tmp_path, suffix):
    path, _ = joined(tmp_path, "setsar=1", "setsar=2", suffix=suffix)
    with open_video(path) as video:
        assert video.length == 2 * COUNT and video.frames([3, COUNT - 5]).shape[1:3] == (64, 96)
        for indices in (range(2 * COUNT), [COUNT + 5]):
            with pytest.raises(
                UserError, match=r"frame \d+ has pixels of the shape 2:1, the first one 1:1; cut it there"
            ):
                video.frames(indices)


def test_skipping_loses_no_picture_where_the_parts_meet(tmp_path):
    """The decoder gives up what it has not given out yet, and with skipped pictures that is more."""
    path, _ = joined(tmp_path, SDR, SDR.replace("smpte170m", "bt709"), OPEN_GOP)
    with open_video(path) as video:
        every = video.frames(range(2 * COUNT))
    assert (one_by_one(path, [COUNT - 1]) == every[COUNT - 1]).all()
    wanted = [20, COUNT - 1, COUNT + 15]
    with open_video(path) as video:
        assert (video.frames(wanted) == every[wanted]).all()
