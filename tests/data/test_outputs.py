import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gm.data import outputs
from gm.data.outputs import next_base, write_json, write_npy, write_png
from gm.errors import UserError


def test_next_base_takes_the_first_free_number(tmp_path):
    folder = tmp_path / "a" / "b"
    assert next_base(folder, "photo") == folder / "photo_000"
    for name in ("cat_000.mp4", "cat_001_sheet.png", "cat_0020.mp4", "cat_003x.mp4", "cat_004", "mycat_002.mp4"):
        (folder / name).touch()
    assert [next_base(folder, "cat").name for _ in range(3)] == ["cat_002", "cat_003", "cat_005"]
    (folder / "dog_000").mkdir()
    assert next_base(folder, "dog").name == "dog_001"


def test_next_base_with_special_characters_and_past_999(tmp_path):
    (tmp_path / "axb_000.mp4").touch()
    assert next_base(tmp_path, "a.b").name == "a.b_000"
    for number in range(1000):
        (tmp_path / f"n(1)_{number:03d}.mp4").touch()
    assert next_base(tmp_path, "n(1)").name == "n(1)_1000"


def test_processes_side_by_side_get_different_names_and_leave_nothing(tmp_path):
    code = (
        "import sys, time; from gm.data.outputs import next_base\n"
        "print(*[next_base(sys.argv[1], 'x').name for _ in range(20)], flush=True); sys.stdin.read(); raise ValueError"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in range(2)]
    names = [name for process in running for name in process.stdout.readline().split()]
    assert sorted(names) == [f"x_{number:03d}" for number in range(40)]
    for process in running:
        _, errors = process.communicate("")
        assert "ValueError" in errors and process.returncode == 1
    assert not os.listdir(tmp_path)


def test_next_base_looks_again_once_it_holds_the_name(tmp_path, monkeypatch):
    """Another process may write its video and give its claim back between our look at the folder and our claim."""
    reserve = outputs._reserve

    def other_finishes_first(folder, name):
        (tmp_path / "x_000.mp4").touch()
        return reserve(folder, name)

    monkeypatch.setattr(outputs, "_reserve", other_finishes_first)
    assert next_base(tmp_path, "x").name == "x_001"


def test_the_name_of_a_process_that_was_killed_is_taken_over(tmp_path):
    code = "import os, sys; from gm.data.outputs import next_base; next_base(sys.argv[1], 'x'); os.kill(os.getpid(), 9)"
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
        assert os.listdir(tmp_path) == [".x_000.claim"]
    base = next_base(tmp_path, "x")
    assert base.name == "x_000"
    outputs.give_back(base)
    assert not os.listdir(tmp_path)
    for name in (".x_000.claim", "x_000.mp4", ".y_007.claim"):
        (tmp_path / name).touch()
    next_base(tmp_path, "x")
    assert sorted(os.listdir(tmp_path)) == [".x_001.claim", "x_000.mp4"]


def test_a_name_that_is_too_long_is_told_before_the_work(tmp_path):
    longest = "x" * (255 - len("_0000_image.png"))
    write_png(np.zeros((2, 2, 3), np.uint8), f"{next_base(tmp_path, longest)}_image.png")
    for stem in (longest + "x", longest + "é"):
        with pytest.raises(UserError, match="the name x.* is too long"):
            next_base(tmp_path, stem)


def test_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: it is not a folder"):
        next_base(tmp_path / "file", "x")
    with pytest.raises(UserError, match="cannot write to output folder .*file/below"):
        next_base(tmp_path / "file" / "below", "x")
    if os.path.isdir("/proc/self"):
        for folder in ("/proc/below", "/proc/self"):
            with pytest.raises(UserError, match=f"cannot write to output folder {folder}"):
                next_base(folder, "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_output_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="Permission denied"):
            next_base(tmp_path, "x")
    finally:
        tmp_path.chmod(0o700)


def test_png_json_npy(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    write_png(image, tmp_path / "x.png")
    write_npy(array, tmp_path / "x.npy")
    write_json({"path": Path("a/é"), "scale": np.float32(0.5), "list": array}, tmp_path / "x.json")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), array)
    data = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert data == {"path": "a/é", "scale": 0.5, "list": [[0, 1, 2], [3, 4, 5]]}
    assert sorted(os.listdir(tmp_path)) == ["x.json", "x.npy", "x.png"]


def test_json_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_json({"a": 1}, tmp_path / "x.json")
    for data, error in (({"a": object()}, TypeError), ({"a": float("nan")}, ValueError)):
        with pytest.raises(error):
            write_json(data, tmp_path / "x.json")
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 1\n}\n' and len(os.listdir(tmp_path)) == 1


def test_no_such_folder_is_a_user_error(tmp_path):
    path = tmp_path / "nowhere" / "x.out"
    image = np.zeros((2, 2, 3), np.uint8)
    for write, data in ((write_png, image), (write_npy, image), (write_json, {})):
        with pytest.raises(UserError, match=r"cannot write .*nowhere/x\.out"):
            write(data, path)
