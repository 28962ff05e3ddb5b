"""A long work of which each device does a share. They tell one another how far they are by small files, not by a sum
over all devices: one that waits in such a sum for longer than the devices' library allows ends the run with a time-out,
and one that fails leaves the others waiting without a word.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gm import interrupts
from gm.console import progress_bar
from gm.data.outputs import write_json
from gm.errors import UserError
from gm.ops import parallel

_NAME = ".shares-"  # of the folders with the files; a later run removes what a killed one left
_NOTE, _LOOK = 2.0, 1.0  # seconds between two notes of a device, and between two looks at those of the others
_UNSEEN = 60.0  # seconds after which a new folder must be seen on every server
_SILENCE = 1800.0  # seconds without a note after which a device is taken for dead


@contextlib.contextmanager
def shares(folder: str | Path, count: int) -> Iterator[Share]:
    """`with shares(folder, count) as share:` do `count` pieces, calling share.advance() after each. At the end of the
    body every device waits for the others.

    folder: one that all devices see; only one run at a time may do so. Where there is one device nothing is written.

    Raises:
        UserError: on every device, naming the one that failed and why, or that told nothing for half an hour.
    """
    if parallel.size() == 1:
        yield Share(None, 0, 1, count)
        return
    place = _common_place(Path(folder))
    share = Share(place, parallel.rank(), parallel.size(), count)
    with interrupts.undone_by(lambda: share.tell("it was stopped")):
        try:
            share.tell()
            yield share
            share.wait()
        except OthersFault:
            raise
        except BaseException as error:
            with contextlib.suppress(UserError):  # perhaps the folder is what fails
                share.tell(str(error) or type(error).__name__)
            if isinstance(error, UserError):
                raise UserError(f"device {share.rank} of {share.size}: {error}") from error
            raise
    parallel.mean([0.0])  # all have seen that all are done
    if share.rank == 0:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def together(folder: str | Path) -> Iterator[None]:
    """`with together(folder):` what takes some devices longer than others, such as what the first one does alone. At
    the end of the body every device waits for the others; see `shares`."""
    with shares(folder, 1) as share:
        yield
        share.advance()


class OthersFault(UserError):
    """Another device failed."""


class Share:
    """One device's part in `shares`. rank, size: of this device among them. count: pieces of its own."""

    def __init__(self, place: Path | None, rank: int, size: int, count: int) -> None:
        self.place: Any = place
        self.rank, self.size, self.count = rank, size, count
        self.done, self._told = 0, -_NOTE
        self._seen: dict[int, tuple[Any, float]] = {}  # rank: (its note, when it was seen first)

    def advance(self) -> None:
        """A piece is done. UserError where another device has failed."""
        self.done += 1
        if self.place is not None and time.monotonic() - self._told >= _NOTE:
            self.tell()
            self._look()

    def tell(self, fault: str | None = None) -> None:
        """Write down how far this device is, or why it can go no further."""
        write_json({"done": self.done, "of": self.count, "fault": fault}, self.place / f"{self.rank}.json")
        self._told = time.monotonic()

    def wait(self) -> None:
        """Until all are done, under a progress bar. UserError where one fails or is silent."""
        self.tell()
        with progress_bar(None, "waiting for the other devices", "piece") as bar:
            while True:
                notes = self._look()
                bar.total, bar.n = (sum(note[what] for note in notes.values()) for what in ("of", "done"))
                bar.refresh()
                if len(notes) == self.size and bar.n == bar.total:
                    return
                time.sleep(_LOOK)

    def _look(self) -> dict[int, dict[str, Any]]:
        """{rank: note} of the devices that have written one."""
        now, notes = time.monotonic(), {}
        for rank in range(self.size):
            note = None
            with contextlib.suppress(OSError, ValueError):  # not yet there, or being replaced on a network disk
                note = notes[rank] = json.loads((self.place / f"{rank}.json").read_text(encoding="utf-8"))
            if note and note["fault"]:
                raise OthersFault(f"device {rank} of {self.size} failed: {note['fault']}")
            before, since = self._seen.setdefault(rank, (note, now))
            if note != before:
                self._seen[rank] = note, now
            elif now - since > _SILENCE and not (note and note["done"] == note["of"]):
                raise OthersFault(
                    f"device {rank} of {self.size} has told nothing for {(now - since) / 60:.0f} minutes: see its log"
                )
        return notes


def _common_place(folder: Path) -> Path:
    """A new folder in `folder`, the same one on every device. UserError where one of them does not see it."""
    token = np.zeros(2, np.float32)
    fault = None
    if parallel.rank() == 0:
        token[:] = np.frombuffer(os.urandom(4), np.uint16)  # whole numbers that float32 holds exactly
    token = parallel.total(token)
    place = folder / "{}{:04x}{:04x}".format(_NAME, *token.astype(int))
    if parallel.rank() == 0:
        try:
            for left in folder.glob(f"{_NAME}*"):
                shutil.rmtree(left, ignore_errors=True)
            place.mkdir(parents=True)
        except OSError as error:
            fault = f"cannot write to {folder}: {error.strerror}"
    until = time.monotonic() + _UNSEEN
    while not fault and not place.is_dir():
        if time.monotonic() > until:
            fault = (
                f"device {parallel.rank()} does not see what the first one writes to {folder}: all servers must "
                "share that folder"
            )
        time.sleep(_LOOK / 10)
    if parallel.mean([float(fault is not None)])[0]:
        raise UserError(fault or f"another device cannot use {folder}: see its log")
    return place
