"""What the devices of one run tell one another: files in a hidden folder beside the results, which all servers see.

    run.json            by the first device, when all have come: the videos, and what every device said of itself
    hello-K.json        by device K: a number of its own
    taken-I             by the device that makes video I; who makes the file first has it
    notes-K.jsonl       by device K, a line each: what it takes, does, cannot do, and its end
    at-K-N              by device K: it has come to meeting N

What a run that was killed has left is never taken for this one's: run.json repeats the numbers of the hellos.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gm import locks
from gm.data import outputs
from gm.errors import UserError

if TYPE_CHECKING:
    from gm.sharing.launcher import Worker

_NAME, _LOCK = ".shared-", "first.lock"
_LOOK = 0.2  # seconds
_UNSEEN = 300.0  # seconds after which all devices must have come
_LONGEST = 3600.0  # seconds that devices wait for one another where they meet
_LEFT = 3600.0  # seconds without a change after which another run's folder was left by a killed one


class RunFolder:
    """One run's. paths: of the pictures. videos: of each, so that there are len(paths) * videos to be made."""

    def __init__(
        self, place: str | Path, size: int, paths: Sequence[str | Path], videos: int, lock: locks.Lock | None = None
    ) -> None:
        self.place, self.size, self.paths, self.videos = Path(place), size, [Path(path) for path in paths], videos
        self._lock = lock  # of the first device

    def __len__(self) -> int:
        return len(self.paths) * self.videos

    def video(self, index: int) -> tuple[Path, int]:
        """(path of the picture, number of its video from 0)."""
        return self.paths[index // self.videos], index % self.videos

    def take(self, index: int) -> bool:
        """Whether video `index` is the caller's from now on: it is given away once. UserError where the run is over."""
        try:
            os.close(os.open(self.place / f"taken-{index}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return False
        except OSError as error:
            raise UserError(f"the run has ended without this device: {self.place}: {error.strerror}") from error
        return True

    def note(self, rank: int, **what: object) -> None:
        """Add a line to a device's notes."""
        with open(self._notes(rank), "ab") as file:
            file.write(json.dumps(what).encode() + b"\n")

    def live(self, rank: int) -> None:
        """A sign of life."""
        with contextlib.suppress(OSError):
            os.utime(self._notes(rank))

    def sign(self, rank: int) -> int | None:
        """The time of the last sign of life, to be compared with others of the same device; None without one."""
        with contextlib.suppress(OSError):
            return os.stat(self._notes(rank)).st_mtime_ns
        return None

    def notes(self, rank: int, start: int = 0) -> tuple[list[dict[str, Any]], int]:
        """(the lines of a device's notes from byte `start` on, the byte behind them)."""
        try:
            with open(self._notes(rank), "rb") as file:
                file.seek(start)
                whole = file.read().rpartition(b"\n")[0]  # the last line may not be whole
        except OSError:
            return [], start
        return [json.loads(line) for line in whole.splitlines()], start + len(whole) + bool(whole)

    def meet(self, rank: int, number: int) -> None:
        """Wait until all devices have come to meeting `number`, from 1. UserError where one does not for an hour."""
        (self.place / f"at-{rank}-{number}").touch()
        until, pause = time.monotonic() + _LONGEST, 0.001
        absent = set(range(self.size)) - {rank}
        while absent:
            absent = {other for other in absent if not (self.place / f"at-{other}-{number}").exists()}
            if absent and time.monotonic() > until:
                raise UserError(
                    f"device {min(absent)} of {self.size} has not come for {_LONGEST / 60:.0f} minutes: see its log"
                )
            if absent:
                time.sleep(pause)
                pause = min(2 * pause, _LOOK)
        with contextlib.suppress(OSError):  # where all have been, as they are here now
            (self.place / f"at-{rank}-{number - 1}").unlink()

    def remove(self) -> None:
        """By the first device, in the end."""
        shutil.rmtree(self.place, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()

    def _notes(self, rank: int) -> Path:
        return self.place / f"notes-{rank}.jsonl"


def join(folder: str | Path, worker: Worker, paths: Sequence[str | Path] | None = None, videos: int = 1) -> RunFolder:
    """The `RunFolder` in an output folder, once all devices are there.

    worker: `gm.sharing.launcher.Worker`. paths, videos: given by the first device, whose word counts for all.

    Raises:
        UserError: a device that does not come; a folder that a server does not see.
    """
    place = Path(folder) / f"{_NAME}{hashlib.sha256(worker.run.encode()).hexdigest()[:12]}"
    run = _begin(place, worker, paths or (), videos) if worker.rank == 0 else _follow(place, worker)
    run.note(worker.rank, here=True)
    return run


def _begin(place: Path, worker: Worker, paths: Sequence[str | Path], videos: int) -> RunFolder:
    """The first device's part."""
    remove_left(place.parent)
    place.mkdir(exist_ok=True)
    lock = locks.take(place / _LOCK)
    if lock is None:
        raise UserError(f"another run of this address writes to {place.parent}: give it another --master_port")
    for left in list(place.iterdir()):  # of a killed run; what others write from here on stays
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        elif left.name != _LOCK:
            left.unlink(missing_ok=True)
    until = time.monotonic() + _UNSEEN
    while True:
        hellos = {rank: _read(place / f"hello-{rank}.json") for rank in range(1, worker.size)}
        absent = [str(rank) for rank, hello in hellos.items() if hello is None]
        if not absent:
            break
        if time.monotonic() > until:
            raise UserError(
                f"of {worker.size} devices these do not come: {', '.join(absent)}. All servers must share "
                f"the folder {place.parent}"
            )
        time.sleep(_LOOK)
    told = {
        "hellos": {str(rank): hello for rank, hello in hellos.items()},
        "paths": list(map(str, paths)),
        "videos": videos,
    }
    outputs.write_json(told, place / "run.json")
    return RunFolder(place, worker.size, paths, videos, lock)


def _follow(place: Path, worker: Worker) -> RunFolder:
    """Every other device's part."""
    mine, until = os.urandom(8).hex(), time.monotonic() + _UNSEEN
    while True:
        told = _read(place / "run.json")
        if told and told["hellos"].get(str(worker.rank)) == mine:
            return RunFolder(place, worker.size, told["paths"], told["videos"])
        if place.is_dir() and _read(place / f"hello-{worker.rank}.json") != mine:
            with contextlib.suppress(OSError, UserError):  # the first device is clearing the folder
                outputs.write_json(mine, place / f"hello-{worker.rank}.json")
        if time.monotonic() > until:
            raise UserError(
                f"device {worker.rank} does not see what the first one writes to {place.parent}: all "
                "servers must share that folder"
            )
        time.sleep(_LOOK)


def _read(path: Path) -> Any:
    """What a JSON file says; None where it is not there yet."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))


def remove_left(folder: str | Path) -> None:
    """What killed runs have left in an output folder: nobody holds their lock, or nothing has changed for long."""
    for place in Path(folder).glob(f"{_NAME}*"):
        with contextlib.suppress(OSError):
            lock = locks.take(place / _LOCK)
            if lock is not None:
                shutil.rmtree(place, ignore_errors=True)
                lock.release()
                continue
            last = max(path.stat().st_mtime for path in (place, *place.glob("notes-*")))
            if time.time() - last > _LEFT:
                shutil.rmtree(place, ignore_errors=True)
