"""Mistakes that the user can mend: told in one message, never as a traceback."""

from __future__ import annotations

import contextlib
import re
import sys


class UserError(Exception):
    """A wrong input, option or file. The message names the value and the remedy."""


# What MindSpore, its devices, the loader of libraries and the system say when memory is out, each in words of its own.
_OUT_OF_MEMORY = re.compile(
    "bad_alloc|out of memory|memory failed|cannot allocate memory|failed to map segment|memory not enough|"
    "memory isn't enough|unable to allocate", re.IGNORECASE,
)


@contextlib.contextmanager
def memory_faults(advice="take a smaller size or fewer frames, or free some memory"):
    """Exceptions of the body that mean that memory is out become a UserError that says so, and the advice."""
    try:
        yield
    except (MemoryError, RuntimeError, ImportError, OSError) as error:
        first = str(error).strip().split("\n")[0]
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(first):
            raise
        raise UserError(f"out of memory ({first or type(error).__name__}): {advice}") from error


def run_cli(main, argv=None):
    """Call `main(argv)` as a program: its return value, or 1 after a printed UserError, is the exit status.

    Ctrl-C ends with 130, the shell's own convention, and one line instead of a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # file names may hold what the terminal cannot show
    try:
        with memory_faults():
            status = main(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status or 0)
