"""Real processes in graph mode: killed, asked to stop, several at once."""

from __future__ import annotations

import math
import random
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gm.checkpoint.formats import open_checkpoint
from gm.training.state import checkpoints

GRAPH = "environment.mode=0"


def read(path):
    checkpoint = open_checkpoint(path)
    return {name: np.array(checkpoint.read(name)) for name in checkpoint.names()}


def finish(process):
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    return output


def wait_for_step(process, folder, step, read_metrics):
    """Until the run has done that many steps."""
    while not any(line["step"] >= step for line in read_metrics(folder)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_bit_for_bit_like_an_undisturbed_one(arguments, start, tmp_path, read_metrics):
    common = [GRAPH, "train.max_steps=40", "train.checkpoint.every=2", "train.ema=True", "train.loader.batch_size=2",
              "train.schedule.name=cosine", "train.dataset.init_args.flip=0.5"]
    finish(start(arguments(tmp_path / "straight", *common)))
    killed_at = random.randrange(3, 20)
    process = start(arguments(tmp_path / "killed", *common))
    wait_for_step(process, tmp_path / "killed", killed_at, read_metrics)
    process.kill()
    process.wait()
    found = checkpoints(tmp_path / "killed/checkpoints")
    assert found and found[-1].name < "step-00000040", f"killed at {killed_at}"
    output = finish(start(arguments(tmp_path / "killed", *common, "train.resume=latest")))
    assert f"resumed from {found[-1]}" in output
    for name in ("checkpoints/step-00000040.safetensors", "weights/delta.safetensors", "weights/delta_ema.safetensors"):
        straight, again = read(tmp_path / "straight" / name), read(tmp_path / "killed" / name)
        assert straight.keys() == again.keys()
        different = [key for key in straight if not np.array_equal(straight[key], again[key])]
        assert not different, f"killed at {killed_at}: {different[:5]}"
    losses = [[line["loss"] for line in read_metrics(tmp_path / run)] for run in ("straight", "killed")]
    assert len(losses[0]) == 40 and losses[0] == losses[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_and_says_how_to_go_on(arguments, start, tmp_path, read_metrics, number):
    process = start(arguments(tmp_path, "train.max_steps=100000"))
    wait_for_step(process, tmp_path, 2, read_metrics)
    process.send_signal(number)
    output = finish(process)
    assert "--train.resume=latest" in output and "Traceback" not in output
    last = read_metrics(tmp_path)[-1]["step"]
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == [f"step-{last:08d}.safetensors"]
    assert (tmp_path / "weights/delta.safetensors").exists()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_two_workers(start, argv, folder):
    logs = folder / f"logs-{free_port()}"
    launcher = [
        str(Path(sys.executable).parent / "msrun"), "--worker_num=2", "--local_worker_num=2", "--join=True",
        f"--master_port={free_port()}", f"--log_dir={logs}",
    ]
    process = start(argv, launcher)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output + "".join(path.read_text() for path in sorted(logs.glob("worker_*.log")))


@pytest.mark.slow
def test_two_workers_are_one_with_twice_the_batch(arguments, start, tmp_path, read_metrics):
    """Also when each of them keeps the moments of half the weights alone."""
    # eps: with one channel in each norm group, biases in front of a norm have no gradient but rounding, and Adam would
    # make that as large as any other.
    common = [GRAPH, "train.max_steps=3", "train.validation.share=0.4", "train.validation.clips=1",
              "train.validation.sigmas=[1.0]", "train.optimizer.eps=1e-3"]
    finish(start(arguments(tmp_path / "one", *common, "train.loader.batch_size=2")))
    for name, more in (("two", ()), ("sharded", ("train.optimizer.shard=True",))):
        run_two_workers(start, arguments(tmp_path / name, *common, *more, "environment.distributed=True"), tmp_path)
    one, two, sharded = (
        read(tmp_path / name / "checkpoints/step-00000003.safetensors") for name in ("one", "two", "sharded")
    )
    assert all(np.array_equal(two[key], sharded[key]) for key in two if key != "record")
    assert one.keys() == two.keys()
    for group, limit in (("weights", 1e-6), ("first", 1e-5), ("second", 1e-5)):
        keys = [key for key in one if key.startswith(f"{group}/")]
        difference = math.sqrt(sum(np.sum((one[key] - two[key]) ** 2) for key in keys))
        assert difference <= limit * math.sqrt(sum(np.sum(one[key] ** 2) for key in keys)), group
    for a, b in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two")):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
