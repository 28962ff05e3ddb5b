"""What tells a file of weights from another one under its name, without reading all of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_PIECES, _LENGTH = 256, 512  # of bytes, spread evenly over the file


def identity(path: str | Path) -> tuple[int, int, str]:
    """(bytes, time of the last change in ns, hash of pieces of the content) of a file. Of two that were trained or
    merged differently the hashes differ as good as always; a copy has the same, at another time."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        for k in range(_PIECES):
            file.seek(max(0, status.st_size - _LENGTH) * k // (_PIECES - 1))
            digest.update(file.read(_LENGTH))
    return status.st_size, status.st_mtime_ns, digest.hexdigest()[:16]


def same(now: tuple[int, int, str], before: tuple[int, int, str] | None, since: int) -> bool:
    """Whether a file is still the one that it was before, by `identity` of both, and in doubt not.

    since: time in ns from which on no change counts as one that left everything as it was; a copy that another server
    has of its own is older.
    """
    return before is not None and (now == before or ((now[0], now[2]) == (before[0], before[2]) and now[1] <= since))
