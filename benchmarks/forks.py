"""Programs in forks of this process, which has imported the libraries already: seconds each, not tens of seconds."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback

LIBRARIES = ("mindspore", "mindspore.nn", "mindspore.ops", "numpy", "cv2", "PIL.Image", "safetensors.numpy", "pandas")
OURS = ("gm", "svd_tools", "tests", "image_to_video", "train")  # imported anew in every fork
_CRASHED = 70  # the exit status of an exception


def import_libraries():
    """What every fork would import; to be called first."""
    for name in LIBRARIES:
        importlib.import_module(name)


class Fork:
    """function() in a fork whose output goes to the file `log`; its value, an int, is the exit status."""

    def __init__(self, function, log, cwd):
        self.log, self.returncode = log, None
        self.pid = os.fork()
        if not self.pid:
            os._exit(_run(function, log, cwd))

    def ended(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode is not None

    def wait(self, limit=float("inf")):
        """Whether it ended within `limit` seconds; it is killed where it did not."""
        end = time.monotonic() + limit
        while not self.ended():
            if time.monotonic() > end:
                self.kill()
                return False
            time.sleep(0.02)
        return True

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def text(self):
        return self.log.read_text(encoding="utf-8", errors="replace")


def _run(function, log, cwd):
    """The exit status of function(), in the process that it is called in, which has to end then."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
            del sys.modules[name]
        os.chdir(cwd)
        status = int(function())
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # the parent's own handlers are not for this process
        traceback.print_exc()
        status = _CRASHED
    sys.stdout.flush()
    sys.stderr.flush()
    return status
