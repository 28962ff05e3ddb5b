"""Whether the memory suffices, and how much of it attention's scores may take; no mindspore here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from gm.errors import UserError
from gm.system import available_memory, resident_memory

if TYPE_CHECKING:
    from gm.estimate import Need

_UNITS = {
    "": 1,
    **{
        f"{letter}{end}": base**power
        for power, letter in enumerate("KMGT", 1)
        for end, base in (("B", 1000), ("IB", 1024))
    },
    "B": 1,
}
# Scores are float32 and may take a sixteenth of the budget: their softmax takes as much again, and the rest of the
# network lies beside them.
_SHARE = 16
_BYTES_PER_SCORE = 4
FEWEST_SCORES, MOST_SCORES = 2**16, 2**28


def parse_size(text: str | int) -> int:
    """Bytes of a size such as "8GB", "7.5GiB", "500MB" or "8000000000"; capitals do not matter.

    Raises:
        UserError: naming a text that is no size, or one below a byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)?\s*", str(text), re.IGNORECASE)
    unit = (found[2] or "").upper() if found else None
    size = int(Decimal(found[1]) * _UNITS[unit]) if found and unit in _UNITS else 0
    if size < 1:
        raise UserError(f"memory size {text!r}: write for instance 8GB, 8GiB, 500MB or a number of bytes above 0")
    return size


def attention_scores(budget: float) -> int:
    """How many attention scores may be held at once with a budget in bytes: a power of two within the limits above."""
    scores = int(budget) // (_SHARE * _BYTES_PER_SCORE)
    return min(max(1 << max(scores.bit_length() - 1, 0), FEWEST_SCORES), MOST_SCORES)


def report(stages: Mapping[str, Need]) -> str:
    """The text that --dry_run prints: a line for each stage, with its largest parts."""
    lines = []
    for name, need in stages.items():
        parts = sorted(need.parts.items(), key=lambda part: -part[1])
        shown = ", ".join(f"{what} {_gb(size)}" for what, size in parts if size >= 5e6)
        pages = f", pages of files {_gb(need.mapped)}" if need.mapped else ""
        lines.append(f"{name:>14s} {need.total / 1e9:7.2f} GB: {shown}{pages}")
    return "\n".join(lines)


def check(
    stages: Mapping[str, Need],
    remedies: Iterable[tuple[str, Callable[[], Mapping[str, Need]]]] = (),
    available: int | None = None,
    resident: int | None = None,
) -> str:
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


def advice(stages: Mapping[str, Need]) -> str:
    """What to say when memory ran out all the same."""
    stage = max(stages, key=lambda name: stages[name].own)
    return (
        f"the estimate was {stages[stage].own / 1e9:.1f} GB in {stage}, --dry_run shows of what; take a smaller "
        "size or fewer frames, or free some memory"
    )


def peak(stages: Mapping[str, Need]) -> float:
    """The most bytes of its own that the process holds in any stage."""
    return max(need.own for need in stages.values())


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f}"
