"""A library that is not installed: a program says so in a line, with what to do. Nothing here takes long to import."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    from types import TracebackType


def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For `sys.excepthook` of a program, which has no `gm.errors.run_cli` yet while it imports."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name in ("", "gm", "svd_tools"):
        sys.__excepthook__(kind, error, trace)
        return
    from gm import places

    version = ".".join(map(str, sys.version_info[:2]))
    lines = [
        f"error: {name!r} is not installed for {sys.executable} (Python {version}).",
        "Where the program's environment is made, it is to be activated in this shell, such as by",
        "  source .venv/bin/activate",
        "Else, with Python 3.9 to 3.12:",
        "  python -m pip install " + ("svd-mindspore" if places.INSTALLED else "-r requirements.txt"),
    ]
    print("\n".join(lines), file=sys.stderr)
