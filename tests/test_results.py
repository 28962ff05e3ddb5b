"""What a video's file tells of its making, read back by the libraries that other programs use."""

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from gm import __version__
from gm.data.videos import write_gif
from gm.results import made_by, read_about, write_results

ABOUT = made_by("svd_xt", "svd_xt.safetensors")
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3)).astype(np.uint8)


def test_the_line_says_generated_model_and_version():
    assert "AI-generated" in ABOUT and "svd_xt.safetensors" in ABOUT and __version__ in ABOUT


@pytest.mark.parametrize("kind", ["mp4", "gif", "frames"])
def test_a_video_says_what_made_it(tmp_path, kind):
    files = write_results(tmp_path / "v", kind, None, FRAMES, 8, ABOUT)
    if kind == "mp4":
        with av.open(str(files["video"])) as container:
            assert container.metadata["comment"] == ABOUT
            assert sum(1 for _ in container.decode(video=0)) == 3
        assert read_about(files["video"]) == ABOUT
    elif kind == "gif":
        with Image.open(files["video"]) as picture:
            assert picture.info["comment"] == ABOUT.encode()
            assert sum(1 for _ in ImageSequence.Iterator(picture)) == 3 and picture.info["loop"] == 0
        assert read_about(files["video"]) == ABOUT
    else:
        for path in files["video"].iterdir():
            with Image.open(path) as picture:
                assert picture.text["Comment"] == ABOUT and read_about(path) == ABOUT


def test_a_comment_changes_no_pixel_of_a_gif_and_may_be_long(tmp_path):
    found = []
    for name, about in (("plain", ""), ("long", "x" * 700)):
        write_gif(FRAMES, tmp_path / f"{name}.gif", 8, about)
        with Image.open(tmp_path / f"{name}.gif") as picture:
            found.append([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)])
        assert read_about(tmp_path / f"{name}.gif") == about
    np.testing.assert_array_equal(*found)


def test_a_file_without_metadata_tells_nothing(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    assert read_about(tmp_path / "a.mp4") == read_about(tmp_path / "none.gif") == ""
