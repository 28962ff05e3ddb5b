"""The process that computes on one of several devices: which videos are its own, and what it tells of them."""

from __future__ import annotations

import ctypes
import json
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gm import compile_cache
from gm.console import say, show
from gm.errors import UserError
from gm.events import Failed, Skipped, Written
from gm.sharing.folder import RunFolder

if TYPE_CHECKING:
    from gm.events import Event
    from gm.job import Job

_VARIABLE = "SVD_SHARED_RUN"  # in the environment: what a process is told by its supervisor
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def environment(run: RunFolder, rank: int) -> dict[str, str]:
    """What makes a process that is started with it a `Member`."""
    told = {
        "place": str(run.place),
        "size": run.size,
        "rank": rank,
        "supervisor": os.getpid(),
        "videos": run.videos,
        "paths": [str(path) for path in run.paths],
    }
    path = run.place / f"member-{rank}.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    return {_VARIABLE: str(path)}


def joined() -> Member | None:
    """The `Member` that this process is, or None. It ends with its supervisor."""
    path = os.environ.get(_VARIABLE)
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        told = json.load(file)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != told["supervisor"]:  # it ended before that
        os._exit(1)
    return Member(RunFolder(told["place"], told["size"], told["paths"], told["videos"]), told["rank"])


class Member:
    """run: `RunFolder`. rank: of this device. name: by which it is called in messages."""

    def __init__(self, run: RunFolder, rank: int) -> None:
        self.run, self.rank = run, rank
        self._places = {path: place for place, path in enumerate(run.paths)}
        self.name = f"device {rank} of {run.size}"

    def make(self, job: Job) -> None:
        """Make what it can get hold of with a `gm.job.Job`, video by video; what fails is told and stops nothing."""
        for path, numbers in self.videos():
            try:
                source = job.plan(path)
                if 0 in numbers:
                    print(f"{self.name}: {path}: {source.change}")
                show(self.noted(job.gather(source, numbers)), f"{self.name}: ")
            except UserError as error:
                compile_cache.stop()
                say(f"{self.name}: error: {error}")
                self.failed(path, numbers, str(error))
        show(self.noted(job.finish()), f"{self.name}: ")

    def videos(self) -> Iterator[tuple[Path, list[int]]]:
        """(path of a picture, [numbers of its videos]) of what nobody else does, one after the other. The next is
        taken when it is asked for."""
        for index in range(len(self.run)):
            if self.run.take(index):
                self.run.note(self.rank, taken=index)
                path, number = self.run.video(index)
                yield path, [number]

    def noted(self, events: Iterable[Event]) -> Iterator[Event]:
        """The events of a job, of which it tells what is done and what is not."""
        for event in events:
            yield event
            if isinstance(event, Failed):
                self.failed(event.path, [event.number], event.text)
            elif isinstance(event, (Written, Skipped)):
                assert event.path is not None  # a job tells it
                result = "done" if isinstance(event, Written) else "skipped"
                self.run.note(self.rank, **{result: self._index(event.path, event.number)})

    def failed(self, path: Path, numbers: Sequence[int], why: str) -> None:
        """Tell why videos cannot be made."""
        for number in numbers:
            self.run.note(self.rank, failed=self._index(path, number), why=why)

    def fault(self, why: str) -> None:
        """Tell why this device can do nothing at all."""
        self.run.note(self.rank, fault=why)

    def _index(self, path: Path, number: int) -> int:
        return self._places[path] * self.run.videos + number
