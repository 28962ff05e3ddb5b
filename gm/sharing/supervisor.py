"""The process that the launcher started: it starts the one that computes and says how that ended. The first device's
has the progress bar and the last word."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gm import interrupts
from gm.console import progress_bar
from gm.errors import UserError
from gm.sharing import folder, launcher, member

if TYPE_CHECKING:
    from tqdm import tqdm

    from gm.sharing.folder import RunFolder
    from gm.sharing.launcher import Worker

_LOOK = 1.0  # seconds
_SILENCE = 300.0  # seconds without a sign of life after which a device, its server perhaps, is taken for lost
_GRACE = 10.0  # seconds that a process has for its end
SHOWN_FAILURES = 20


def supervise(
    worker: Worker,
    output_dir: str | Path,
    paths: Sequence[str | Path] | None = None,
    videos: int = 1,
    command: Sequence[str] | None = None,
) -> int:
    """Do a worker's part of the run; returns the exit status. Arguments: see `gm.sharing.folder.join`.

    command: of the computing process; None: the one that this process was started with.

    Raises:
        UserError: by the first device, in the end: which pictures failed and why, which devices.
    """
    run = folder.join(output_dir, worker, paths, videos)
    child = subprocess.Popen(
        command or [sys.executable, *sys.argv], env={**launcher.alone(worker), **member.environment(run, worker.rank)}
    )
    with interrupts.undone_by(lambda: _end(child)):
        if worker.rank:
            _watch(run, worker.rank, child)
            return 0  # the launcher would end all others
        watched = _Watched(run)
        with progress_bar(len(run), f"{run.size} devices", "video") as bar:
            _watch(run, 0, child, lambda: watched.show(bar))
            while not watched.ended():
                watched.show(bar)
                time.sleep(_LOOK)
            watched.show(bar)
    try:
        return _tell(run, watched)
    finally:
        run.remove()


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE)
    child.kill()


def _watch(
    run: RunFolder, rank: int, child: subprocess.Popen[bytes], each: Callable[[], object] = lambda: None
) -> None:
    """Until the computing process has ended, and note how."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.note(rank, end=child.wait(_LOOK))
            return
        run.live(rank)
        each()


class _Watched:
    """What the devices have told. results: {video: (rank, "done", "skipped" or a reason)}. taken: {video: rank}.
    ends: {rank: exit status, negative for a signal}. faults: {rank: why it could do nothing}."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.results: dict[int, tuple[int, str]] = {}
        self.taken: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        self.faults: dict[int, str] = {}
        self._read = dict.fromkeys(range(run.size), 0)
        self._signs: dict[int, tuple[int | None, float]] = {}

    def show(self, bar: tqdm) -> None:
        for rank, start in self._read.items():
            notes, self._read[rank] = self.run.notes(rank, start)
            for note in notes:
                self._receive(rank, note)
        if bar.n != len(self.results):
            bar.update(len(self.results) - bar.n)

    def _receive(self, rank: int, note: dict[str, Any]) -> None:
        for result in ("done", "skipped", "failed"):
            if result in note:
                self.results[note[result]] = rank, note.get("why", result)
        if "taken" in note:
            self.taken[note["taken"]] = rank
        if "fault" in note:
            self.faults[rank] = note["fault"]
        if "end" in note:
            self.ends[rank] = note["end"]

    def ended(self) -> bool:
        """Whether all devices have, or are lost."""
        return all(rank in self.ends or self._silent(rank) for rank in range(self.run.size))

    def _silent(self, rank: int) -> bool:
        now, sign = time.monotonic(), self.run.sign(rank)
        before, since = self._signs.setdefault(rank, (sign, now))
        if sign != before:
            self._signs[rank] = sign, now
        return sign == before and now - since > _SILENCE

    def badly_ended(self) -> dict[str, list[int]]:
        """{what became of a device: its numbers}, of those that did not end well."""
        found: dict[str, list[int]] = {}
        for rank in range(self.run.size):
            why = self.faults.get(rank) or _how(self.ends.get(rank))
            if why is not None:
                found.setdefault(why, []).append(rank)
        return found


def _how(end: int | None) -> str | None:
    """How a process ended, in words; None for well."""
    if end is None:
        return f"told nothing for {_SILENCE / 60:.0f} minutes"
    if end < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by signal {-end} ({signal.Signals(-end).name})"
    return None if end == 0 else f"ended with status {end}: its log says why"


def _tell(run: RunFolder, watched: _Watched) -> int:
    """The summary; returns the exit status 0. UserError where anything failed."""
    failures: dict[Path, str] = {}
    for index, (_, why) in sorted(watched.results.items()):
        if why not in ("done", "skipped"):
            failures.setdefault(run.video(index)[0], why)
    for index, rank in sorted(watched.taken.items()):
        if index not in watched.results:
            failures.setdefault(run.video(index)[0], f"device {rank} was at it when it ended")
    begun_not = dict.fromkeys(run.video(index)[0] for index in range(len(run)) if index not in watched.taken)
    left = [path for path in begun_not if path not in failures]
    count, failed = len(run.paths), len(failures) + len(left)
    skipped = sum(why == "skipped" for _, why in watched.results.values())
    before = f"; {skipped} of {len(run)} videos were there already" if skipped else ""
    print(f"{count - failed} of {count} pictures done by {run.size} devices{before}")
    faults = [
        f"device{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} of {run.size}: {why}"
        for why, ranks in watched.badly_ended().items()
    ]
    if not failed and not faults:
        return 0
    shown = [why if str(path) in why else f"{path}: {why}" for path, why in failures.items()]
    if len(shown) > SHOWN_FAILURES:
        shown = [*shown[:SHOWN_FAILURES], f"… and {len(shown) - SHOWN_FAILURES} more, each told above"]
    if left:
        shown.append(f"{len(left)} pictures were not begun, {left[0]} is the first")
    again = ["the same command with --skip_done does what is missing"] if faults and failed else []
    head = f"{failed} of {count} pictures failed:" if failed else "all pictures are done, not all devices ended well:"
    raise UserError("\n  ".join([head, *faults, *shown, *again]))
