"""How much memory there is, whether it suffices, and how much of it attention's scores may take; no mindspore here."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

from gm.errors import UserError

_UNITS = {"": 1, **{f"{letter}{end}": base**power for power, letter in enumerate("KMGT", 1)
                    for end, base in (("B", 1000), ("IB", 1024))}, "B": 1}
# Scores are float32 and may take a sixteenth of the budget: their softmax takes as much again, and the rest of the
# network lies beside them.
_SHARE = 16
_BYTES_PER_SCORE = 4
FEWEST_SCORES, MOST_SCORES = 2**16, 2**28


def parse_size(text):
    """Bytes of a size such as "8GB", "7.5GiB", "500MB" or "8000000000"; capitals do not matter.

    Raises:
        UserError: naming a text that is no size, or one below a byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)?\s*", str(text), re.IGNORECASE)
    unit = (found[2] or "").upper() if found else None
    size = int(Decimal(found[1]) * _UNITS[unit]) if unit in _UNITS else 0
    if size < 1:
        raise UserError(f"memory size {text!r}: write for instance 8GB, 8GiB, 500MB or a number of bytes above 0")
    return size


def attention_scores(budget):
    """How many attention scores may be held at once with a budget in bytes: a power of two within the limits above."""
    scores = int(budget) // (_SHARE * _BYTES_PER_SCORE)
    return min(max(1 << max(scores.bit_length() - 1, 0), FEWEST_SCORES), MOST_SCORES)


def available_memory(root="/"):
    """Bytes that this process can still take: of the machine, or of its control groups (v1, v2) or `ulimit -v` where
    they have less.

    root: where proc and sys are. None where the system does not say (no Linux).
    """
    root = Path(root)
    machine = _fields(root / "proc/meminfo").get("MemAvailable:")
    rooms = [_room(folder, *names) for folder, names in _control_groups(root)]
    rooms.append(_address_space(root))
    if machine is not None:
        rooms.append(machine * 1024)
    return min((room for room in rooms if room is not None), default=None)


def resident_memory(root="/"):
    """Bytes of its own that this process has in memory, without pages of files; 0 where the system does not say."""
    return 1024 * _fields(Path(root) / "proc/self/status").get("RssAnon:", 0)


def _address_space(root):
    """What `ulimit -v` leaves, which counts addresses, used or not; None without such a limit."""
    words = next((line.split() for line in _read(root / "proc/self/limits").splitlines()
                  if line.startswith("Max address space")), ())
    used = _fields(root / "proc/self/status").get("VmSize:", 0) * 1024
    return max(0, int(words[3]) - used) if len(words) > 3 and words[3].isdigit() else None


_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def _control_groups(root):
    """(folder, names of its files) of every memory control group that this process is in, its parents included.

    In a container the path in /proc/self/cgroup may be the host's, of which only the top can be seen here.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", _V2
        elif "memory" in controllers.split(","):
            top, names = root / "sys/fs/cgroup/memory", _V1
        else:
            continue
        folder = top / path.lstrip("/")
        yield from ((place, names) for place in (folder, *folder.parents) if place == top or top in place.parents)


def _room(folder, limit, usage, cache):
    """Limit less usage of one control group in bytes; file cache can be dropped and is no usage. None without limit."""
    limit, usage = _read(folder / limit).strip(), _read(folder / usage).strip()
    if not limit.isdigit() or not usage.isdigit():  # no such file, or "max"
        return None
    return max(0, int(limit) - int(usage) + _fields(folder / "memory.stat").get(cache, 0))


def _fields(path):
    """{first word of a line: number behind it} of a file; empty where it cannot be read."""
    words = (line.split() for line in _read(path).splitlines())
    return {w[0]: int(w[1]) for w in words if len(w) > 1 and w[1].isdigit()}


def _read(path):
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def report(stages):
    """The text that --dry_run prints: a line for each stage, with its largest parts."""
    lines = []
    for name, need in stages.items():
        parts = sorted(need.parts.items(), key=lambda part: -part[1])
        shown = ", ".join(f"{what} {_gb(size)}" for what, size in parts if size >= 5e6)
        pages = f", pages of files {_gb(need.mapped)}" if need.mapped else ""
        lines.append(f"{name:>14s} {need.total / 1e9:7.2f} GB: {shown}{pages}")
    return "\n".join(lines)


def check(stages, remedies=(), available=None, resident=None):
    """A sentence that says that the memory suffices.

    Args:
        stages: {stage: `gm.estimate.Need`}.
        remedies: pairs (what to do, function without arguments that gives the stages then), the best first.
        available: bytes that can still be taken; None asks the system (`available_memory`).
        resident: bytes of its own that this process has taken already; None asks the system.

    Raises:
        UserError: with both numbers, and the first remedy that fits.
    """
    available = available_memory() if available is None else available
    if available is None:  # the system does not say
        return f"needs {peak(stages) / 1e9:.1f} GB of memory"
    room = available + (resident_memory() if resident is None else resident)
    stage = max(stages, key=lambda name: stages[name].own)
    needed = stages[stage].own
    if needed <= room:
        return f"needs {needed / 1e9:.1f} GB of memory in {stage}, {room / 1e9:.1f} GB are there"
    fits = next((words for words, remedied in remedies if peak(remedied()) <= room), None)
    advice = f"; {fits} would fit" if fits else "; nothing that could be changed here would fit"
    raise UserError(
        f"not enough memory: {stage} needs about {needed / 1e9:.1f} GB, and {room / 1e9:.1f} GB are free in the "
        f"machine and its container{advice}. --memory_check=off tries it all the same"
    )


def advice(stages):
    """What to say when memory ran out all the same."""
    stage = max(stages, key=lambda name: stages[name].own)
    return (f"the estimate was {stages[stage].own / 1e9:.1f} GB in {stage}, --dry_run shows of what; take a smaller "
            "size or fewer frames, or free some memory")


def peak(stages):
    """The most bytes of its own that the process holds in any stage."""
    return max(need.own for need in stages.values())


def _gb(size):
    return f"{size / 1e9:.2f}"
