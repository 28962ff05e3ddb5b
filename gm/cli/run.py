"""A job over many pictures on the terminal: one after the other, what fails is told, counted and stops nothing."""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gm import compile_cache
from gm.console import peak_memory, say, show
from gm.errors import EndsAll, UserError
from gm.events import Failed
from gm.memory import report

if TYPE_CHECKING:
    from gm.events import Event
    from gm.job import Job

SHOWN_FAILURES = 20  # in the summary at the end


class Run:
    """Every picture of `paths`, or file of latents, for a job.

    silent: say nothing, as the second of two devices that make each video together.
    """

    def __init__(self, job: Job, paths: Sequence[Path], latents: bool = False, silent: bool = False) -> None:
        self.job, self.paths, self.silent = job, paths, silent
        self._read = job.read_latents if latents else job.plan

    def check(self) -> None:
        """Print settings, size and memory of each without making it; UserError where `make` would fail."""
        print(json.dumps(self.job.record(), indent=2, default=str))
        for_each(self.paths, self._check, lambda: "could be done")

    def make(self) -> None:
        """Make all videos; UserError at the end if one could not be made."""
        done = "done, peak memory {:.1f} GB".format
        for_each(
            self.paths,
            self._make,
            lambda: done(peak_memory() / 1e9),
            lambda: self._shown(self.job.finish()),
            self.silent,
        )

    def _check(self, path: Path) -> None:
        source = self._read(path)
        size, frames = source.size, getattr(source, "frames", None)
        needed = report(self.job.memory(size, frames=frames))
        print(f"{source.path}: {source.change}\nmemory, estimated:\n{needed}")
        print(self.job.check_memory(size, frames))

    def _make(self, path: Path) -> dict[Path, str]:
        source = self._read(path)
        if not self.silent:
            print(f"{path}: {source.change}")
        return self._shown(self.job.gather(source))

    def _shown(self, events: Iterable[Event]) -> dict[Path, str]:
        failed: dict[Path, str] = {}
        told = _noted(events, failed)
        collections.deque(told, maxlen=0) if self.silent else show(told)
        return failed


def introduce(job: Job) -> None:
    """Say what the model is made of, what its motion means, and what the user should be warned of."""
    for line in (*job.model.pipeline.sources(), *job.motion()):
        print(line)
    for warning in job.warnings():
        say(f"warning: {warning}")


def _noted(events: Iterable[Event], failed: dict[Path, str]) -> Iterator[Event]:
    """The events; what failed is put into `failed`, {path: why}."""
    for event in events:
        if isinstance(event, Failed):
            failed.setdefault(event.path, event.text)
        yield event


def for_each(
    paths: Sequence[Path],
    function: Callable[[Path], Mapping[Path, str] | None],
    result: Callable[[], str],
    finish: Callable[[], Mapping[Path, str]] = dict,
    silent: bool = False,
) -> None:
    """function(path) of every picture and in the end finish(), both of which may return {path: why} of what failed;
    then a line of how many have the result; UserError if one could not be done."""
    failures: dict[Path, str] = {}
    for path in (*paths, None):
        try:
            failed = (finish() if path is None else function(path)) or {}
        except UserError as error:
            if path is None or len(paths) == 1 or isinstance(error, EndsAll):
                raise
            failed = {path: str(error)}
            if not silent:
                say(f"error: {error if str(path) in str(error) else f'{path}: {error}'}")
        for place, why in failed.items():
            compile_cache.stop()
            failures.setdefault(place, why if str(place) in why else f"{place}: {why}")
    if failures and len(paths) == 1:
        raise UserError(*failures.values())
    if not silent:
        print(f"{len(paths) - len(failures)} of {len(paths)} pictures {result()}")
    if failures:
        shown = list(failures.values())[:SHOWN_FAILURES]
        if len(failures) > len(shown):
            shown.append(f"… and {len(failures) - len(shown)} more, each told above")
        raise UserError("\n  ".join([f"{len(failures)} of {len(paths)} pictures failed:", *shown]))
