"""Fused kernels in CUDA, compiled with the machine's own nvcc at first use (`gm.built`). Never required.

They need a card of compute capability 8.0 or later (A100) and, for code of a later card's own, an nvcc that knows it;
an older nvcc makes PTX for 8.0, which the driver turns into code for the card. SVD_KERNELS=0 in the environment leaves
them out.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from pathlib import Path

import mindspore as ms

from gm import built

FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-std=c++17", "--extended-lambda", "-shared", "-Xcompiler", "-fPIC")
_OLDEST = (8, 0)
_WITHOUT = "networks run without the CUDA kernels, several times slower"


def _sources() -> tuple[list[Path], list[Path]]:
    return sorted(FOLDER.glob("*.cu")), sorted(FOLDER.glob("*.cuh"))


@functools.cache
def library() -> str | None:
    """Path of the compiled kernels as a string, or None where they can't be had; a line on stderr says why."""
    if os.environ.get("SVD_KERNELS") == "0":
        return None
    try:
        capability = compute_capability(ms.get_context("device_id"))
    except (OSError, AttributeError) as error:
        built.say(f"{_WITHOUT}: {error}")
        return None
    if capability < _OLDEST:
        built.say(f"{_WITHOUT}: this card has compute capability {capability[0]}.{capability[1]}, they need 8.0 (A100)")
        return None
    faults = []
    for nvcc in compilers():
        for target in targets(capability):
            try:
                path = built.kept("cuda", _key(nvcc, target), functools.partial(_compile, nvcc, target))
                ctypes.CDLL(os.fspath(path))
                return os.fspath(path)
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                faults.append(f"{nvcc}: {built.reason(error)}")
    built.say(f"{_WITHOUT}: {faults[-1] if faults else 'no nvcc in $CUDA_HOME/bin, on PATH or in /usr/local/cuda/bin'}")
    return None


def compute_capability(device: int) -> tuple[int, ...]:
    """(major, minor) of a card, by its number, as CUDA's driver says it. Raises OSError."""
    driver = ctypes.CDLL("libcuda.so.1")
    handle, value = ctypes.c_int(), ctypes.c_int()
    found = []
    failed = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(handle), device)
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        found.append(value.value)
    if failed:
        raise OSError(f"CUDA's driver says error {failed} for card {device}")
    return tuple(found)


def compilers() -> list[str]:
    """The nvcc's of this machine: of the CUDA that MindSpore uses, on PATH, in the usual place."""
    home = os.environ.get("CUDA_HOME")
    found = [Path(home) / "bin" / "nvcc" if home else None, shutil.which("nvcc"), Path("/usr/local/cuda/bin/nvcc")]
    return list(dict.fromkeys(os.fspath(path) for path in found if path and os.access(path, os.X_OK)))


def targets(capability: tuple[int, ...]) -> list[str]:
    """nvcc's options that name the code to make, the best first."""
    number = "{}{}".format(*capability)
    return [f"-gencode=arch=compute_{number},code=sm_{number}", "-gencode=arch=compute_80,code=compute_80"]


def _key(nvcc: str, target: str) -> str:
    units, headers = _sources()
    return built.key_of(built.output(nvcc, "--version"), target, " ".join(_FLAGS), *units, *headers)


def _compile(nvcc: str, target: str, path: Path) -> None:
    units, _ = _sources()
    built.output(nvcc, *_FLAGS, target, *units, "-o", path)
