import logging
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from gm.data.clips import ClipDataset
from gm.data.loader import ClipLoader
from gm.data.metadata import Metadata
from gm.data.rows import Clip
from gm.data.videos import write_video
from gm.errors import UserError

COUNT, LENGTH = 7, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    frames = np.zeros((LENGTH, 32, 48, 3), np.uint8)
    for number in range(COUNT):
        write_video(frames + np.uint8(30 * number + 10), folder / f"{number}.mp4", 10)
    (folder / "broken.mp4").write_text("no video")
    return folder


def dataset(folder, names=range(COUNT), seed=0):
    clips = [Clip(folder / f"{name}.mp4", LENGTH, line, None, line + 2) for line, name in enumerate(names)]
    return ClipDataset(Metadata(clips, []), 3, 2, 16, 16, flip=0.5, seed=seed)


def take(loader, count):
    batches = []
    for batch in loader:
        batches.append(batch)
        if len(batches) == count:
            return batches


def shown(batches):
    return [(path, start) for batch in batches for path, start in zip(batch["path"], batch["start"])]


def worker_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("clips")]


class Fake:
    """A data set without videos: sample p holds the number p."""

    def __init__(self, length, delay=lambda position: 0.0, fail_at=None):
        self.length, self.delay, self.fail_at = length, delay, fail_at
        self.begun = []

    def __len__(self):
        return self.length

    def at(self, position):
        self.begun.append(position)
        time.sleep(self.delay(position))
        if position == self.fail_at:
            raise ZeroDivisionError(f"at {position}")
        pixels = np.full((1, 3, 2, 2), position, np.float32)
        return {
            "pixels": pixels, "fps_id": 6.0, "motion_bucket_id": 1.0, "path": str(position), "start": 0, "failures": []
        }  # fmt: skip


def test_batches_are_stacked_samples(folder):
    data = dataset(folder)
    (batch,) = take(ClipLoader(data, batch_size=3), 1)
    assert batch["pixels"].shape == (3, 3, 3, 16, 16) and batch["pixels"].dtype == np.float32
    assert batch["batch"] == 0
    for row in range(3):
        sample = data.at(row)
        assert np.array_equal(batch["pixels"][row], sample["pixels"])
        assert batch["fps_id"][row] == sample["fps_id"] and batch["start"][row] == sample["start"]
        assert batch["motion_bucket_id"][row] == sample["motion_bucket_id"] and batch["path"][row] == sample["path"]
    assert batch["fps_id"].dtype == batch["motion_bucket_id"].dtype == np.float32


def test_number_of_workers_changes_nothing(folder):
    data = dataset(folder)
    one = take(ClipLoader(data, 2, workers=1, prefetch=1), 6)
    many = take(ClipLoader(data, 2, workers=5, prefetch=4), 6)
    assert shown(one) == shown(many)
    assert all(np.array_equal(a["pixels"], b["pixels"]) for a, b in zip(one, many))


def test_slow_samples_keep_their_place():
    random = np.random.default_rng(0).random(40) * 0.01
    batches = take(ClipLoader(Fake(100, lambda p: random[p % 40]), 3, workers=4, prefetch=3), 10)
    assert [path for batch in batches for path in batch["path"]] == [str(p) for p in range(30)]


def test_resuming_goes_on_where_it_stopped(folder):
    whole = take(ClipLoader(dataset(folder), 2), 9)
    first = ClipLoader(dataset(folder), 2)
    take(first, 4)
    assert first.next_batch == 4  # batches decoded ahead do not count
    rest = take(ClipLoader(dataset(folder), 2, start_batch=first.next_batch), 5)
    assert [batch["batch"] for batch in rest] == [4, 5, 6, 7, 8]
    assert all(np.array_equal(a["pixels"], b["pixels"]) for a, b in zip(whole[4:], rest))
    again = take(first, 1)  # the same loader, iterated again
    assert np.array_equal(again[0]["pixels"], whole[4]["pixels"])


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_together_see_what_one_device_sees(folder, shards):
    data = dataset(folder)
    whole = take(ClipLoader(data, 4), 5)
    parts = [take(ClipLoader(data, 4 // shards, shard_id=rank, num_shards=shards), 5) for rank in range(shards)]
    for number, batch in enumerate(whole):
        for rank in range(shards):
            part = parts[rank][number]
            assert part["path"] == batch["path"][rank::shards] and part["start"] == batch["start"][rank::shards]
            assert np.array_equal(part["pixels"], batch["pixels"][rank::shards])


def test_every_epoch_shows_every_clip_once_though_batches_span_epochs(folder):
    loader = ClipLoader(dataset(folder), 3)
    paths = [path for path, _ in shown(take(loader, 7))]  # 21 = 3 epochs of 7
    for epoch in range(3):
        assert len(set(paths[epoch * COUNT : (epoch + 1) * COUNT])) == COUNT


def test_fewer_clips_than_a_batch(folder):
    (batch,) = take(ClipLoader(dataset(folder, [0, 1]), 5), 1)
    assert batch["pixels"].shape[0] == 5
    assert len(set(batch["path"][:2])) == len(set(batch["path"][2:4])) == 2


def test_decoding_ahead_is_bounded():
    data = Fake(1000)
    iterator = iter(ClipLoader(data, 2, workers=2, prefetch=3))
    next(iterator)
    time.sleep(0.2)
    assert sorted(data.begun) == list(range(8))  # the current batch and three more
    iterator.close()


def test_leaving_the_loop_stops_the_workers():
    data = Fake(1000, lambda p: 0.02)
    for _ in ClipLoader(data, 2, workers=2, prefetch=20):
        break
    assert not worker_threads()
    assert len(data.begun) < 12, "what was queued is not decoded any more"
    with pytest.raises(RuntimeError, match="training failed"):
        for _ in ClipLoader(Fake(1000), 2):
            raise RuntimeError("training failed")
    assert not worker_threads()


def test_what_a_worker_raises_is_raised_in_the_loop():
    loader = ClipLoader(Fake(100, fail_at=7), 2, workers=3)
    seen = []
    with pytest.raises(ZeroDivisionError, match="at 7"):
        for batch in loader:
            seen.append(batch["batch"])
    assert seen == [0, 1, 2] and not worker_threads()


def test_broken_clips_are_replaced_until_there_are_too_many(folder, caplog):
    names = [0, 1, 2, "broken", 3, 4]
    with caplog.at_level(logging.WARNING):
        batches = take(ClipLoader(dataset(folder, names), 2, max_failed_share=0.5), 6)  # 2 epochs
    assert len(shown(batches)) == 12 and not any("broken" in path for path, _ in shown(batches))
    assert caplog.text.count("broken.mp4") >= 2 and "another one takes its place" in caplog.text
    with pytest.raises(UserError, match="3 of .* clips cannot be decoded"):
        take(ClipLoader(dataset(folder, names), 2, max_failed_share=0.1), 12)
    assert not worker_threads()


def test_arguments_are_checked():
    for options, expected in [
        ({"batch_size": 0}, "batch_size"),
        ({"workers": 0}, "workers"),
        ({"prefetch": 0}, "prefetch"),
        ({"num_shards": 2, "shard_id": 2}, "shard_id must be from 0 to 1, not 2"),
        ({"start_batch": -1}, "start_batch"),
    ]:
        with pytest.raises(UserError, match=expected):
            ClipLoader(Fake(3), **{"batch_size": 1, **options})


def test_ctrl_c_ends_the_process_at_once(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import signal, time\n"
        "from gm.data.loader import ClipLoader\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it\n"
        "class Slow:\n"
        "    def __len__(self): return 1000\n"
        "    def at(self, position):\n"
        "        print('begun', flush=True)\n"
        "        time.sleep(0.3)\n"
        "for batch in ClipLoader(Slow(), 500, workers=2): pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": "."}
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    # Two samples are under way while the first 1500 are still being queued, and an interrupt between the bytecodes that
    # take a lock of the queue leaves it locked (CPython). The fifth sample begins when all are queued.
    for _ in range(5):
        process.stdout.readline()
    start = time.perf_counter()
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=15)
    finally:
        process.kill()
        process.stdout.close()
    assert process.returncode in (-signal.SIGINT, 130, 1)
    assert time.perf_counter() - start < 5, "the 1500 samples that were queued would take minutes"
