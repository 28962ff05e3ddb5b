"""benchmarks/camera_moves.py measures the videos of this call, whatever an earlier one left in its folder."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gm.data.outputs import write_png

ROOT = Path(__file__).resolve().parent.parent


def test_videos_of_an_earlier_call_are_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("camera_moves")

    def make(command, **_):
        options = dict(part[2:].split("=", 1) for part in command[2:])
        for path in Path(options["image"]).glob("*.png"):
            write_png(np.full((8, 8, 3), len(options["SVD.delta"]), np.uint8), folder_of(options, path) / "0.png")

    def folder_of(options, path):
        folder = Path(options["output_dir"]) / f"{path.stem}_000_frames"
        folder.mkdir(parents=True)
        return folder

    monkeypatch.setattr(module.subprocess, "run", make)
    shown, options = tmp_path / "pictures", SimpleNamespace(sampling_steps=6)
    shown.mkdir()
    write_png(np.zeros((8, 8, 3), np.uint8), shown / "a.png")
    for delta in ("a", "another"):
        found = module.animate(shown, tmp_path / "pan_left_videos", delta, options)
        assert (found["a"] == len(delta)).all()
    assert module.fresh(shown) == tmp_path / "pictures_1" and module.fresh(tmp_path / "new") == tmp_path / "new"
