"""The commands of an installation, `svd-convert` and so on: each is the program whose script a checkout has."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from gm import interrupts, places


def main() -> None:
    """Run the program that the command was called as (`gm.places.COMMANDS`)."""
    interrupts.catch()  # before all that takes time
    from gm.errors import run_cli

    called = Path(sys.argv[0]).name
    script = next(script for script, command in places.COMMANDS.items() if command == called)
    run_cli(importlib.import_module(script[: -len(".py")].replace("/", ".")).main)
