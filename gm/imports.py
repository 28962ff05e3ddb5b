"""Importing what is large, with little work for Python's collection of garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def for_good() -> Iterator[None]:
    """For imports in a program: what there is at the end of the body is not looked at for garbage any more.

    MindSpore's modules hold 160,000 objects, and it looks through all of them before each graph. Collecting waits while
    the body runs, which finds nothing there either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
