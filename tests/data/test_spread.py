"""Work over many files, on threads and on the workers of a cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gm.data import spread as module
from gm.data.spread import spread
from gm.data.videos import write_video
from gm.errors import UserError
from svd_tools import check_dataset, preview, select_clips
from svd_tools import label_videos as tool

ROOT = Path(__file__).resolve().parents[2]
WORDS = {"desc": "working", "unit": "piece", "given_up": lambda item, reason: (item, reason)}


def test_threads_do_all_and_stop_when_the_results_are_no_longer_wanted():
    assert sorted(spread(lambda x: x * x, range(20), 3, **WORDS)) == [x * x for x in range(20)]
    begun = []

    def slow(x):
        begun.append(x)
        time.sleep(0.05)

    results = spread(slow, range(1000), 2, **WORDS)
    next(results)
    results.close()
    assert len(begun) < 10


def test_a_cluster_that_is_not_there_is_one_message(monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT", 1)
    for address in (f"tcp://127.0.0.1:{free_port()}", "nonsense://x"):
        with pytest.raises(UserError, match=f"no Dask scheduler answers at {address}"):
            list(spread(str, [1], 1, address, **WORDS))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="pip install -r requirements-cluster.txt"):
        list(spread(str, [1], 1, "tcp://x:1", **WORDS))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def cluster(tmp_path):
    """(address, function that starts a worker -> its process)."""
    address, running = f"tcp://127.0.0.1:{free_port()}", []

    def start(name, *arguments):
        log = open(tmp_path / f"{len(running)}.log", "w")  # noqa: SIM115
        command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *arguments, "--no-dashboard"]
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))
        return running[-1]

    start("scheduler", "--host=127.0.0.1", f"--port={address.rpartition(':')[2]}")
    yield address, lambda: start("worker", address, "--nthreads=1", "--no-nanny", f"--local-directory={tmp_path}")
    for process in running:
        process.kill()
        process.wait()


def wait_for(address, workers):
    """Until so many have registered."""
    for _ in range(300):
        time.sleep(0.2)
        with module._library().Client(address, set_as_default=False) as client:
            if len(client.nthreads()) == workers:
                return


def die(item):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_no_byte(cluster, tmp_path, monkeypatch):
    address, start_worker = cluster
    folder, alone, output = tmp_path / "videos", tmp_path / "alone.csv", tmp_path / "labels.csv"
    folder.mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), np.uint8)
    write_video(frames, tmp_path / "one.mp4", 10)
    for number in range(40):
        os.link(tmp_path / "one.mp4", folder / f"{number:03}.mp4")
    (folder / "broken.mp4").write_text("no video")
    left_out = tool.label_videos(folder, alone)
    with pytest.raises(UserError, match="has no workers yet"):
        list(spread(str, [1], 1, address, **WORDS))
    workers = [start_worker(), start_worker()]
    wait_for(address, 2)
    written = tool.write_row

    def killing(file, row):
        written(file, row)
        if row[0] == "020.mp4" and workers[0].poll() is None:
            workers[0].kill()

    monkeypatch.setattr(tool, "write_row", killing)
    assert [path for path, _ in tool.label_videos(folder, output, scheduler=address)] == [path for path, _ in left_out]
    assert workers[0].poll() == -signal.SIGKILL and workers[1].poll() is None
    assert output.read_bytes() == alone.read_bytes() and len(output.read_text().splitlines()) == 41

    workers += [start_worker() for _ in range(4)]
    ((item, reason),) = spread(die, ["poison"], 1, address, **WORDS)
    assert item == "poison" and "poison: " in reason


@pytest.mark.slow
def test_checks_and_duplicates_say_the_same_on_a_cluster(cluster, tmp_path, capsys):
    pytest.importorskip("imagehash")
    address, start_worker = cluster
    random = np.random.default_rng(0)
    for name in "abcd":
        write_video(random.integers(0, 255, (12, 64, 64, 3), np.uint8), tmp_path / f"{name}.mp4", 10)
    (tmp_path / "e.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    (tmp_path / "broken.mp4").write_text("no video")
    rows = "".join(f"{name}.mp4,12,1\n" for name in (*"abcde", "broken"))
    (tmp_path / "labels.csv").write_text(f"path,length,motion_bucket_id\n{rows}")
    start_worker()
    wait_for(address, 1)

    def said(tool, *options):
        told = ""
        try:
            tool.main([str(tmp_path / "labels.csv"), f"--data_dir={tmp_path}", *options])
        except UserError as error:
            told = str(error)
        captured = capsys.readouterr()
        warnings = [line for line in captured.err.splitlines() if line.startswith("warning")]
        return captured.out, warnings, told

    check = "--frames=4", "--step=2", "--deep"
    alone, spread_out = said(check_dataset, *check), said(check_dataset, *check, f"--scheduler={address}")
    assert alone == spread_out and "1 fault" in alone[2] and "line 7: " in alone[2]
    near = "--duplicates=near", f"--output={tmp_path / 'chosen.csv'}", "--overwrite"
    results = []
    for more in ((), (f"--scheduler={address}",)):
        results.append((said(select_clips, *near, *more), (tmp_path / "chosen.csv").read_bytes()))
    assert results[0] == results[1] and b"e.mp4" not in results[0][1] and "line 7 stays" in results[0][0][1][0]

    (tmp_path / "labels.csv").write_text("path,length,motion_bucket_id\na.mp4,12,1\nb.mp4,12,9\n")
    look = "--frames=4", "--step=2", "--height=64", "--width=64", "--count=4", f"--output={tmp_path / 'sheet.png'}"
    sheets = []
    for more in ((), (f"--scheduler={address}",)):
        said(preview, *look, *more)
        sheets.append((tmp_path / "sheet.png").read_bytes())
    assert sheets[0] == sheets[1]
