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
import psutil
import pytest

from gm.checkpoint.formats import open_checkpoint
from gm.data.outputs import write_png
from gm.training.state import checkpoints

GRAPH = "environment.mode=0"
ROOT = Path(__file__).resolve().parents[2]


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
@pytest.mark.parametrize("data", [(), "several_sizes"], ids=["one size", "several"])
def test_a_killed_and_resumed_run_ends_bit_for_bit_like_an_undisturbed_one(
    arguments, start, tmp_path, read_metrics, data, request
):
    common = [
        *(data and request.getfixturevalue(data)),
        GRAPH,
        "train.max_steps=40",
        "train.checkpoint.every=2",
        "train.ema=True",
        "train.loader.batch_size=2",
        "train.schedule.name=cosine",
        "train.dataset.init_args.flip=0.5",
    ]
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


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_and_says_how_to_go_on(arguments, start, tmp_path, read_metrics, number):
    process = start(arguments(tmp_path, "train.max_steps=100000"))
    wait_for_step(process, tmp_path, 2, read_metrics)
    process.send_signal(number)
    time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # a closing terminal sends two
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 128 + number, output
    assert "--train.resume=latest" in output and "Traceback" not in output
    last = read_metrics(tmp_path)[-1]["step"]
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == [f"step-{last:08d}.safetensors"]
    assert (tmp_path / "weights/delta.safetensors").exists()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_workers(start, argv, folder, script=None):
    """(process of the launcher of two workers, folder of their logs); `script`: run in place of train.py, with its path
    first."""
    logs = folder / f"logs-{free_port()}"
    launcher = [
        str(Path(sys.executable).parent / "msrun"),
        "--worker_num=2",
        "--local_worker_num=2",
        "--join=True",
        f"--master_port={free_port()}",
        f"--log_dir={logs}",
        *([] if script is None else [str(script)]),
    ]
    return start([*argv, "--environment.distributed=True"], launcher), logs


def end_of_workers(process, logs):
    """(exit status of the launcher, all that was printed)."""
    output = process.communicate(timeout=600)[0]
    return process.returncode, output + "".join(path.read_text() for path in sorted(logs.glob("worker_*.log")))


def two_workers(start, argv, folder, script=None):
    """`start_workers` and `end_of_workers`."""
    return end_of_workers(*start_workers(start, argv, folder, script))


@pytest.mark.slow
@pytest.mark.parametrize("data", [(), "several_sizes"], ids=["one size", "several"])
def test_two_workers_are_one_with_twice_the_batch(arguments, start, tmp_path, read_metrics, data, request):
    """Also when each of them keeps the moments of half the weights alone."""
    # eps: with one channel in each norm group, biases in front of a norm have no gradient but rounding, and Adam would
    # make that as large as any other.
    common = [
        *(data and request.getfixturevalue(data)),
        GRAPH,
        "train.max_steps=3",
        "train.validation.share=0.4",
        "train.validation.clips=1",
        "train.validation.sigmas=[1.0]",
        "train.optimizer.eps=1e-3",
    ]
    finish(start(arguments(tmp_path / "one", *common, "train.loader.batch_size=2")))
    for name, more in (("two", ()), ("sharded", ("train.optimizer.shard=True",))):
        status, output = two_workers(start, arguments(tmp_path / name, *common, *more), tmp_path)
        assert status == 0, output
    one, two, sharded = (
        read(tmp_path / name / "checkpoints/step-00000003.safetensors") for name in ("one", "two", "sharded")
    )
    assert all(np.array_equal(two[key], sharded[key]) for key in two if key != "record")
    assert one.keys() == two.keys()
    for group, limit in (("weights", 1e-6), ("first", 1e-5), ("second", 1e-5)):
        keys = [key for key in one if key.startswith(f"{group}/")]
        assert keys
        difference = math.sqrt(sum(np.sum((one[key] - two[key]) ** 2) for key in keys))
        assert difference <= limit * math.sqrt(sum(np.sum(one[key] ** 2) for key in keys)), group
    ours, theirs = ([line["loss"] for line in read_metrics(tmp_path / name)] for name in ("one", "two"))
    assert len(ours) > 3 and ours == pytest.approx(theirs, rel=1e-6)
    levels = [[line.get("sigma") for line in read_metrics(tmp_path / name)] for name in ("one", "two")]
    assert levels[0] == levels[1]


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_worker_that_is_killed_ends_all_and_the_run_goes_on_to_the_same_bits(
    arguments, start, tmp_path, read_metrics, rank
):
    """Sharded moments: a checkpoint needs every worker."""
    common = ["train.optimizer.shard=True", "train.checkpoint.every=2", "train.max_steps=6"]
    status, output = two_workers(start, arguments(tmp_path / "straight", *common), tmp_path)
    assert status == 0, output
    process, logs = start_workers(start, arguments(tmp_path / "killed", *common), tmp_path)
    wait_for_step(process, tmp_path / "killed", 3, read_metrics)
    workers = {
        child.environ()["RANK_ID"]: child
        for child in psutil.Process(process.pid).children()
        if child.environ().get("MS_ROLE") == "MS_WORKER" and str(ROOT / "train.py") in child.cmdline()
    }
    assert workers.keys() == {"0", "1"}
    workers[rank].kill()
    killed = time.monotonic()
    status, output = end_of_workers(process, logs)
    assert status != 0 and "exit with exception. Error code: -9" in output
    assert time.monotonic() - killed < 60
    assert not any(worker.is_running() for worker in workers.values())
    last = checkpoints(tmp_path / "killed/checkpoints")[-1]
    assert last.name < "step-00000006"
    status, output = two_workers(start, arguments(tmp_path / "killed", *common, "train.resume=latest"), tmp_path)
    assert status == 0 and f"resumed from {last}" in output
    name = "checkpoints/step-00000006.safetensors"
    straight, again = read(tmp_path / "straight" / name), read(tmp_path / "killed" / name)
    assert straight.keys() == again.keys()
    assert not [key for key in straight if not np.array_equal(straight[key], again[key])]


@pytest.mark.slow
def test_servers_that_do_not_share_the_output_folder_cannot_resume(arguments, start, tmp_path):
    script = tmp_path / "own_folder.py"  # a worker's {rank} in its arguments becomes its number
    script.write_text(
        "import os, runpy, sys\n"
        "sys.argv = [a.replace('{rank}', os.environ['RANK_ID']) for a in sys.argv[1:]]\n"
        "sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    for folder in ("0", "1"):
        (tmp_path / folder).mkdir()
    train = arguments(tmp_path / "{rank}")
    status, output = two_workers(start, train, tmp_path, script)
    assert status == 0, output
    assert [bool(checkpoints(tmp_path / folder / "checkpoints")) for folder in ("0", "1")] == [True, False]
    more = ["--train.resume=latest", "--train.max_steps=4"]
    status, output = two_workers(start, [*train, *more], tmp_path, script)
    assert status != 0 and "this device is at step 0, the first one at 2" in output
    assert [path.name for path in checkpoints(tmp_path / "0/checkpoints")] == ["step-00000002.safetensors"]


@pytest.mark.slow
def test_a_device_that_fails_alone_writes_no_moments_that_it_cannot_gather(arguments, start, tmp_path):
    script = tmp_path / "failing.py"  # sample videos are made by the first worker alone
    script.write_text(
        "import os, runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"
        "from gm.errors import UserError\nfrom gm.training.sample import SampleVideo\n"
        "def fail(*_):\n    raise UserError('this one fails')\n"
        "SampleVideo.write = fail\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    write_png(np.zeros((16, 16, 3), np.uint8), tmp_path / "picture.png")
    train = arguments(
        tmp_path / "run",
        "train.optimizer.shard=True",
        f"train.sample.image={tmp_path / 'picture.png'}",
        "train.sample.every=1",
        "train.max_steps=50",
    )
    status, output = two_workers(start, train, tmp_path, script)
    assert status != 0 and "error: device 0 of 2: this one fails" in output
    assert checkpoints(tmp_path / "run/checkpoints") == []


@pytest.mark.slow
def test_the_other_devices_wait_for_what_takes_the_first_one_long(arguments, start, tmp_path, read_metrics):
    """In a sum over all they would be given up after half a minute."""
    script = tmp_path / "slow.py"
    script.write_text(
        "import os, runpy, sys, time\n"
        "sys.argv = sys.argv[1:]\n"
        "sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"
        "from gm.training.sample import SampleVideo\nfrom gm.training.validation import Validation\n"
        "SampleVideo.write = lambda *_: time.sleep(45)\n"
        "of_clip = Validation._of_clip\n"
        "Validation._of_clip = lambda *of: (time.sleep(45), of_clip(*of))[1]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    write_png(np.zeros((16, 16, 3), np.uint8), tmp_path / "picture.png")
    more = [f"train.sample.image={tmp_path / 'picture.png'}", "train.sample.every=1", "train.max_steps=2"]
    one_clip = ["train.validation.share=0.4", "train.validation.clips=1", "train.validation.sigmas=[1.0]"]
    train = arguments(tmp_path / "run", *more, *one_clip)
    status, output = two_workers(start, train, tmp_path, script)
    assert status == 0, output
    lines = read_metrics(tmp_path / "run")
    assert [(line["kind"], line["step"]) for line in lines if line["step"] < 2] == [("validation", 0), ("train", 1)]
    assert [len(line["sigma"]) for line in lines if line["kind"] == "train"] == [2, 2], "of all devices"
    assert not list((tmp_path / "run").glob(".*"))


# Runs train.py, the second worker's encoder changed; prints the longest wait in a sum over all devices.
FILLING = """
import os, runpy, sys, time
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
from gm.errors import UserError
from gm.ops import parallel
from gm.training import cache
encode, mean, waited = cache.encode, parallel.mean, []
def change(*arguments):
    if parallel.rank() == 1:
        {change}
    return encode(*arguments)
def timed(values):
    start = time.monotonic()
    found = mean(values)
    waited.append(time.monotonic() - start)
    return found
cache.encode, parallel.mean = change, timed
from gm.training import loop
fill = loop.fill_cache
def filled(plan):
    fill(plan)
    print(f"longest wait {{max(waited):.1f}}", flush=True)
loop.fill_cache = filled
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def fill(start, arguments, tmp_path, change, several_sizes):
    script = tmp_path / "filling.py"
    script.write_text(FILLING.format(change=change))
    more = ["train.max_steps=1", "train.validation.share=0.4", "train.cache_epochs=2"]
    train = arguments(tmp_path / "run", *several_sizes, *more, f"train.cache={tmp_path / 'two'}")
    status, output = two_workers(start, train, tmp_path, script)
    return status, output, [*several_sizes, *more]


@pytest.mark.slow
def test_a_cache_is_filled_by_all_devices_and_none_waits_in_a_sum_for_the_slowest(
    arguments, start, tmp_path, several_sizes
):
    status, output, same = fill(start, arguments, tmp_path, "time.sleep(20)", several_sizes)
    assert status == 0, output
    waits = [float(line.split()[-1]) for line in output.splitlines() if line.startswith("longest wait")]
    assert waits and max(waits) < 15, "the second one works for a minute or more"
    finish(start(arguments(tmp_path / "alone", *same, f"train.cache={tmp_path / 'one'}")))
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("clip-*")}
    assert len(files) == 3 * 2 + 2
    assert files == {path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("clip-*")}
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)
    assert not list((tmp_path / "two").glob(".*"))


@pytest.mark.slow
def test_a_device_that_cannot_fill_its_share_of_the_cache_is_named(arguments, start, tmp_path, several_sizes):
    status, output, _ = fill(start, arguments, tmp_path, "raise UserError('no such luck')", several_sizes)
    assert status != 0 and "device 1 of 2: no such luck" in output and "longest wait" not in output
    assert not checkpoints(tmp_path / "run/checkpoints")
