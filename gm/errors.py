"""Mistakes that the user can mend: told in one message, never as a traceback."""

from __future__ import annotations

import sys


class UserError(Exception):
    """A wrong input, option or file. The message names the value and the remedy."""


def run_cli(main, argv=None):
    """Call `main(argv)` as a program: its return value, or 1 after a printed UserError, is the exit status.

    Ctrl-C ends with 130, the shell's own convention, and one line instead of a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # file names may hold what the terminal cannot show
    try:
        status = main(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status or 0)
