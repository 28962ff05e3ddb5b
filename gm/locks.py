"""One owner at a time: lock files that the system gives free when their process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from gm import interrupts
from gm.errors import UserError

_TRIES = 100
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)  # what file systems without them say


class Lock:
    """A lock file that this process holds until `release`, its end or an interrupt; made by `take`."""

    def __init__(self, path: str | Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        interrupts.add(self._remove)

    def release(self) -> None:
        interrupts.remove(self._remove)
        self._remove()
        os.close(self._descriptor)

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def take(path: str | Path) -> Lock | None:
    """The `Lock` of a file that is made for it, or None where a living process, or this one, holds it.

    Where the file system has no locks, a file that is there already counts as held. OSError where it cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    for _ in range(_TRIES):
        with interrupts.lock:  # no file may be left that nobody would remove
            try:
                descriptor, new = os.open(path, flags | os.O_EXCL, 0o666), True
            except FileExistsError:
                descriptor, new = os.open(path, flags, 0o666), False
            if not _lock(descriptor, new):
                os.close(descriptor)
                return None
            if _is_at(descriptor, path):
                return Lock(path, descriptor)
            os.close(descriptor)  # its holder ended, and removed it, after we had opened it
    return None


@contextlib.contextmanager
def held(path: str | Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path` during the body. UserError(busy) where another process does, or it cannot be made."""
    try:
        lock = take(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    if lock is None:
        raise UserError(busy)
    try:
        yield
    finally:
        lock.release()


def _lock(descriptor: int, new: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return new
    return True


def _is_at(descriptor: int, path: str | Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    return False
