"""What one run alone may write to, whichever number of devices it has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gm import locks
from gm.errors import UserError
from gm.ops import parallel


@contextlib.contextmanager
def owned(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path` during the body; the run's first device does so for all of them.

    Raises UserError on every device: `busy` where another run holds it, or that it cannot be made.
    """
    lock, fault = None, None
    if parallel.rank() == 0:
        try:
            lock = locks.take(path)
            fault = busy if lock is None else None
        except OSError as error:
            fault = f"cannot write {path}: {error.strerror}; choose another folder"
    if parallel.mean([float(fault is not None)])[0]:
        raise UserError(fault or busy)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
