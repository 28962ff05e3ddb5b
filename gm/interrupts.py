"""Ctrl-C, SIGTERM and a terminal that is closed: a program ends in one line and leaves nothing half-made.

MindSpore works in C++ most of the time, where Python's handlers are not called; while it compiles or runs a graph it
has a handler of its own, which turns Ctrl-C into SIGTERM; and an exception amid its import aborts the interpreter. So a
program blocks the signals in all of its threads, and one thread waits for them and ends the process, without
unwinding: what has to be undone is registered here. A library that is imported elsewhere changes no signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from gm import missing

TYPE_CHECKING = False  # typing's own takes time to import, in which Ctrl-C is a traceback
if TYPE_CHECKING:
    import ctypes
    from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL = 0.1  # seconds, after which the waiting thread looks for signals, and whether there is a library
_GRACE = 3  # seconds

# Taken for good by what ends the process: whoever makes, names or removes a file holds it, or stops here.
lock = threading.RLock()
_undo: list[Callable[[], object]] = []  # functions, called in reverse
# Functions of a signal's number -> whether it is dealt with; the last one is asked first.
_listeners: list[Callable[[int], bool]] = []
_waiting: set[signal.Signals] | None = None  # the numbers that a thread waits for
_library: ctypes.CDLL | None = None  # see `use`


def catch() -> None:
    """Wait for the signals from here on; the first thing that a program does. Ignored ones (nohup) stay ignored."""
    global _waiting
    if _waiting is None:
        sys.excepthook = missing.hook  # the imports come next, and libraries may not be there
        _waiting = {number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}
        signal.pthread_sigmask(signal.SIG_BLOCK, _waiting)  # threads started later inherit it
        threading.Thread(target=_wait, args=(_waiting,), name="signals", daemon=True).start()


def use(library: str) -> None:
    """Let the compiled kernels at this path wait in place of Python, in a program; elsewhere without effect.

    Python hears of a signal only where MindSpore gives its lock away, and in large graphs it keeps that for seconds (18
    seen, on a busy machine). The kernels need no lock: `_GRACE` seconds later they end the process by themselves.
    """
    global _library
    if _waiting is not None:
        import ctypes  # not before `catch`, up to which Ctrl-C is a traceback

        _library = ctypes.CDLL(library)


def finish_first(yes: bool) -> None:
    """Say whether what the process does now must be finished before a signal may end it without asking Python."""
    if _library is not None:
        _library.FinishFirst(int(yes))


@contextlib.contextmanager
def undone_by(function: Callable[[], object]) -> Iterator[None]:
    """While the body runs, an interrupt calls `function` before the process ends."""
    add(function)
    try:
        yield
    finally:
        remove(function)


def add(function: Callable[[], object]) -> None:
    with lock:
        _undo.append(function)


def remove(function: Callable[[], object]) -> None:
    with lock, contextlib.suppress(ValueError):
        _undo.remove(function)


@contextlib.contextmanager
def listener(function: Callable[[int], bool]) -> Iterator[None]:
    """While the body runs, function(number) is asked first: where it returns True the process goes on."""
    _listeners.append(function)
    try:
        yield
    finally:
        _listeners.remove(function)


def say(line: str) -> None:
    """A line on stderr, below a progress bar; from any thread, whatever the others are doing."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode())


def receive(number: int) -> None:
    """What happens when a signal has come."""
    if not any(function(number) for function in reversed(_listeners)):
        end(number)


def end(number: int) -> NoReturn:
    """Undo what is under way, say so and end the process with the shell's own status for this signal."""
    lock.acquire()  # never given back
    for function in reversed(_undo):
        with contextlib.suppress(Exception):
            function()
    say("interrupted")
    os._exit(128 + number)


def _wait(numbers: set[signal.Signals]) -> NoReturn:
    while True:
        if _library is not None:
            number = _library.WaitForSignal(_GRACE)
        else:
            # Nothing is waited for in sigtimedwait: stopped there (Ctrl-Z) and continued after the time-out, CPython
            # returns a signal that nobody sent.
            time.sleep(_POLL)
            found = signal.sigtimedwait(numbers, 0)
            number = 0 if found is None else found.si_signo
        if number:
            receive(number)
