"""Stopping on request without losing work."""

from __future__ import annotations

import contextlib
import time

from gm import interrupts

_TOGETHER = 1.0  # seconds: signals so close are one request (a closing terminal sends two)


class StopOnSignal:
    """`with StopOnSignal() as stop:` a signal of `gm.interrupts` asks to stop instead of ending the process.

    It does so while there is something to save: the step that is being computed is then finished first. Another signal
    a second later or more ends the process at once, and so does the first where nothing would be lost by it.

    Attributes:
        unsaved: whether there are steps that no checkpoint has yet; for the owner to set.
        number: of the signal that asked, None as long as none did.
    """

    def __init__(self) -> None:
        self._unsaved = False
        self.number: int | None = None
        self._time = 0.0
        self._stack = contextlib.ExitStack()

    @property
    def unsaved(self) -> bool:
        return self._unsaved

    @unsaved.setter
    def unsaved(self, yes: bool) -> None:
        self._unsaved = yes
        interrupts.finish_first(yes)

    @property
    def requested(self) -> bool:
        return self.number is not None

    def __enter__(self) -> StopOnSignal:
        self._stack.enter_context(interrupts.listener(self._note))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        interrupts.finish_first(False)

    def _note(self, number: int) -> bool:
        now = time.monotonic()
        if self.number is not None:
            return now - self._time < _TOGETHER
        if not self._unsaved:
            return False
        self.number, self._time = number, now
        interrupts.say("stopping: this step is finished and saved first; once more ends it at once")
        return True
