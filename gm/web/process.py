"""The model's process as the page's process sees it: started, written to, read from, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

PROGRAM = (sys.executable, "-m", "gm.web.worker")
_SECONDS = 5  # to end by itself


class Gone(Exception):
    """The process has ended by itself; says how."""


class Process:
    """A process that runs `gm.web.worker`, and the only pair of sockets to it: what is unpickled comes from there.

    program: for tests, the command before the number of the socket.
    """

    def __init__(self, program: Sequence[str] = PROGRAM) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._process = subprocess.Popen(
                [*program, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ,
            )
            self._connection = Connection(ours.detach())
        self._lock = threading.Lock()  # requests and their cancelling come from different threads

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: object) -> None:
        """`Gone` is left to `receive`, where what was said before can still be read."""
        with self._lock, contextlib.suppress(OSError):
            self._connection.send(message)

    def receive(self) -> Any:
        """The next message. Gone where there will be none."""
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            raise Gone(self._how_it_ended()) from error

    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End it, whatever it does."""
        self._connection.close()
        self._process.terminate()
        try:
            self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            return "it does not answer any more"
        if status == -signal.SIGKILL:
            return "it was killed, as systems do when memory is out: take a smaller size or fewer frames"
        return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
