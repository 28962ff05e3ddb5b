"""Whose a file is: what is loaded as a program must not be writable by anybody but this user and root."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def fault(path: str | Path) -> str | None:
    """Why somebody else could change what is at a path, in words for the user; None where nobody could.

    Looked at are the file or folder and every folder above it, links followed first (so use `path.resolve()`). In a
    folder with the sticky bit, such as /tmp, others cannot touch what is not theirs. OSError where it is not there.
    """
    path = Path(path).resolve()
    for place in (path, *path.parents):
        info = os.lstat(place)
        if info.st_uid not in (os.geteuid(), 0):
            return f"{place} belongs to another user"
        guarded = place != path and info.st_mode & stat.S_ISVTX
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not guarded:
            return f"others can write to {place}; chmod go-w {place}"
    return None
