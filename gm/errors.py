"""Mistakes that the user can mend: told in one message, never as a traceback."""

from __future__ import annotations

import sys

from gm import interrupts, streams


class UserError(Exception):
    """A wrong input, option or file. The message names the value and the remedy."""


def run_cli(main, argv=None):
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
