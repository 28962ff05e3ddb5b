"""Fused kernels in C++, compiled with the machine's own compiler at first use. Never required.

The library lies in $XDG_CACHE_HOME/svd_mindspore (by default ~/.cache/svd_mindspore), under a name that holds a hash of
source, compiler and processor. SVD_KERNELS=0 in the environment leaves the kernels out.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

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
    """Compile the kernels into the shared library `path`, complete or not at all.

    Raises OSError or subprocess.SubprocessError when the compiler fails.
    """
    units, _ = _sources()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        subprocess.run([compiler, *flags, *map(str, units), "-o", str(built)], check=True, capture_output=True,
                       text=True, timeout=_TIMEOUT)
        os.replace(built, path)


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
        version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True, timeout=30).stdout
        units, headers = _sources()
        parts = [version, _processor(), " ".join(_FLAGS), *(p.read_text(encoding="utf-8") for p in units + headers)]
        name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        path = _cache_folder() / f"kernels-{name}.so"
        if ":" in os.fspath(path):
            raise OSError(f"MindSpore takes no folder with ':' in its name, {path.parent}; set XDG_CACHE_HOME")
        if not _loads(path):  # not there yet, or cut off by a power failure
            compile_library(compiler, path)
            ctypes.CDLL(os.fspath(path))
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or str(error)).strip().split("\n")[0]
        _say(f"{compiler} could not compile the fused kernels, networks run without them: {reason}")
        return None
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        _say(f"fused kernels cannot be used, networks run without them: {error}")
        return None
    return os.fspath(path)


def _loads(path):
    try:
        ctypes.CDLL(os.fspath(path))
    except OSError:
        return False
    return True


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
