"""One queue for everybody who has the page open: requests are done one after the other, in the order they came.

    ticket = queue.submit(Make(...))
    queue.place(ticket)     # how many are before it, None once it has ended
    queue.cancel(ticket)
    queue.find(ticket.key)  # the same ticket, for a page that was loaded anew

The one under way is finished, whether its page is open or not; one that waits is given up where its page has been away
for ten minutes, so that nobody waits for what nobody wants.

A thread hands the requests to the model's process. A request for another model than the one there ends that process,
which gives all of its memory back, and starts a new one; so does the end of a process that crashed, and a request to
one that has compiled the network for many sizes.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gm.errors import UserError
from gm.events import Compiling, Loading, Sampling, Started, Warned, Written
from gm.web.messages import Cancel, Ended, Glimpse, Make, Measured, Ready
from gm.web.process import Gone, Process

if TYPE_CHECKING:
    import numpy as np

    from gm.events import Event
    from gm.options import ModelSettings
    from gm.web.messages import Load, Message

_MOST_WAITING = 20  # requests, each with pictures in memory
_MOST_KEPT = 20  # of those that have ended
_MOST_AWAY = 600  # seconds; a browser lets a page in the background speak once a minute
_MOST_SIZES = 8  # that one process compiles the network for: MindSpore keeps what it compiled as long as the process is


@dataclass
class Result:
    """One video. written: `gm.events.Written` without its frames. numbers: of `gm.data.metrics.evaluate`."""

    written: Written
    numbers: dict[str, float] = field(default_factory=dict)


class Ticket:
    """One request and what became of it. It is written to by the queue's thread alone; readers see whole values."""

    def __init__(self, number: int, request: Load | Make) -> None:
        self.number, self.request = number, request
        self.key = secrets.token_urlsafe(9)  # nobody guesses it: whoever has it may cancel
        self.seen = time.monotonic()  # when its page was last known to be open
        self.event: Event | None = None  # the last of gm.events that says what is done now
        self.since = time.monotonic()  # when it came
        self.started: Started | None = None  # `gm.events.Started` of the video under way
        self.segment = 0  # of it, counted from 1
        self.warnings: list[str] = []
        self.results: list[Result] = []
        self.glimpse: np.ndarray | None = None  # small frames uint8 (t, h, w, 3)
        self.ended: Ended | None = None
        self.cancelled = False  # asked for
        self._steps: list[tuple[float, int]] = []  # (time, steps done) of the segment under way

    @property
    def sweep(self) -> bool:
        return isinstance(self.request, Make) and len(self.request.videos) > 1

    def receive(self, event: Message) -> None:
        now = time.monotonic()
        if isinstance(event, Glimpse):
            self.glimpse = event.frames
        elif isinstance(event, Measured):
            self.results[-1].numbers = event.numbers
        elif isinstance(event, Written):
            self.results.append(Result(event))
        elif isinstance(event, Warned):
            self.warnings.append(event.text)
        elif isinstance(event, Ready):
            self.warnings += event.warnings
        else:
            self.event, self.since = event, now
        if isinstance(event, Started):
            self.started, self.glimpse, self.segment = event, None, 0
        if isinstance(event, Sampling):
            if event.done == 0:
                self.segment, self._steps = self.segment + 1, []
            self._steps.append((now, event.done))

    def seconds_left(self) -> float | None:
        """Of this segment's sampling, from its speed so far; None while that is not known."""
        event = self.event
        if isinstance(event, Sampling) and len(self._steps) > 2:  # the first step compiles, or fills caches
            (first, begun), (last, done) = self._steps[1], self._steps[-1]
            return max(0.0, (last - first) / (done - begun) * (event.total - done) - (time.monotonic() - last))
        return None


class Queue:
    """See the module. start: for tests, makes a `gm.web.process.Process`."""

    def __init__(self, start: Callable[[], Process] = Process) -> None:
        self._start = start
        self._waiting: list[Ticket] = []
        self._done: list[Ticket] = []  # the last ones
        self._running: Ticket | None = None
        self._closed = False
        self._change = threading.Condition()
        self._numbers = itertools.count(1)
        self.process: Process | None = None
        self.model: ModelSettings | None = None  # of the process
        self.ready: Ready | None = None  # of it
        self.loaded = False  # whether all of its parts are
        self.sizes = 0  # that it compiled the network for
        self._thread = threading.Thread(target=self._serve, name="queue", daemon=True)
        self._thread.start()

    def submit(self, request: Load | Make) -> Ticket:
        """UserError where `_MOST_WAITING` requests wait: a page that is loaded anew can send another one each time."""
        with self._change:
            self._give_up()
            if len(self._waiting) >= _MOST_WAITING:
                raise UserError(f"{_MOST_WAITING} requests wait already, which is the most: try again later")
            ticket = Ticket(next(self._numbers), request)
            self._waiting.append(ticket)
            self._change.notify_all()
        return ticket

    def place(self, ticket: Ticket) -> int | None:
        """0 for the one under way, else how many come before it; None for one that has ended. Open pages ask."""
        with self._change:
            ticket.seen = time.monotonic()
            self._give_up()
            if ticket is self._running:
                return 0
            return self._waiting.index(ticket) + (self._running is not None) if ticket in self._waiting else None

    def find(self, key: str) -> Ticket | None:
        """The ticket of a key; None for one that is unknown, or ended long ago."""
        with self._change:
            known = (*self._waiting, *([self._running] if self._running else []), *self._done)
            return next((ticket for ticket in known if ticket.key == key), None)

    def length(self) -> int:
        """Requests that are under way or wait."""
        with self._change:
            return len(self._waiting) + (self._running is not None)

    def cancel(self, ticket: Ticket) -> None:
        """A request that waits is taken out at once; the one under way stops after the step that it is in."""
        with self._change:
            ticket.cancelled = True
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._end(ticket, Ended(cancelled=True))
            elif ticket is self._running and self.process is not None:
                self.process.send(Cancel(ticket.number))

    def close(self) -> None:
        """End the thread and the process."""
        with self._change:
            self._closed = True
            self._change.notify_all()
            process = self.process
        if process is not None:
            process.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self._give_up()
                if not self._waiting:
                    continue
                ticket = self._running = self._waiting.pop(0)
            ended = self._do(ticket)
            with self._change:
                self._running = None
                self._end(ticket, ended)

    def _end(self, ticket: Ticket, ended: Ended) -> None:
        """With the lock."""
        ticket.ended = ended
        self._done = [*self._done, ticket][-_MOST_KEPT:]

    def _give_up(self) -> None:
        """Take those out whose pages have been away for too long; with the lock."""
        latest = time.monotonic() - _MOST_AWAY
        for ticket in [one for one in self._waiting if one.seen < latest]:
            self._waiting.remove(ticket)
            self._end(ticket, Ended(f"given up: its page was closed for {_MOST_AWAY // 60} minutes while it waited"))

    def _do(self, ticket: Ticket) -> Ended:
        try:
            process = self._require(ticket.request.model)
            process.send((ticket.number, ticket.request))
            if ticket.cancelled:  # while the process was started
                process.send(Cancel(ticket.number))
            while True:
                event = process.receive()
                if isinstance(event, Ended):
                    if event.fault and self.ready is None:  # it holds no model
                        self._end_process()
                    return event
                self._note(event)
                ticket.receive(event)
        except Gone as error:
            self._end_process()
            return Ended(f"the model's process has ended: {error}. The next request starts a new one")
        except OSError as error:
            self._end_process()
            return Ended(f"the model's process could not be started: {error.strerror or error}")
        except Exception as error:  # without this thread all others would wait for ever
            traceback.print_exc()
            self._end_process()
            return Ended(f"a fault of the program, please report it: {type(error).__name__}: {error}")

    def _note(self, event: Message) -> None:
        if isinstance(event, Ready):
            self.ready = event
        elif isinstance(event, Loading) and event.part == "decoder" and event.done == event.total:
            self.loaded = True  # it is the last
        elif isinstance(event, Compiling):
            self.sizes += 1

    def _require(self, model: ModelSettings) -> Process:
        used_up = self.model != model or self.sizes >= _MOST_SIZES
        if self.process is not None and (used_up or not self.process.alive()):
            self._end_process()
        process = self.process
        if process is None:
            process = self._start()
            with self._change:
                self.process, self.model = process, model
        return process

    def _end_process(self) -> None:
        with self._change:
            process, self.process, self.model, self.ready = self.process, None, None, None
            self.loaded, self.sizes = False, 0
        if process is not None:
            process.close()
