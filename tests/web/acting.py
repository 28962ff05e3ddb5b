"""In place of gm.web.worker in tests of the queue: no model, and it does what the picture's name says.

slow: steps of 0.05 s until it is cancelled. size: compiles first. crash: kills itself after a step. bad: a UserError.
Else two steps.
"""

import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from gm.errors import UserError
from gm.events import Compiling, Sampling, Started, Written
from gm.web import worker
from gm.web.messages import Load, Ready


class Actor:
    ready = False

    def answer(self, request):
        if not self.ready:
            self.ready = True
            yield Ready(None, [])
        if isinstance(request, Load):
            return
        name = request.picture.path.stem
        yield Started(Path(name), 0, 1, 1)
        if name == "size":
            yield Compiling()
        steps = 1000 if name == "slow" else 2
        for step in range(steps + 1):
            time.sleep(0.05)
            yield Sampling(step, steps)
            if step == 1 and name == "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            if step == 1 and name == "bad":
                raise UserError("this cannot be")
            if step == 1 and name == "fault":
                raise ZeroDivisionError("of the program")
        yield Written(Path(name), {}, {"pid": os.getpid()}, {}, None)


worker.serve(Connection(int(sys.argv[1])), Actor())
