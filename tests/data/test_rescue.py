"""What was sampled is kept when it cannot be written as asked."""

import os
import tempfile

import numpy as np
import pytest

from gm.data import rescue
from gm.data.rescue import Rescue
from gm.errors import UserError

LATENTS = np.arange(24, dtype=np.float32).reshape(1, 4, 2, 3)
FRAMES = np.zeros((2, 8, 8, 3), np.uint8)


def fail(base, error, frames=None, latents=LATENTS):
    with Rescue(base) as kept:
        kept.latents = latents
        kept.frames = frames
        raise error


def refuse(*_):
    raise UserError("disk full")


def test_frames_before_latents(tmp_path):
    with pytest.raises(UserError, match=r"no ffmpeg; the frames are kept in .*x_000_frames"):
        fail(tmp_path / "x_000", UserError("no ffmpeg"), FRAMES)
    assert os.listdir(tmp_path) == ["x_000_frames"] and len(os.listdir(tmp_path / "x_000_frames")) == 2


def test_latents_where_there_are_no_frames_or_they_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"NaN; what was sampled is kept as latents in .*a_000\.npy"):
        fail(tmp_path / "a_000", UserError("NaN"))
    monkeypatch.setattr(rescue, "write_frames", refuse)
    with pytest.raises(UserError, match=r"b_000\.npy"):
        fail(tmp_path / "b_000", UserError("disk full"), FRAMES)
    for name in "ab":
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}_000.npy"), LATENTS)


def test_elsewhere_where_the_folder_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match=rf"kept as latents in {tmp_path}/svd-\w+/a_000\.npy"):
        fail(tmp_path / "gone" / "a_000", UserError("no such folder"), FRAMES)


def test_other_errors_stay_what_they_are(tmp_path, capsys):
    with pytest.raises(MemoryError):
        fail(tmp_path / "a_000", MemoryError())
    assert "kept as latents" in capsys.readouterr().err and os.listdir(tmp_path) == ["a_000.npy"]


def test_nothing_is_kept_without_need(tmp_path):
    with Rescue(tmp_path / "a_000") as kept:
        kept.latents = LATENTS
        pass
    for error in (KeyboardInterrupt(), GeneratorExit()):
        with pytest.raises(type(error)):
            fail(tmp_path / "a_000", error, FRAMES)
    with pytest.raises(UserError, match="^NaN$"):
        fail(tmp_path / "a_000", UserError("NaN"), None, np.full_like(LATENTS, np.nan))
    assert os.listdir(tmp_path) == []
