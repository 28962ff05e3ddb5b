"""C++ that is compiled with the machine's own compiler at first use (`gm.built`). Never required.

SVD_KERNELS=0 in the environment leaves it out.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gm import built, system

_FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fPIC",
    "-pthread",
    "-std=c++17",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
)
_COMPILERS = ("g++", "clang++", "c++")


def library(kind: str, units: Sequence[Path], headers: Sequence[Path], faster: str, without: str) -> str | None:
    """Path of the shared library made of C++ files as a string, or None where it can't be had; a line on stderr then
    says so: what it would make faster, and what happens without it.

    kind: the library's name; units: .cpp files; headers: what they include.
    """
    if os.environ.get("SVD_KERNELS") == "0":
        return None
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        built.say(f"no C++ compiler found: install g++ to make {faster} (results are the same)")
        return None
    try:
        path = built.kept(kind, key(compiler, units, headers), functools.partial(_compile, compiler, units))
        ctypes.CDLL(os.fspath(path))
    except subprocess.CalledProcessError as error:
        built.say(f"{compiler} could not compile {kind}, {without}: {built.reason(error)}")
        return None
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        built.say(f"compiled {kind} cannot be used, {without}: {error}")
        return None
    return os.fspath(path)


def key(compiler: str, units: Sequence[Path], headers: Sequence[Path]) -> str:
    """Of what decides the library's content, for its name."""
    return built.key_of(built.output(compiler, "--version"), _processor(), " ".join(_FLAGS), *units, *headers)


def _compile(compiler: str, units: Sequence[Path], path: Path) -> None:
    def compiled(unit: Path) -> Path:
        part = path.with_name(f"{unit.stem}.o")
        built.output(compiler, *_FLAGS, "-c", unit, "-o", part)
        return part

    with ThreadPoolExecutor(system.processors()) as pool:
        parts = list(pool.map(compiled, units))
    built.output(compiler, "-shared", "-pthread", *parts, "-o", path)


def _processor() -> str:
    """What -march=native looks at: a library must not be used on another kind of processor that shares the home."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {platform.processor()} {features}"
