"""The process that holds the model: `python -m gm.web.worker DESCRIPTOR`, started by `gm.web.process`.

It reads (number, request) from its end of a pair of sockets and writes events until `Ended`. It ends when the other end
is closed. Everything that needs mindspore happens here, so that what goes wrong there leaves the page alone.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all that takes time
    from gm import interrupts

    interrupts.catch()

import contextlib
import sys
import traceback
from collections.abc import Generator, Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, NoReturn

from gm.data import metrics
from gm.errors import UserError, memory_faults
from gm.events import Sampling, Written
from gm.web.messages import Cancel, Ended, Glimpse, Load, Measured, Ready

if TYPE_CHECKING:
    from gm.events import Event, Loading
    from gm.loaded import Model
    from gm.picture import Picture
    from gm.web.messages import Make, Message


class Holder:
    """The model of this process: the first that is asked for. Another one gets a process of its own."""

    def __init__(self) -> None:
        self.model: Model | None = None

    def answer(self, request: Load | Make) -> Generator[Message, None, None]:
        """A generator of the events of a request. UserError for what cannot be."""
        from gm import video_memory
        from gm.job import Job
        from gm.loaded import Model

        if self.model is None:
            self.model = Model(request.model)
            yield Ready(video_memory.basis(self.model.pipeline), self.model.warnings())
        if isinstance(request, Load):
            Job(self.model, request.video).check_memory(request.size)
            yield from load(self.model)
            return
        for settings in request.videos:
            with contextlib.closing(Job(self.model, settings, "app.py").run(request.picture)) as events:
                for event in events:
                    yield from shown(event, request.picture)


def load(model: Model) -> Iterator[Loading]:
    """Load all parts of a `gm.loaded.Model`, unless it holds one at a time: a generator of `gm.events.Loading`."""
    from gm.events import Loading
    from gm.parts import PARTS

    for part, name in PARTS.items() if not model.settings.low_memory else ():
        for done, total in model.pipeline.load(part):
            yield Loading(name, done, total)


def shown(event: Event, picture: Picture) -> Iterator[Message]:
    """What the page gets of a job's event: nothing that is large, and the measures of a video."""
    if isinstance(event, Sampling) and event.preview is not None:
        yield Glimpse(event.preview())
        event = event._replace(preview=None)
    if isinstance(event, Written):
        yield event._replace(frames=None)
        frames = event.frames
        if frames is not None and len(frames) > 1:
            yield Measured(event.video, metrics.evaluate(frames, event.record["fps"], picture.image))
        return
    yield event


def serve(connection: Connection, holder: Holder) -> NoReturn:
    """Answer requests until the other end is closed."""
    while True:
        message = connection.recv()
        if isinstance(message, Cancel):  # it came too late
            continue
        number, request = message
        connection.send(work(connection, holder, number, request))


def work(connection: Connection, holder: Holder, number: int, request: Load | Make) -> Ended:
    """Send the events of one request; returns its `Ended`."""
    try:
        with memory_faults(), contextlib.closing(holder.answer(request)) as events:
            for event in events:
                connection.send(event)
                while connection.poll():
                    if connection.recv() == Cancel(number):
                        return Ended(cancelled=True)
    except UserError as error:
        return Ended(str(error))
    except (BrokenPipeError, EOFError):
        raise
    except Exception as error:  # a fault of the program: the page says so and goes on, the terminal has the rest
        traceback.print_exc()
        return Ended(f"a fault of the program, please report it: {type(error).__name__}: {error}")
    return Ended()


def main(descriptor: int) -> None:
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the page has gone
        serve(Connection(descriptor), Holder())


if __name__ == "__main__":
    main(int(sys.argv[1]))
