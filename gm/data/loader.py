"""Batches of clips, decoded ahead in parallel, always in the same order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import numpy as np

from gm.data.clips import FailureLimit, Samples
from gm.errors import UserError


class ClipLoader:
    """Endless batches of this rank's samples. `for batch in loader:`; leaving the loop stops the workers.

    batch_size: samples of this rank; the global batch is batch_size * num_shards (see gm/data/clips.py for which rank
    gets which). A data set smaller than that is no fault: a batch then shows clips of several epochs, and so a clip
    more than once, each time another part of it.
    workers: threads that decode. Threads, because PyAV and OpenCV release Python's lock while they decode and resize,
    and a clip of 14 frames of 576x1024 (99 MB) need not be copied from process to process.
    prefetch: batches decoded ahead; at most this many, and the current one, are in memory.
    start_batch: the first batch to give out. The one number `next_batch` is the whole state: a loader started from it
    goes on exactly where the other stopped.
    max_failed_share: see FailureLimit.
    """

    def __init__(
        self,
        dataset: Samples,
        batch_size: int,
        shard_id: int = 0,
        num_shards: int = 1,
        workers: int = 2,
        prefetch: int = 2,
        start_batch: int = 0,
        max_failed_share: float = 0.1,
    ) -> None:
        numbers = {"batch_size": batch_size, "num_shards": num_shards, "workers": workers, "prefetch": prefetch}
        for name, value in numbers.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if not 0 <= shard_id < num_shards:
            raise UserError(f"shard_id must be from 0 to {num_shards - 1}, not {shard_id}")
        if start_batch < 0:
            raise UserError(f"start_batch must not be negative, got {start_batch}")
        self.dataset = dataset
        self.batch_size, self.shard_id, self.num_shards = batch_size, shard_id, num_shards
        self.workers, self.prefetch = workers, prefetch
        self.next_batch = start_batch
        self.failures = FailureLimit(max_failed_share)

    @property
    def global_batch(self) -> int:
        """Samples in a batch over all ranks."""
        return self.batch_size * self.num_shards

    def positions(self, batch: int) -> range:
        """Positions in the stream of epochs that this rank takes of global batch `batch`."""
        start = batch * self.global_batch
        return range(start + self.shard_id, start + self.global_batch, self.num_shards)

    def __iter__(self) -> Generator[dict[str, Any], None, None]:
        """Dicts: batch (its number) and what the data set's samples hold: arrays stacked, such as pixels float32
        (b, t, 3, h, w); numbers as float32 (b,), such as fps_id; all else as lists, such as path.
        UserError when too many clips fail; what a worker raises is raised here."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="clips")

        def submit(position: int) -> SimpleQueue[Future[dict[str, Any]]]:
            # Not waited for by Future.result(): Ctrl-C there may come while the future's lock is held and leave it so
            # (CPython), and then the worker waits for ever. This queue is in C and has no such moment.
            done: SimpleQueue[Future[dict[str, Any]]] = SimpleQueue()
            pool.submit(self.dataset.at, position).add_done_callback(done.put)
            return done

        try:
            ahead: deque[list[SimpleQueue[Future[dict[str, Any]]]]] = deque()
            submitted = self.next_batch
            while True:
                while submitted <= self.next_batch + self.prefetch:
                    ahead.append([submit(position) for position in self.positions(submitted)])
                    submitted += 1
                samples = [done.get().result() for done in ahead.popleft()]
                for sample in samples:
                    self.failures.count(sample)
                batch = {"batch": self.next_batch, **_stack(samples)}
                del samples
                self.next_batch += 1
                yield batch
                del batch  # or it would stay in memory while the next one is put together
        finally:
            # Also when the loop is left by `break`, an exception or Ctrl-C: what has not begun is no longer decoded.
            pool.shutdown(wait=True, cancel_futures=True)


def _stack(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """{name: array with one more axis in front, float32 array of numbers, or list}."""
    batch = {}
    for name, value in samples[0].items():
        values = [sample[name] for sample in samples]
        if isinstance(value, np.ndarray):
            batch[name] = np.stack(values)
        else:
            batch[name] = np.array(values, np.float32) if isinstance(value, (float, np.floating)) else values
    return batch
