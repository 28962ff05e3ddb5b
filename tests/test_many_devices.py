"""One folder of pictures, two processes of MindSpore's launcher: real ones, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

import image_to_video
from gm.errors import UserError
from svd_tools.golden.limits import PRECISIONS
from tests import signals
from tests.untrained import CONFIG

ROOT = CONFIG.parent.parent
NAMES = [f"picture{k}" for k in range(6)]
SAMPLER = PRECISIONS["float32"].limits["sampler"]  # what a sampler's steps may differ by for the order of their sums


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k, name in enumerate(NAMES):
        Image.linear_gradient("L").rotate(20 * k).resize((64, 64)).convert("RGB").save(folder / f"{name}.png")
    return folder


@pytest.fixture
def launch(tmp_path, untrained, pictures):
    """Function of options -> (the launcher of two workers, the folder of their logs)."""
    running = []

    def start(*extra, image=pictures, workers=2, script=()):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        logs = tmp_path / f"logs-{port}"
        command = [
            str(Path(sys.executable).parent / "msrun"),
            f"--worker_num={workers}",
            f"--local_worker_num={workers}",
            "--join=True",
            f"--master_port={port}",
            f"--log_dir={logs}",
            *script,
            str(ROOT / "image_to_video.py"),
            f"--SVD.config={CONFIG}",
            f"--SVD.checkpoint={untrained}",
            f"--image={image}",
            f"--output_dir={tmp_path / 'out'}",
            "--SVD.num_frames=3",
            "--SVD.sampling_steps=3",
            "--mode=1",
            "--device_target=CPU",
            *extra,
        ]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PATH": path},
            preexec_fn=signals.heed,
        )
        running.append(process)
        return process, logs

    yield start
    for process in running:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.wait()


def end(process, logs):
    """(exit status of the launcher, what the workers printed)."""
    process.communicate(timeout=600)
    return process.returncode, "".join(path.read_text() for path in sorted(logs.glob("worker_*.log")))


def programs(launcher, rank):
    """(the process of a rank that the launcher started, the one that computes), once the latter has taken a video."""
    while True:
        assert launcher.poll() is None, launcher.communicate()[0]
        for child in psutil.Process(launcher.pid).children():
            with_rank = child.environ() if child.status() != psutil.STATUS_ZOMBIE else {}
            below = child.children()
            if with_rank.get("MS_ROLE") == "MS_WORKER" and with_rank.get("RANK_ID") == str(rank) and below:
                return child, below[0]
        time.sleep(0.05)


def wait_for(condition, launcher):
    while not condition():
        assert launcher.poll() is None, launcher.communicate()[0]
        time.sleep(0.05)


def results(folder):
    """{name of the picture: [what its JSON files tell]}, whole ones: their video and pictures are there."""
    found = {}
    for path in folder.glob("*.json"):
        told = json.loads(path.read_text())
        assert all((folder / name).is_file() for name, _ in told["files"].values())
        found.setdefault(Path(told["image"]).stem, []).append(told)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("which", ["computing", "launched"])
def test_one_of_two_devices_is_killed_and_a_second_run_does_what_is_missing(launch, tmp_path, which):
    out = tmp_path / "out"
    launcher, logs = launch()
    supervisor, computing = programs(launcher, 1)
    taken = [*out.glob(".shared-*")][0] / "notes-1.jsonl"
    wait_for(lambda: '"taken"' in taken.read_text(), launcher)
    (computing if which == "computing" else supervisor).send_signal(signal.SIGKILL)
    status, output = end(launcher, logs)
    assert status != 0
    psutil.wait_procs([supervisor, computing], timeout=30)
    assert not supervisor.is_running() and not computing.is_running()
    first = results(out)
    assert all(len(told) == 1 for told in first.values())
    if which == "computing":  # the other device goes on
        assert set(first) >= set(NAMES) - {"picture0", "picture1"} and len(first) == len(NAMES) - 1
        assert "1 of 6 pictures failed" in output and "device 1 of 2: was ended by signal 9 (SIGKILL)" in output
        assert output.count("pictures failed") == 1 and not list(out.glob(".shared-*"))
    before = {path: path.stat().st_mtime_ns for path in out.iterdir() if not path.name.startswith(".")}
    status, output = end(*launch("--skip_done"))
    assert status == 0, output
    assert "6 of 6 pictures done by 2 devices" in output
    assert f"{len(first)} of 6 videos were there already" in output or not first
    again = results(out)
    assert sorted(again) == NAMES and all(len(told) == 1 for told in again.values())
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert not [path for path in out.iterdir() if path.name.startswith(".") and not path.name.endswith(".claim")]


@pytest.mark.slow
def test_two_devices_say_what_is_common_once_and_a_fault_once(launch, tmp_path):
    one = tmp_path / "pictures" / "picture0.png"
    status, output = end(*launch("--SVD.motion_bucket_id=300", "--num_videos=2", image=one))
    assert status == 0, output
    assert output.count("motion_bucket_id 300 is above 255") == 1
    assert sorted(told["seed"] for told in results(tmp_path / "out")["picture0"]) == [23, 24]
    status, output = end(*launch("--SVD.fps=0"))
    assert status != 0 and output.count("fps 0") == 1 and "Traceback" not in output
    status, output = end(*launch("--no_such_option"))
    assert status != 0 and output.count("--no_such_option") == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0, 1])
def test_two_devices_make_one_video_as_one_does(launch, tmp_path, untrained, mode):
    """Two pictures, a file that is none, and a batch; the second device writes nothing and says nothing."""
    folder = tmp_path / "few"
    folder.mkdir()
    for name in NAMES[:2]:
        (folder / f"{name}.png").symlink_to(tmp_path / "pictures" / f"{name}.png")
    (folder / "bad.png").write_text("no picture")
    options = ("--output_type=latents", f"--mode={mode}", "--batch=2", "--SVD.max_guidance=2", "--num_videos=2")
    status, output = end(*launch(*options, "--guidance_devices=2", image=folder))
    assert status != 0 and output.count("2 of 3 pictures done") == 1 and output.count("1 of 3 pictures failed") <= 2
    found = results(tmp_path / "out")
    assert sorted(found) == NAMES[:2] and all(len(told) == 2 for told in found.values())
    assert {told["guidance_devices"] for told in found["picture0"]} == {2}
    arguments = [
        f"--SVD.config={CONFIG}",
        f"--SVD.checkpoint={untrained}",
        f"--image={folder}",
        f"--output_dir={tmp_path / 'one'}",
        "--SVD.num_frames=3",
        "--SVD.sampling_steps=3",
        "--device_target=CPU",
        "--compile_cache=off" if mode == 0 else "--seed=23",
        *options,
    ]
    with pytest.raises(UserError, match="1 of 3 pictures failed"):
        image_to_video.main(arguments)
    for name in NAMES[:2]:
        for k in range(2):
            ours, expected = (np.load(tmp_path / where / f"{name}_00{k}.npy") for where in ("out", "one"))
            # The first step takes the estimate from a noise 700 times as large, by whose spacing it is rounded; the
            # largest of this noise is below 5.
            rounded = np.spacing(np.float32(5 * 700))
            assert np.abs(ours - expected).max() < SAMPLER * np.abs(expected).max() + rounded
    assert np.abs(np.load(tmp_path / "one/picture0_000.npy") - np.load(tmp_path / "one/picture1_000.npy")).max() > 0.01


# Runs a program whose first device takes longer for a video's files than MindSpore waits in a sum on CPUs.
SLOW_WRITER = """
import os, runpy, sys, time
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
from gm import making
write = making.write_results
def late(*arguments):
    time.sleep(50)
    return write(*arguments)
making.write_results = late
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_the_second_device_waits_for_the_first_one_to_write(launch, tmp_path):
    (tmp_path / "slow_writer.py").write_text(SLOW_WRITER)
    options = ("--guidance_devices=2", "--num_videos=2", "--SVD.max_guidance=2", "--output_type=latents")
    image = tmp_path / "pictures" / "picture0.png"
    status, output = end(*launch(*options, image=image, script=[str(tmp_path / "slow_writer.py")]))
    assert status == 0, output
    assert len(results(tmp_path / "out")["picture0"]) == 2
    assert not list((tmp_path / "out").glob(".shared-*"))
