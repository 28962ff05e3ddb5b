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
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL = 1.0  # seconds, after which the waiting thread looks whether a better one has come

# Taken for good by what ends the process: whoever makes, names or removes a file holds it, or stops here.
lock = threading.RLock()
_undo = []  # functions, called in reverse
_listeners = []  # functions of a signal's number -> whether it is dealt with; the last one is asked first
_waiting = None  # the numbers that a thread waits for
_better = None  # see `wait_with`


def catch():
    """Wait for the signals from here on; the first thing that a program does. Ignored ones (nohup) stay ignored."""
    global _waiting
    if _waiting is None:
        _waiting = {number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}
        signal.pthread_sigmask(signal.SIG_BLOCK, _waiting)  # threads started later inherit it
        threading.Thread(target=_wait, name="signals", daemon=True).start()


def wait_with(function):
    """Let `function`, () -> number of a signal, wait in place of Python: one that can end the process by itself.

    Python hears of a signal only where MindSpore gives its lock away, which in large graphs takes many seconds.
    """
    global _better
    _better = function


@contextlib.contextmanager
def undone_by(function):
    """While the body runs, an interrupt calls `function` before the process ends."""
    add(function)
    try:
        yield
    finally:
        remove(function)


def add(function):
    with lock:
        _undo.append(function)


def remove(function):
    with lock, contextlib.suppress(ValueError):
        _undo.remove(function)


@contextlib.contextmanager
def listener(function):
    """While the body runs, function(number) is asked first: where it returns True the process goes on."""
    _listeners.append(function)
    try:
        yield
    finally:
        _listeners.remove(function)


def say(line):
    """A line on stderr, below a progress bar; from any thread, whatever the others are doing."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{line}\n".encode())


def receive(number):
    """What happens when a signal has come."""
    if not any(function(number) for function in reversed(_listeners)):
        end(number)


def end(number):
    """Undo what is under way, say so and end the process with the shell's own status for this signal."""
    lock.acquire()  # never given back
    for function in reversed(_undo):
        with contextlib.suppress(Exception):
            function()
    say("interrupted")
    os._exit(128 + number)


def _wait():
    while True:
        if _better is not None:
            receive(_better())
        else:
            found = signal.sigtimedwait(_waiting, _POLL)
            if found is not None:
                receive(found.si_signo)
