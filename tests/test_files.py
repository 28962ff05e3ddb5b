import errno
import os
import shutil
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest

from gm import files
from gm.errors import UserError
from gm.files import atomic_path, require_space


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failed_write_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "x.mp4"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent.parent == path.parent and temporary.suffix == ".mp4" and path.read_text() == "old"
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.mp4"]


def test_good_write_replaces_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["x.txt"]


def test_the_first_file_removes_what_killed_processes_left_but_not_what_others_make(tmp_path):
    code = (
        "import sys; from gm.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as place:\n    place.write_text('half')\n    print(flush=True)\n    input()"
    )
    killed, living = (
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("killed", "living")
    )
    for process in (killed, living):
        process.stdout.readline()
    killed.kill()
    killed.communicate()
    (tmp_path / ".tmp-other").mkdir()
    assert len(os.listdir(tmp_path)) == 3
    with atomic_path(tmp_path / "mine") as temporary:
        temporary.write_text("whole")
    assert len(os.listdir(tmp_path)) == 3
    living.communicate(b"\n")
    assert sorted(os.listdir(tmp_path)) == [".tmp-other", "living", "mine"]


def test_a_folder_that_another_process_removes_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    made, make = [], tempfile.mkdtemp

    def make_but_lose_the_first(**options):
        made.append(make(**options))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_but_lose_the_first)
    with files.temporary_folder(tmp_path) as place:
        assert place.is_dir() and len(made) == 2


def test_folder_is_whole_or_absent(tmp_path):
    path = tmp_path / "frames_000"
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "below").mkdir()
        (temporary / "below" / "a.png").write_text("a")
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)
    with atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "below").mkdir()
        (temporary / "below" / "a.png").write_text("a")
        assert not path.exists()
    assert (path / "below" / "a.png").read_text() == "a" and os.listdir(tmp_path) == ["frames_000"]


def test_everything_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    events = []
    replace = os.replace
    monkeypatch.setattr(files.os, "fsync", lambda number: events.append(os.readlink(f"/proc/self/fd/{number}")))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (events.append("rename"), replace(a, b)))
    with atomic_path(tmp_path / "x.txt") as temporary:
        temporary.write_text("new")
    assert events == [str(temporary), "rename"]
    events.clear()
    with atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        for name in "ab":
            (temporary / name).touch()
    assert sorted(events[:2]) == [str(temporary / "a"), str(temporary / "b")] and events[2:] == ["rename"]


def test_a_name_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("x" * 251 + ".txt")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_a_name_that_is_too_long_is_told_before_the_work(tmp_path):
    refused = pytest.raises(UserError, match="File name too long; choose a shorter one")
    with refused, atomic_path(tmp_path / ("x" * 256)):
        pytest.fail("the body ran")
    assert os.listdir(tmp_path) == []


def test_a_link_that_is_planted_meanwhile_is_not_followed(tmp_path):
    """Nobody but this user can enter the folder where it is made, and the link itself is replaced."""
    (tmp_path / "other").write_text("mine")
    with atomic_path(tmp_path / "x.txt") as temporary:
        assert temporary.parent.stat().st_mode & 0o777 == 0o700
        (tmp_path / "x.txt").symlink_to(tmp_path / "other")
        temporary.write_text("new")
    assert (tmp_path / "other").read_text() == "mine" and not (tmp_path / "x.txt").is_symlink()
    old = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "x.txt") as temporary:
            temporary.write_text("new")
    finally:
        os.umask(old)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o640  # the file's own mode is the usual one


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_told_with_the_remedy(tmp_path, code):
    refused = pytest.raises(UserError, match=r"cannot write .*x\.bin: .*; free some space")
    with refused as caught, atomic_path(tmp_path / "x.bin") as temporary:
        temporary.write_bytes(b"half")
        raise OSError(code, os.strerror(code))
    assert ".tmp" not in str(caught.value) and not os.listdir(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_write_that_really_meets_a_full_disk(tmp_path):
    with pytest.raises(UserError, match="No space left on device"), atomic_path(tmp_path / "x.bin") as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x")
    assert not os.listdir(tmp_path)


def test_error_of_another_file_names_that_file(tmp_path):
    refused = pytest.raises(UserError, match=r"x\.bin: No such file or directory: .*weights\.bin")
    with refused, atomic_path(tmp_path / "x.bin"):
        (tmp_path / "weights.bin").read_bytes()


def test_folder_that_cannot_be_written_to_is_told_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    for folder, reason in ((tmp_path / "nowhere", "No such file"), (tmp_path / "file", "Not a directory")):
        refused = pytest.raises(UserError, match=rf"cannot write .*x\.bin: {folder}: {reason}.*choose another folder")
        with refused, atomic_path(folder / "x.bin"):
            pytest.fail("the body ran")


def test_a_folder_in_the_way_is_told_and_kept(tmp_path):
    (tmp_path / "x.bin").mkdir()
    refused = pytest.raises(UserError, match=r"cannot write .*x\.bin: Is a directory$")
    with refused, atomic_path(tmp_path / "x.bin") as temporary:
        temporary.write_bytes(b"new")
    assert os.listdir(tmp_path) == ["x.bin"] and (tmp_path / "x.bin").is_dir()


def test_require_space(tmp_path):
    require_space(tmp_path, 1)
    with pytest.raises(UserError, match="1000000000.00 GB are needed, .* choose another folder"):
        require_space(tmp_path, 10**18)


def test_little_space_is_told_in_numbers_that_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=60_000))
    with pytest.raises(UserError, match=r"1\.50 MB are needed, 0\.06 MB are free\."):
        require_space(tmp_path, 1.5e6)
