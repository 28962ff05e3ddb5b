"""The C++ kernels for CPUs, compiled with the machine's own compiler at first use (`gm.cpp`). Never required.

No mindspore here: a program can let them be compiled while it is imported. `gm.ops.native` calls them.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from pathlib import Path

from gm import cpp, system

FOLDER = Path(__file__).parent / "ops" / "native"
_lock = threading.Lock()


def sources() -> tuple[list[Path], list[Path]]:
    """(.cpp files, what they include)."""
    return sorted(FOLDER.glob("*.cpp")), sorted(FOLDER.glob("*.h"))


def begin() -> None:
    """Find or compile them in a thread. `library` waits for it, and the end of the program too."""
    threading.Thread(target=library, name="kernels").start()


def library() -> str | None:
    """Path of the compiled kernels as a string, or None where they can't be had; a line on stderr says why."""
    with _lock:
        return _library()


@functools.cache
def _library() -> str | None:
    path = cpp.library("kernels", *sources(), "networks faster on this CPU", "networks run without them")
    if path is not None:
        ctypes.CDLL(path).UseThreads(ctypes.c_int64(system.processors()))
    return path
