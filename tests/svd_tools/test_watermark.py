"""svd_tools/watermark.py: what it reads back of the program's own videos, folders and pictures, and of others."""

import numpy as np
import pytest
from PIL import Image

from gm.data.videos import to_uint8
from gm.data.watermark import FOUND, WATERMARK, agreement, embed_watermark, message, votes
from gm.errors import UserError
from gm.results import made_by, write_results
from svd_tools.watermark import main
from tests.untrained import CONFIG

ABOUT, DEMO = made_by("svd", "svd.safetensors"), CONFIG.parent.parent / "assets" / "demo.png"


@pytest.fixture(scope="module")
def frames():
    """float32 (2, 3, 384, 640) in [-1, 1]."""
    picture = np.asarray(Image.open(DEMO).convert("RGB").resize((640, 384)))
    return np.stack([picture, picture[:, ::-1]]).transpose(0, 3, 1, 2) / np.float32(127.5) - 1


@pytest.mark.parametrize("kind", ["mp4", "gif", "frames"])
def test_the_mark_and_the_metadata_of_a_marked_video(tmp_path, capsys, frames, kind):
    made = write_results(tmp_path / "v", kind, None, to_uint8(frames, embed_watermark), 7, ABOUT)
    assert main([str(made["video"])]) == 0
    said = capsys.readouterr().out
    assert "watermark found: 48 of 48 bits" in said and "of 2 frames have all 48" in said
    assert (ABOUT in said) == (kind != "frames")  # a folder has no metadata, its pictures have
    if kind == "frames":
        assert main([str(made["video"] / "00001.png")]) == 0
        assert ABOUT in capsys.readouterr().out


def test_without_a_mark_none_is_found(tmp_path, capsys, frames):
    made = write_results(tmp_path / "v", "mp4", None, to_uint8(frames), 7, "")
    assert main([str(made["video"])]) == 1
    said = capsys.readouterr().out
    assert "watermark not found" in said and "nothing about its making" in said


def test_frames_that_no_mark_fits_in_have_none_and_their_metadata_are_shown(tmp_path, capsys, frames):
    made = write_results(tmp_path / "v", "mp4", None, to_uint8(frames[..., :128, :128]), 7, ABOUT)
    assert main([str(made["video"])]) == 1
    said = capsys.readouterr().out
    assert f"{made['video']}: no watermark" in said and "128x128" in said and ABOUT in said


def test_votes_of_several_frames_are_summed(frames):
    """What a third of one frame's blocks says is outvoted by the others."""
    marked = to_uint8(frames, embed_watermark)
    spoilt = marked[0].copy()
    spoilt[::2, :, 2] //= 3
    counts = [votes(frame) for frame in (spoilt, *marked)]
    assert agreement(counts[0]) < 48 and message(sum(counts)) == WATERMARK and agreement(sum(counts)) == 48
    assert counts[0].sum() == counts[1].sum() == (384 // 8) * (640 // 8)


def test_how_many_bits_agree():
    bits = np.array([int(bit) for bit in f"{WATERMARK:048b}"])
    exact = np.stack([1 - bits, bits], 1)
    assert agreement(exact) == 48 and agreement(exact[:, ::-1]) == 0
    exact[:5] = exact[:5, ::-1]
    assert agreement(exact) == 43 >= FOUND


def test_files_that_cannot_be_read_are_named_after_the_others(tmp_path, capsys, frames):
    Image.fromarray(to_uint8(frames, embed_watermark)[0]).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match=r"2 of 3 files(.|\n)*text.png(.|\n)*none.mp4"):
        main([str(tmp_path / name) for name in ("a.png", "text.png", "none.mp4")])
    assert "a.png: watermark found" in capsys.readouterr().out
