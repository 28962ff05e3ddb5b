"""Shared libraries that are compiled on this machine at first use, and kept.

They lie in $XDG_CACHE_HOME/svd_mindspore (by default ~/.cache/svd_mindspore), each under a name that holds a hash of
what it was made from (source, compiler, processor) and another of its own content: what a power failure cut off is
compiled anew. Where others could write there, it is compiled for this process alone.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from gm import trust
from gm.files import temporary_folder

_TIMEOUT = 300  # seconds for a compilation that takes 3 (C++) or 20 (CUDA)


def kept(kind: str, key: str, make: Callable[[Path], object]) -> Path:
    """Path of the library of that kind and key: found, or made by `make(path)` now.

    Raises OSError, RuntimeError or subprocess.SubprocessError where it can be neither.
    """
    folder = kept_folder()
    return find(folder, kind, key) or _build(folder, kind, key, make)


def key_of(*parts: str | Path) -> str:
    """A short hash of texts and of the content of files (Paths)."""
    texts = [part.read_text(encoding="utf-8") if isinstance(part, Path) else part for part in parts]
    return digest("\0".join(texts).encode())


def output(*command: str | Path) -> str:
    """What a compiler prints. Raises OSError or subprocess.SubprocessError when it fails."""
    done = subprocess.run(
        [os.fspath(part) for part in command],
        check=True,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIMEOUT,
        env=os.environ,
    )
    return done.stdout


def reason(error: Exception) -> str:
    """The first line of what went wrong."""
    said = getattr(error, "stderr", None) or getattr(error, "stdout", None) or str(error)
    return said.strip().split("\n")[0]


def say(line: str) -> None:
    """One line to the person at the terminal."""
    print(line, file=sys.stderr)


def digest(content: bytes) -> str:
    """A short hash of bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "svd_mindspore"


def kept_folder() -> Path:
    """The folder of compiled libraries, this user's alone; or one for this process, with a line that says why."""
    folder = _cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()
        with contextlib.suppress(OSError):
            folder.chmod(0o700)
        fault = trust.fault(folder)
        if fault is None:
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        fault = f"{folder}: {error.strerror}"
    if ":" in os.fspath(folder):
        fault = f"MindSpore takes no folder with ':' in its name, {folder}; set XDG_CACHE_HOME"
    if fault is None:
        return folder
    say(f"compiled kernels are not kept for the next run: {fault}")
    stack = contextlib.ExitStack()
    folder = stack.enter_context(temporary_folder(tempfile.gettempdir())).resolve()
    atexit.register(stack.close)
    fault = trust.fault(folder)
    if fault is not None:
        raise OSError(fault)
    return folder


def find(folder: Path, kind: str, key: str) -> Path | None:
    """The library in a folder, None where there is none; one that is damaged, or could be another's, is removed."""
    for path in sorted(folder.glob(f"{kind}-{key}-*.so")):
        if _is_whole(path):
            return path
        with contextlib.suppress(OSError):
            path.unlink()
    return None


def _is_whole(path: Path) -> bool:
    """Whether a file is this user's or root's, writable by nobody else, and has the content that its name promises."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            info = os.fstat(file.fileno())
            own = info.st_uid in (os.geteuid(), 0) and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            return own and stat.S_ISREG(info.st_mode) and path.stem.endswith(digest(file.read()))
    except OSError:
        return False


def _build(folder: Path, kind: str, key: str, make: Callable[[Path], object]) -> Path:
    with temporary_folder(folder) as place:
        made = place / f"{kind}.so"
        make(made)
        made.chmod(0o700)
        with open(made, "rb") as file:
            content = file.read()
            os.fsync(file.fileno())
        path = folder / f"{kind}-{key}-{digest(content)}.so"
        os.replace(made, path)
    return path
