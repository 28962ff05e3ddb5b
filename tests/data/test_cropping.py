"""The column `crop`: a clip whose bars are cut off is the one that was made without them."""

import numpy as np
import pytest

from gm.data.clips import ClipDataset
from gm.data.cropping import Crop, read_crop
from gm.data.metadata import read_metadata
from gm.data.overlays import Overlays
from gm.data.sized_clips import by_size
from gm.data.video_reader import open_video
from gm.errors import UserError
from svd_tools.check_dataset import decode_all
from tests.data.made_videos import coded, make

HEAD = "path,length,motion_bucket_id,width,height,crop\n"
LOSSLESS = ("-c:v", "libx264rgb", "-qp", "0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """with.mkv: bars of 16 lines above and 20 below, and of 8 columns at the left."""
    folder = tmp_path_factory.mktemp("bars")
    frames = coded(12)
    make(frames, folder / "without.mkv", *LOSSLESS)
    make(np.pad(frames, ((0, 0), (16, 20), (8, 0), (0, 0))), folder / "with.mkv", *LOSSLESS)
    return folder


def clips(folder, *rows, **options):
    (folder / "list.csv").write_text(HEAD + "".join(row + "\n" for row in rows))
    return read_metadata(folder / "list.csv", folder, 4, 2, **options)


def test_what_labelling_finds_is_what_training_cuts_off(folder):
    overlays = Overlays()
    with open_video(folder / "with.mkv") as video:
        for frame in video.frames(range(12)):
            overlays.add(frame)
    assert overlays.crop() == "96:64:8:16"
    with_bars, without, kept = (
        ClipDataset(clips(folder, row), 4, 2, 32, 48, flip=0.5)
        for row in (f"with.mkv,12,1,104,100,{overlays.crop()}", "without.mkv,12,1,96,64,", "with.mkv,12,1,104,100,")
    )
    for epoch in range(4):
        sample, same = with_bars.sample(0, epoch), without.sample(0, epoch)
        assert np.array_equal(sample["pixels"], same["pixels"]) and sample["start"] == same["start"]
        assert not np.array_equal(sample["pixels"], kept.sample(0, epoch)["pixels"])
    assert with_bars.identity() != kept.identity()


def test_the_size_is_that_of_what_is_left(folder):
    row = "with.mkv,12,1,{},8:64:8:16"
    for size in ("104,100", ","):
        assert list(by_size(clips(folder, row.format(size)).clips, [(64, 96), (64, 8)])) == [(64, 8)]


def test_a_crop_that_is_none_is_a_fault_of_its_row(folder):
    for cell in ("96:64:8", "0:64:8:16", "96:64:-8:16", "a", "96x64+8+16"):
        with pytest.raises(UserError, match=r"line 2: crop must be width:height:x:y in pixels, not"):
            clips(folder, f"with.mkv,12,1,104,100,{cell}")
    outside = r"line 2: .*crop 97:64:8:16 does not lie within the picture, which is 104x100"
    with pytest.raises(UserError, match=outside):
        clips(folder, "with.mkv,12,1,104,100,97:64:8:16")
    with pytest.raises(UserError, match=outside):
        clips(folder, "with.mkv,12,1,,,97:64:8:16", verify_files="open")
    metadata = clips(folder, "with.mkv,12,1,,,97:64:8:16")
    faults, sizes = decode_all(metadata.clips)
    assert "does not lie within" in faults[0][1] and sizes == [(64, 97)]
    with pytest.raises(UserError, match=r"with\.mkv: crop 97:64:8:16 does not lie"):
        ClipDataset(metadata, 4, 2, 32, 48)._read(metadata.clips[0], np.random.default_rng(0))


def test_cells():
    assert read_crop("") is None and read_crop("96:64:8:16") == Crop(96, 64, 8, 16)
    assert str(Crop(1, 2, 3, 4)) == "1:2:3:4"
