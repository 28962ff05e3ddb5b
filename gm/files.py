"""Output files that are either whole or absent; what files of other people are."""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from gm import interrupts
from gm.errors import UserError


class _PathOption:
    """Text to Path. (jsonargparse reads what is for `Path` itself as YAML, in which a name that is not UTF-8 cannot
    be.)"""

    def __call__(self, text: str) -> Path:
        return Path(text)

    def __repr__(self) -> str:  # in the help
        return "path"


PATH = _PathOption()  # the type of a command line's option that is a path
_PREFIX = ".tmp-svd-"  # of the folders that things are made in
_searched = set()  # folders in which this process has looked for leftovers


@contextlib.contextmanager
def temporary_folder(parent: str | Path) -> Iterator[Path]:
    """A new folder in `parent` that only this user can enter; removed at the end, and by an interrupt.

    The process holds a lock on it, by which `remove_leftovers` knows that it lives. Before the first one in `parent`,
    what killed processes left there is removed. OSError where it cannot be made.
    """
    parent = os.path.abspath(parent)
    if parent not in _searched:
        _searched.add(parent)
        remove_leftovers(parent)
    with interrupts.lock:
        place, held = _locked_folder(parent)

        def remove() -> None:
            shutil.rmtree(place, ignore_errors=True)

        interrupts.add(remove)
    try:
        yield place
    finally:
        remove()
        interrupts.remove(remove)
        os.close(held)


def _locked_folder(parent: str) -> tuple[Path, int]:
    """(path, descriptor) of a new folder; made again where another process took it for a leftover before the lock."""
    while True:
        place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        with contextlib.suppress(FileNotFoundError):
            held = os.open(place, os.O_RDONLY)
            with contextlib.suppress(OSError):  # no locks there
                fcntl.flock(held, fcntl.LOCK_EX)  # waits for a process that is about to remove it
            if place.exists():
                return place, held
            os.close(held)


def _lock(descriptor: int) -> bool:
    """Whether this process has the lock of an open file or folder now; where there are no locks, it has not."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_leftovers(parent: str | Path) -> None:
    """Delete what killed processes of this user left half-made in a folder; a living one's stays."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                _remove_if_left(entry)


def _remove_if_left(entry: os.DirEntry[str]) -> None:
    with contextlib.suppress(OSError):
        info = entry.stat(follow_symlinks=False)
        if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077:
            return
        held = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if _lock(held):
                shutil.rmtree(entry.path, ignore_errors=True)
        finally:
            os.close(held)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """`with atomic_path(path) as temporary:` make a file or folder there; it takes the name `path` when all went well.

    Nothing is at `temporary` yet. It has the same name, in a folder beside `path` that nobody else can enter, so that
    nothing can be put in its place. On any exception, Ctrl-C included, it is removed and an older `path` stays as it
    was. Raises UserError at once where the folder cannot be written to or the name is too long, and for every OSError
    until the end (disk full).
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            with contextlib.suppress(FileNotFoundError):
                path.lstat()
            temporary = stack.enter_context(temporary_folder(path.parent)) / path.name
        except OSError as error:
            raise UserError(f"cannot write {path}: {_place(path, error)}") from error
        try:
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(f"cannot write {path}: {_reason(error, temporary)}") from error


def _place(path: Path, error: OSError) -> str:
    if error.errno == errno.ENAMETOOLONG:
        return f"{error.strerror}; choose a shorter one"
    return f"{path.parent}: {error.strerror}; choose another folder"


def _flush(path: Path) -> None:
    """Put a file, or all files of a folder, on the disk: a power cut after the rename could leave them empty."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if not file.is_dir():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())


def _reason(error: OSError, temporary: Path) -> str:
    """What went wrong in words for the user; names the file where it is another one, such as one that was read."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{reason}; free some space or choose another folder"
    other = error.filename is not None and not str(error.filename).startswith(str(temporary))
    return f"{reason}: {error.filename}" if other else reason


def require_file(path: str | Path, what: str) -> None:
    """Raise UserError where something is at `path` that is no ordinary file, before it is opened.

    what: the kind of file in words, such as "the config". What does not exist is left to the one that opens it.
    """
    with contextlib.suppress(ValueError):  # a null character in the name
        kind = kind_of(path)
        if kind not in ("a file", "a link to nothing", None):
            raise UserError(f"{what} {path} is {kind}, not a file: name the file itself")


def refuse_folder(path: str | Path, option: str) -> None:
    """Raise UserError where a file is to be written as `option` says, and a folder is there."""
    if os.path.isdir(path):
        raise UserError(f"{option}={path} is a folder: name the file to be written in it")


def require_space(folder: str | Path, size: float) -> None:
    """Raise UserError unless the file system of `folder` has `size` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        unit, name = (1e9, "GB") if size >= 1e8 else (1e6, "MB")
        raise UserError(
            f"not enough disk space in {folder}: {size / unit:.2f} {name} are needed, {free / unit:.2f} {name} are "
            "free. Free some space or choose another folder."
        )


def count_suffixes(names: Iterable[str | Path]) -> str:
    """Names of files → "3 other files (2 .cr2, 1 .txt)", the most frequent suffix first; "0 other files"."""
    suffixes = [Path(name).suffix.lower() or "without suffix" for name in names]
    found = collections.Counter(sorted(suffixes)).most_common()
    total = f"{len(suffixes)} other file{'' if len(suffixes) == 1 else 's'}"
    return f"{total} ({', '.join(f'{count} {suffix}' for suffix, count in found)})" if found else total


def kind_of(path: str | Path) -> str | None:
    """What is at `path` where a file should be: "a folder", "a pipe", …, "a link to nothing"; None: nothing at all.

    Looks without opening: a pipe that nobody writes to would be waited for without end.
    """
    kinds = {
        stat.S_ISDIR: "a folder",
        stat.S_ISREG: "a file",
        stat.S_ISFIFO: "a pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        looping = error.errno == errno.ELOOP
        return ("a link to itself" if looping else "a link to nothing") if os.path.islink(path) else None
    return next((name for test, name in kinds.items() if test(mode)), "no file")
