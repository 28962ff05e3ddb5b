"""Videos shared out among processes, as threads and small programs; real ones in tests/test_many_devices.py."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from gm.errors import UserError
from gm.sharing import folder, launcher, supervisor
from gm.sharing.folder import RunFolder
from gm.sharing.launcher import Worker
from gm.sharing.member import Member
from tests.together import together

PATHS = [Path(f"/pictures/{name}.png") for name in "abc"]
LAUNCHED = {
    "MS_ROLE": "MS_WORKER",
    "MS_WORKER_NUM": "4",
    "MS_NODE_ID": "3",
    "DEVICE_ID": "1",
    "RANK_ID": "3",
    "MS_SCHED_HOST": "10.0.0.1",
    "MS_SCHED_PORT": "8118",
}


def devices(size):
    return [Worker(rank, size, rank, "host:1") for rank in range(size)]


def test_a_worker_knows_its_place_and_its_process_sees_one_device(monkeypatch):
    assert launcher.worker() is None and not launcher.is_scheduler()
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    worker = launcher.worker()
    assert worker == Worker(3, 4, 1, "10.0.0.1:8118")
    alone = launcher.alone(worker)
    assert not set(LAUNCHED) & alone.keys() and alone["PATH"] == os.environ["PATH"]
    assert alone["CUDA_VISIBLE_DEVICES"] == "6" and alone["ASCEND_RT_VISIBLE_DEVICES"] == "1"
    monkeypatch.delenv("MS_NODE_ID")
    with pytest.raises(UserError, match="--node_rank=0"):
        launcher.worker()
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    assert launcher.is_scheduler() and launcher.worker() is None


def test_devices_meet_and_the_first_ones_list_counts(tmp_path):
    """Though a run that was killed has left a list and a device's number."""
    first, *others = devices(3)
    stale = tmp_path / (folder._NAME + "old")
    (killed,) = together(lambda: folder.join(tmp_path, first._replace(size=1), [Path("old.png")], 7))
    killed._lock.release()
    left = killed.place
    (left / "hello-1.json").write_text('"of a dead one"')
    stale.mkdir()

    def late():
        time.sleep(0.5)
        return folder.join(tmp_path, first, PATHS, 2)

    runs = together(late, *(lambda worker=worker: folder.join(tmp_path, worker) for worker in others))
    assert all(run.paths == PATHS and run.videos == 2 and len(run) == 6 for run in runs)
    assert not stale.exists(), "another run's that was killed"
    assert [run.video(3) for run in runs] == [(PATHS[1], 1)] * 3


def test_a_run_that_goes_on_is_left_alone(tmp_path):
    first = devices(1)[0]
    run = folder.join(tmp_path, first, PATHS)
    with pytest.raises(UserError, match="--master_port"):
        folder.join(tmp_path, first, PATHS)
    other = folder.join(tmp_path, first._replace(run="host:2"), PATHS)
    assert run.take(0) and other.take(0)
    for one in (run, other):
        one.remove()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="has ended without this device"):
        run.take(1)


def test_a_device_that_does_not_come_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_UNSEEN", 0.5)
    first, second, _ = devices(3)
    here, alone = together(lambda: folder.join(tmp_path, first, PATHS), lambda: folder.join(tmp_path / "other", second))
    assert "of 3 devices these do not come: 1, 2" in str(here)
    assert "device 1 does not see" in str(alone)


def test_each_video_is_given_away_once(tmp_path):
    run = RunFolder(tmp_path, 4, [Path(f"{k}.png") for k in range(50)], 2)

    def work(rank):
        return [(path, number) for path, numbers in Member(run, rank).videos() for number in numbers]

    found = together(*(lambda rank=rank: work(rank) for rank in range(4)))
    assert sorted(sum(found, [])) == sorted((path, k) for path in run.paths for k in range(2))
    assert sum(len(run.notes(rank)[0]) for rank in range(4)) == 100


def test_notes_are_read_on_where_they_ended_and_only_whole(tmp_path):
    run = RunFolder(tmp_path, 1, PATHS, 1)
    assert run.notes(0) == ([], 0)
    run.note(0, taken=1)
    with open(tmp_path / "notes-0.jsonl", "ab") as file:
        file.write(b'{"done"')
    found, place = run.notes(0)
    assert found == [{"taken": 1}]
    with open(tmp_path / "notes-0.jsonl", "ab") as file:
        file.write(b": 1}\n")
    assert run.notes(0, place)[0] == [{"done": 1}]


def test_nobody_goes_on_before_all_have_come(tmp_path, monkeypatch):
    run, went = RunFolder(tmp_path, 2, [], 1), []

    def meet(rank, seconds):
        for number in (1, 2):
            time.sleep(seconds)
            run.meet(rank, number)
            went.append(number)

    start = time.monotonic()
    together(lambda: meet(0, 0.0), lambda: meet(1, 0.3))
    assert went == [1, 1, 2, 2] and time.monotonic() - start > 0.6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at-0-2", "at-1-2"]
    monkeypatch.setattr(folder, "_LONGEST", 0.2)
    with pytest.raises(UserError, match="device 1 of 2 has not come"):
        run.meet(0, 3)


# What the computing process of a device does with its videos; `rank` and `path` are known.
CHILD = """
import os, sys, time
from gm.sharing.member import joined
member = joined()
rank = member.rank
{first}
for path, numbers in member.videos():
    {each}
    member.run.note(rank, done=member._index(path, numbers[0]))
    time.sleep(0.3)
"""


def run_devices(tmp_path, size=2, first="pass", each="pass", videos=1):
    """What every device's supervisor returned or raised."""
    command = [sys.executable, "-c", CHILD.format(first=first, each=each)]
    first, *others = devices(size)
    return together(
        lambda: supervisor.supervise(first, tmp_path, PATHS, videos, command),
        *(lambda worker=worker: supervisor.supervise(worker, tmp_path, command=command) for worker in others),
    )


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(supervisor, "_LOOK", 0.1)
    monkeypatch.setattr(folder, "_LOOK", 0.05)


def test_all_is_done_and_nothing_stays(tmp_path, capsys):
    assert run_devices(tmp_path, videos=2) == [0, 0]
    assert "3 of 3 pictures done by 2 devices" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_killed_is_named_and_the_others_do_what_is_left(tmp_path, capsys):
    """But for what it was at, which may be what kills."""
    wait = "while rank == 0 and not os.path.exists(member.run.place / 'taken-0'): time.sleep(0.01)"
    first, second = run_devices(tmp_path, first=wait, each="rank and os.kill(os.getpid(), 9)")
    assert second == 0, "the launcher would end the others"
    assert str(first).splitlines() == [
        "1 of 3 pictures failed:",
        "  device 1 of 2: was ended by signal 9 (SIGKILL)",
        f"  {PATHS[0]}: device 1 was at it when it ended",
        "  the same command with --skip_done does what is missing",
    ]
    assert "2 of 3 pictures done by 2 devices" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_what_all_devices_fail_by_is_said_once(tmp_path, capsys):
    first, second = run_devices(tmp_path, first="member.fault('no such model'); sys.exit(1)")
    assert second == 0 and str(first).splitlines()[:2] == [
        "3 of 3 pictures failed:",
        "  devices 0, 1 of 2: no such model",
    ]
    assert f"3 pictures were not begun, {PATHS[0]} is the first" in str(first)


def test_a_picture_that_fails_is_told_with_its_reason(tmp_path):
    first, _ = run_devices(tmp_path, each="if 'b' in path.name: member.failed(path, numbers, 'not readable'); continue")
    assert str(first).splitlines() == ["1 of 3 pictures failed:", f"  {PATHS[1]}: not readable"]


def test_a_server_that_is_lost_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "_SILENCE", 1.0)
    command = [sys.executable, "-c", CHILD.format(first="pass", each="pass")]
    first, second = devices(2)
    told, _ = together(
        lambda: supervisor.supervise(first, tmp_path, PATHS, 1, command), lambda: folder.join(tmp_path, second)
    )
    assert str(told).startswith("all pictures are done, not all devices ended well:\n  device 1 of 2: told nothing for")
