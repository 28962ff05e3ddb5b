"""Fused kernels in C++, compiled with the machine's own compiler at first use. Never required.

The library lies in $XDG_CACHE_HOME/svd_mindspore (by default ~/.cache/svd_mindspore), under a name that holds a hash of
source, compiler and processor and another of its own content: what a power failure cut off is compiled anew. Where
others could write there, it is compiled for this process alone. SVD_KERNELS=0 in the environment leaves them out.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from gm import trust
from gm.files import remove_leftovers, temporary_folder

FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Wno-psabi")
_COMPILERS = ("g++", "clang++", "c++")
_TIMEOUT = 300  # seconds for a compilation that takes 3


def _sources():
    return sorted(FOLDER.glob("*.cpp")), sorted(FOLDER.glob("*.h"))


def _processor():
    """What -march=native looks at: a library must not be used on another kind of processor that shares the home."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {platform.processor()} {features}"


def _cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "svd_mindspore"


def compile_library(compiler, path, flags=_FLAGS):
    """Compile the kernels into the shared library `path`.

    Raises OSError or subprocess.SubprocessError when the compiler fails.
    """
    units, _ = _sources()
    subprocess.run([compiler, *flags, *map(str, units), "-o", os.fspath(path)], check=True, capture_output=True,
                   text=True, errors="replace", timeout=_TIMEOUT)


@functools.cache
def library():
    """Path of the compiled kernels as a string, or None where they can't be had; a line on stderr says why."""
    if os.environ.get("SVD_KERNELS") == "0":
        return None
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        _say("no C++ compiler found: install g++ to make networks faster on this CPU (results are the same)")
        return None
    try:
        key = _key(compiler)
        folder = _kept_folder()
        path = _find(folder, key) or _build(compiler, folder, key)
        ctypes.CDLL(os.fspath(path))
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or str(error)).strip().split("\n")[0]
        _say(f"{compiler} could not compile the fused kernels, networks run without them: {reason}")
        return None
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        _say(f"fused kernels cannot be used, networks run without them: {error}")
        return None
    return os.fspath(path)


def _key(compiler):
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True, errors="replace",
                             timeout=30).stdout
    units, headers = _sources()
    parts = [version, _processor(), " ".join(_FLAGS), *(p.read_text(encoding="utf-8") for p in units + headers)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _kept_folder():
    """The folder of compiled libraries, this user's alone; or one for this process, with a line that says why."""
    folder = _cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()
        with contextlib.suppress(OSError):
            folder.chmod(0o700)
        reason = trust.fault(folder)
        if reason is None:
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        reason = f"{folder}: {error.strerror}"
    if ":" in os.fspath(folder):
        reason = f"MindSpore takes no folder with ':' in its name, {folder}; set XDG_CACHE_HOME"
    if reason is None:
        return folder
    _say(f"compiled kernels are not kept for the next run: {reason}")
    remove_leftovers(tempfile.gettempdir())
    stack = contextlib.ExitStack()
    folder = stack.enter_context(temporary_folder(tempfile.gettempdir())).resolve()
    atexit.register(stack.close)
    reason = trust.fault(folder)
    if reason is not None:
        raise OSError(reason)
    return folder


def _find(folder, key):
    """The library in a folder, None where there is none; one that is damaged, or could be another's, is removed."""
    for path in sorted(folder.glob(f"kernels-{key}-*.so")):
        if _is_whole(path):
            return path
        with contextlib.suppress(OSError):
            path.unlink()
    return None


def _is_whole(path):
    """Whether a file is this user's or root's, writable by nobody else, and has the content that its name promises."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            info = os.fstat(file.fileno())
            own = info.st_uid in (os.geteuid(), 0) and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            return own and stat.S_ISREG(info.st_mode) and path.stem.endswith(_digest(file.read()))
    except OSError:
        return False


def _build(compiler, folder, key):
    remove_leftovers(folder)
    with temporary_folder(folder) as place:
        built = place / "kernels.so"
        compile_library(compiler, built)
        built.chmod(0o700)
        with open(built, "rb") as file:
            content = file.read()
            os.fsync(file.fileno())
        path = folder / f"kernels-{key}-{_digest(content)}.so"
        os.replace(built, path)
    return path


def _digest(content):
    return hashlib.sha256(content).hexdigest()[:16]


@functools.cache
def _widen():
    """The function that widens float16, or None without the library."""
    path = library()
    if path is None:
        return None
    function = ctypes.CDLL(path).Widen  # ctypes lets go of Python's lock during the call
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64), None
    return function


def convert(to, values):
    """Write a flat, contiguous array to another one of the same length and any dtype: what NumPy's copyto does.

    From float16 to float32, the kernel is ten times faster than NumPy, with the same result to the last bit.
    """
    widen = _widen() if (values.dtype, to.dtype) == (np.float16, np.float32) else None
    if widen is None:
        np.copyto(to, values, casting="unsafe")
    else:
        widen(values.ctypes.data, to.ctypes.data, values.size)


def _say(line):
    print(line, file=sys.stderr)
