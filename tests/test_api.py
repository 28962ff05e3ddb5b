"""What other programs import, and docs/api.md, whose examples run as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gm
from gm import places
from gm.errors import UserError
from gm.model import load_model_config
from gm.pipeline import ImageToVideo
from gm.sizes import check_picture

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"


def test_every_public_name_is_there_and_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    for name in gm.__all__:
        assert getattr(gm, name).__name__ == name
        assert f"`{name}" in page or f", {name}" in page, name
    assert set(gm.__all__) <= set(dir(gm))
    with pytest.raises(AttributeError, match="'gm' has no attribute 'nothing'"):
        _ = gm.nothing


def test_importing_gm_is_light():
    code = "import sys, gm; print(sorted({'mindspore', 'numpy', 'gm.errors'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_examples_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SVD_CHECKPOINTS", raising=False)
    shutil.copy(places.DEMO, "photo.png")
    names = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(example, str(PAGE), "exec"), names)  # one after another, in one program
    assert names["frames"].shape == (4, names["height"], names["width"], 3) and names["status"] == 0
    assert Path("video.mp4").stat().st_size and Path("run/weights/delta.safetensors").is_file()


@pytest.mark.parametrize(
    "image, says",
    [
        (np.zeros((32, 32, 3), np.float32), "holds float32: it must be uint8"),
        (np.zeros((32, 32, 3), np.int64), "holds int64"),
        (np.zeros((32, 32), np.uint8), "is grey"),
        (np.zeros((32, 32, 1), np.uint8), "is grey"),
        (np.zeros((32, 32, 4), np.uint8), "RGBA"),
        (np.zeros((3, 32, 32), np.uint8), r"shape \(3, 32, 32\).*colours last"),
        (np.zeros((1, 32, 32, 3), np.uint8), "one picture"),
        ("photo.jpg", "is a str: .*load_image"),
        (np.zeros((32, 40, 3), np.uint8), "32x40 pixels: height and width must be multiples of 16"),
    ],
)
def test_pictures_that_cannot_be_are_told_with_the_remedy(image, says):
    with pytest.raises(UserError, match=says):
        check_picture(image, load_model_config("svd_tiny").model)


def test_none_leaves_a_value_everywhere(monkeypatch):
    pipeline = ImageToVideo("svd_tiny")
    options = pipeline.options(fps=None, num_frames=5)
    assert options.fps == pipeline.config.sampling.fps and options.changed(num_frames=None) == options
    seen = []

    def steps(image, options):
        seen.append(options)
        raise UserError("far enough")

    monkeypatch.setattr(pipeline, "steps", steps)
    for given in (None, options):
        with pytest.raises(UserError, match="far enough"):
            pipeline(None, given, sampling_steps=None, seed=3)
    assert seen == [pipeline.options(seed=3), options.changed(seed=3)]


def test_a_loaded_config_names_no_weights():
    with pytest.raises(UserError, match="checkpoint"):
        ImageToVideo(load_model_config("svd_tiny"))


def test_a_config_that_is_nowhere_is_told_as_that_and_not_as_weights_of_its_name():
    with pytest.raises(UserError, match="config nothing"):
        ImageToVideo("nothing")
