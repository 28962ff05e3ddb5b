"""Why mindspore cannot use a device here: its plugins are tried when it is imported, and it says little of failures."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import mindspore as ms

PLUGINS = {"GPU": "libmindspore_gpu.so.*", "Ascend": "libmindspore_ascend.so*"}


def why_not(device: str, message: str) -> str:
    """Sentences on what is missing, each with the remedy.

    Args:
        device: "GPU" or "Ascend".
        message: what mindspore raised, which may hold the linker's own words.
    """
    found = {"GPU": _gpu, "Ascend": _ascend}[device]()
    words = re.findall(rf"Load dynamic library: (libmindspore_{device.lower()}\S*) failed\. (\S+?):", message)
    found += [
        f"{plugin} was tried and needs {library}, which was not found"
        for plugin, library in dict.fromkeys(words)
        if not any(library in sentence for sentence in found)
    ]
    return "; ".join(found) or message.strip().splitlines()[0]


def _gpu() -> list[str]:
    cuda = plugins("GPU")
    if not cuda:
        return ["this mindspore has no GPU plugin: the x86-64 Linux wheel has them, for CUDA 11"]
    known = ", ".join(cuda_version(path) for path in cuda)
    home = os.environ.get("CUDA_HOME")
    if not home:
        return [
            f"CUDA_HOME is not set: it must name the folder of a CUDA 11 (mindspore {ms.__version__} has plugins "
            f"for {known}), whose bin/nvcc mindspore asks for its version"
        ]
    release = nvcc_release(Path(home) / "bin" / "nvcc")
    if release is None:
        return [f"CUDA_HOME is {home}, and {home}/bin/nvcc does not run: mindspore asks it for CUDA's version"]
    plugin = chosen_plugin(cuda, release)
    if plugin is None:
        return [
            f"CUDA_HOME is {home}, whose nvcc says CUDA {release}: mindspore {ms.__version__} has GPU plugins for "
            f"CUDA {known} and takes them for later CUDA 11 too, not for others"
        ]
    return _libraries(plugin, "put the folders of CUDA's libraries and of cuDNN 8 into LD_LIBRARY_PATH")


def _ascend() -> list[str]:
    found = []
    if not plugins("Ascend"):
        return ["this mindspore has no Ascend plugin"]
    if "ASCEND_OPP_PATH" not in os.environ:
        found.append(
            "CANN's environment is not set up (no ASCEND_OPP_PATH): run `source "
            "/usr/local/Ascend/ascend-toolkit/set_env.sh`, or the set_env.sh of where CANN is installed"
        )
    if not list(Path("/dev").glob("davinci[0-9]*")):
        found.append(
            "there is no /dev/davinci*: the NPU's driver is not loaded, or the container was started without "
            "the devices"
        )
    return found + _libraries(plugins("Ascend")[0], "CANN's set_env.sh puts their folders into LD_LIBRARY_PATH")


def plugins(device: str) -> list[Path]:
    """The device's plugins in the installed mindspore, sorted paths."""
    return sorted((Path(ms.__file__).parent / "lib" / "plugin").glob(PLUGINS[device]))


def cuda_version(plugin: Path) -> str:
    """CUDA's version such as "11.6" in the name of a GPU plugin."""
    return plugin.name.rsplit("so.", 1)[1]


def chosen_plugin(paths: list[Path], release: str) -> Path | None:
    """The GPU plugin that mindspore takes for a CUDA release: the newest of that major version that is not newer."""
    numbers = {tuple(map(int, cuda_version(path).split("."))): path for path in paths}
    wanted = tuple(map(int, release.split(".")))
    fitting = [version for version in numbers if version[0] == wanted[0] and version <= wanted]
    return numbers[max(fitting)] if fitting else None


def nvcc_release(nvcc: Path) -> str | None:
    """CUDA's version such as "11.6" by this nvcc, or None if it does not run."""
    said = _output(nvcc, "--version")
    release = re.search(r"release (\d+\.\d+)", said or "")
    return release and release[1]


def missing_libraries(library: Path) -> list[str]:
    """Names of the shared libraries that the system's linker does not find for this one."""
    return list(dict.fromkeys(re.findall(r"(\S+) => not found", _output("ldd", library) or "")))


def _libraries(plugin: Path, remedy: str) -> list[str]:
    missing = missing_libraries(plugin)
    return [f"{plugin.name} needs libraries that are not found: {', '.join(missing)}; {remedy}"] if missing else []


def _output(*command: object) -> str | None:
    """What a command printed, or None if it does not run."""
    try:
        return subprocess.run(
            [*map(str, command)], capture_output=True, text=True, timeout=20, check=False, env=os.environ
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
