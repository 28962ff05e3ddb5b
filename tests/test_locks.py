"""One owner at a time, and none that has ended."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from gm import locks
from gm.errors import UserError

HOLD = "import sys, time; from gm import locks; assert locks.take(sys.argv[1]); print('held'); time.sleep(60)"


def test_taken_once_and_again_when_released(tmp_path):
    path = tmp_path / "lock"
    first = locks.take(path)
    assert first and locks.take(path) is None
    first.release()
    assert not path.exists()
    again = locks.take(path)
    assert again
    again.release()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_ended_holds_nothing(tmp_path, number):
    path = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-u", "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    assert locks.take(path) is None
    with pytest.raises(UserError, match="busy"), locks.held(path, "busy"):
        pytest.fail("the body ran")
    process.send_signal(number)
    process.communicate()
    assert path.exists()
    lock = locks.take(path)
    assert lock
    lock.release()


def test_a_file_that_its_holder_removed_after_we_opened_it_is_no_lock(tmp_path, monkeypatch):
    path, lock = tmp_path / "lock", locks._lock
    path.touch()

    def removed_first(descriptor, new):
        monkeypatch.setattr(locks, "_lock", lock)
        path.unlink()
        return lock(descriptor, new)

    monkeypatch.setattr(locks, "_lock", removed_first)
    held = locks.take(path)
    assert held and path.exists() and locks.take(path) is None
    held.release()


def test_where_there_are_no_locks_the_file_itself_is_one(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    path = tmp_path / "lock"
    held = locks.take(path)
    assert held and locks.take(path) is None
    held.release()
    assert not path.exists()


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="cannot write .*lock"), locks.held(tmp_path / "lock", "busy"):
        pytest.fail("the body ran")
    assert not (tmp_path / "other").exists()
