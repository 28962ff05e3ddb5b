"""The shipped recordings of the original are reproduced in both modes, and a deviation does not go unnoticed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gm import ops
from gm.errors import UserError
from svd_tools import verify

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDENS = ROOT / "tests" / "goldens"
SLOW_TO_COMPILE = ("loss",)  # two more graphs of the UNet's forward and backward pass, which unet compiles as well


def cases():
    found = []
    for path in sorted(GOLDENS.glob("*.safetensors")):
        kind = path.stem.split("_")[0]
        marks = pytest.mark.slow if kind in SLOW_TO_COMPILE else ()
        found.append(pytest.param(path, ops.GRAPH_MODE, id=f"{kind}-graph", marks=marks))
        found.append(pytest.param(path, ops.PYNATIVE_MODE, id=f"{kind}-pynative"))
    return found


@pytest.mark.parametrize(("path", "mode"), cases())
def test_recordings_of_the_original_are_reproduced(path, mode):
    ops.set_device("CPU", mode)
    report = verify.replay(path, "float32")
    failed = [row for row in report.rows if not row.passed]
    assert report.rows and not failed, failed


def copy(tmp_path, name, change):
    """A golden file changed by change(tensors, meta)."""
    tensors = load_file(GOLDENS / f"{name}.safetensors")
    meta = json.loads((GOLDENS / f"{name}.json").read_text())
    change(tensors, meta)
    save_file(tensors, tmp_path / f"{name}.safetensors")
    (tmp_path / f"{name}.json").write_text(json.dumps(meta))
    return tmp_path / f"{name}.safetensors"


@pytest.mark.parametrize("key", ["out/sigmas_25", "out/vector", "out/c_out", "out/guidance_1.0_2.5_14"])
def test_a_deviation_fails(tmp_path, key, capsys):
    def change(tensors, meta):
        tensors[key] = tensors[key] * np.float32(1.001)

    assert verify.main([str(copy(tmp_path, "scalars_golden", change)), "--device_target=CPU"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("FAIL") == 1 and f"{key} " in next(line for line in printed.splitlines() if "FAIL" in line)


def test_nan_fails(tmp_path):
    def change(tensors, meta):
        tensors["out/c_in"] = tensors["out/c_in"] * np.float32("nan")

    assert verify.main([str(copy(tmp_path, "scalars_golden", change)), "--device_target=CPU"]) == 1


def test_what_nothing_replays_fails(tmp_path, capsys):
    def change(tensors, meta):
        tensors["out/something_new"] = np.zeros(3, np.float32)

    assert verify.main([str(copy(tmp_path, "scalars_golden", change)), "--device_target=CPU"]) == 1
    assert "something_new (not replayed)" in capsys.readouterr().out


def test_other_cases_of_the_same_format(tmp_path):
    """Nothing of the shipped cases is built in: other step counts, ranges, frame counts and widths."""

    def change(tensors, meta):
        meta.update(sigma_min=0.01, sigma_max=80.0, rho=5.0)
        for key in [k for k in tensors if k.startswith("out/sigmas_")]:
            del tensors[key]
        ramp = np.linspace(80**0.2, 0.01**0.2, 7) ** 5
        tensors["out/sigmas_7"] = np.append(ramp, 0).astype(np.float32)
        tensors["out/guidance_2.0_4.0_3"] = np.array([[2, 3, 4]], np.float32)
        angles = np.array([[0, 0], [1, 0.01]])
        tensors["out/frame_emb_4"] = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    assert verify.main([str(copy(tmp_path, "scalars_golden", change)), "--device_target=CPU"]) == 0


@pytest.mark.parametrize("kind", ["missing", "not_golden", "unknown_kind", "lacks_entry", "wrong_weights"])
def test_files_that_cannot_be_replayed_are_refused(tmp_path, kind):
    if kind == "missing":
        path = tmp_path / "no.safetensors"
    elif kind == "not_golden":
        path = tmp_path / "x.safetensors"
        path.write_bytes(b"12345678")
        path.with_suffix(".json").write_text("{}")
    elif kind == "unknown_kind":
        path = copy(tmp_path, "scalars_golden", lambda tensors, meta: meta.update(kind="sounds"))
    elif kind == "lacks_entry":
        path = copy(tmp_path, "scalars_golden", lambda tensors, meta: tensors.pop("in/fps_id"))
    else:
        path = copy(tmp_path, "clip_golden", lambda tensors, meta: tensors.pop("w/proj"))
    with pytest.raises(UserError, match=str(path.stem) if kind != "wrong_weights" else "proj"):
        verify.main([str(path), "--device_target=CPU"])


def test_as_a_program():
    command = [sys.executable, "svd_tools/verify.py", str(GOLDENS / "scalars_golden.safetensors"), "--mode=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "0 failed: CPU, PyNative, float32" in done.stdout
