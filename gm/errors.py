"""Mistakes that the user can mend: told in one message, never as a traceback."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from gm import interrupts, streams


class UserError(Exception):
    """A wrong input, option or file. The message names the value and the remedy."""


class EndsAll(UserError):
    """One that nothing can go on after, neither with another picture."""


# What MindSpore, its devices, the loader of libraries and the system say when memory is out, each in words of its own.
_OUT_OF_MEMORY = re.compile(
    "bad_alloc|out of memory|memory failed|cannot allocate memory|failed to map segment|memory not enough|"
    "memory isn't enough|unable to allocate",
    re.IGNORECASE,
)


@contextlib.contextmanager
def memory_faults(advice: str = "take a smaller size or fewer frames, or free some memory") -> Iterator[None]:
    """Exceptions of the body that mean that memory is out become a UserError that says so, and the advice."""
    try:
        yield
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        # MindSpore's devices say it below a headline of dashes.
        told = [line.strip(" -:") for line in str(error).splitlines() if _OUT_OF_MEMORY.search(line)]
        if not isinstance(error, MemoryError) and not told:
            raise
        raise UserError(f"out of memory ({max(told, key=len, default=type(error).__name__)}): {advice}") from error


def run_cli(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """Call `main(argv)` as a program: its return value, or 1 after a printed UserError, is the exit status.

    Ctrl-C, SIGTERM and SIGHUP end it with one line and the shell's status for them, see `gm.interrupts`. What cannot be
    printed stops nothing; where stdout is full, the status is 1 at the end.
    """
    from gm import compile_cache

    streams.open_missing()
    interrupts.catch()
    output = streams.make_safe()
    compile_cache.ignore_environment()
    try:
        _require_folder()
        with memory_faults():
            status = main(argv) or 0
    except UserError as error:
        with interrupts.lock:  # an interrupt takes files away, of which no more need be said
            print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.stdout.flush()
    reason = streams.lost(output)
    if reason is not None:
        print(f"error: not all that was to be printed could be written: {reason}", file=sys.stderr)
        status = status or 1
    sys.exit(status)


def _require_folder() -> None:
    """UserError where the folder that the program was started in has been removed: MindSpore asks for its name."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            f"the folder that this was started in cannot be found ({error.strerror}): cd into another"
        ) from error
