"""How `gm.data.videos` names files: nothing half-written (`atomic_path`), nothing overwritten (`next_base`)."""

import os
import subprocess
import sys

import pytest

from gm.data import videos
from gm.data.videos import atomic_path, next_base
from gm.errors import UserError


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failed_write_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "x.mp4"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent and temporary.suffix == ".mp4" and path.read_text() == "old"
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.mp4"]


def test_good_write_replaces_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["x.txt"]


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
        "import sys, time; from gm.data.videos import next_base\n"
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
    reserve = videos._reserve

    def other_finishes_first(claim):
        (tmp_path / "x_000.mp4").touch()
        return reserve(claim)

    monkeypatch.setattr(videos, "_reserve", other_finishes_first)
    assert next_base(tmp_path, "x").name == "x_001"


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
