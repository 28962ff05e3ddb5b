"""How much of the machine this process may use: memory and processors, in a container too. No mindspore here."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

# Files of a memory control group: limit, usage, and what of memory.stat is file cache.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def available_memory(root: str | Path = "/") -> int | None:
    """Bytes that this process can still take: of the machine, or of its control groups (v1, v2) or `ulimit -v` where
    they have less.

    root: where proc and sys are. None where the system does not say (no Linux).
    """
    root = Path(root)
    machine = _fields(root / "proc/meminfo").get("MemAvailable:")
    rooms = [_room(*group) for group in _control_groups(root, "memory")]
    rooms.append(_address_space(root))
    if machine is not None:
        rooms.append(machine * 1024)
    return min((room for room in rooms if room is not None), default=None)


def resident_memory(root: str | Path = "/") -> int:
    """Bytes of its own that this process has in memory, without pages of files; 0 where the system does not say."""
    return 1024 * _fields(Path(root) / "proc/self/status").get("RssAnon:", 0)


def _address_space(root: Path) -> int | None:
    """What `ulimit -v` leaves, which counts addresses, used or not; None without such a limit."""
    words = next(
        (
            line.split()
            for line in _read(root / "proc/self/limits").splitlines()
            if line.startswith("Max address space")
        ),
        (),
    )
    used = _fields(root / "proc/self/status").get("VmSize:", 0) * 1024
    return max(0, int(words[3]) - used) if len(words) > 3 and words[3].isdigit() else None


def processors(root: str | Path = "/") -> int:
    """How many processors this process may use at once: those that it is bound to, what its control groups (v1, v2)
    grant, and OMP_NUM_THREADS, whichever is least.

    root: where proc and sys are.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [_share(*group) for group in _control_groups(Path(root), "cpu")]
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdigit() and int(asked):
        shares.append(int(asked))
    return min([bound, *(max(1, math.ceil(share)) for share in shares if share is not None)])


def _share(folder: Path, second: bool) -> float | None:
    """Processors that one control group grants, such as 1.5; None without limit."""
    files = ["cpu.max"] if second else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    words = " ".join(_read(folder / name) for name in files).split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and all(map(str.isdigit, words)) else None


def _control_groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """(folder, whether it is of version 2) of every control group that this process is in, its parents included.

    controller: "memory" or "cpu". In a container the path in /proc/self/cgroup may be the host's, of which only the top
    can be seen here.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = top / path.lstrip("/")
        yield from (
            (place, controllers == "") for place in (folder, *folder.parents) if place == top or top in place.parents
        )


def _room(folder: Path, second: bool) -> int | None:
    """Limit less usage of one control group in bytes; file cache can be dropped and is no usage. None without limit."""
    limit, usage, cache = _V2 if second else _V1
    limit, usage = _read(folder / limit).strip(), _read(folder / usage).strip()
    if not limit.isdigit() or not usage.isdigit():  # no such file, or "max"
        return None
    return max(0, int(limit) - int(usage) + _fields(folder / "memory.stat").get(cache, 0))


def _fields(path: Path) -> dict[str, int]:
    """{first word of a line: number behind it} of a file; empty where it cannot be read."""
    words = (line.split() for line in _read(path).splitlines())
    return {w[0]: int(w[1]) for w in words if len(w) > 1 and w[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
