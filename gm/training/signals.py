"""Stopping on request without losing work."""

from __future__ import annotations

import signal


class StopOnSignal:
    """`with StopOnSignal() as stop:` SIGTERM or Ctrl-C sets `stop.requested` instead of ending the process.

    The step that is being computed is finished first. A second signal ends the process at once, as without this.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.requested = False
        self._old = {}

    def __enter__(self):
        self._old = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        self.requested = True
        for other, handler in self._old.items():
            signal.signal(other, handler)
