"""stdout and stderr that cannot stop a program: closed, full, or a pipe whose reader has gone."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_READER_GONE = (errno.EPIPE, errno.ECONNRESET)


class _Output(io.FileIO):
    """A descriptor for writing, on which a failing write is noted in `error` and otherwise passed over."""

    error: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            return len(memoryview(data))


def open_missing() -> None:
    """Open the null device as those of stdin, stdout and stderr that are closed.

    Else the next file that is opened would get the number, and messages of this program or of MindSpore would be
    written into it.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return
        os.set_inheritable(descriptor, True)


def make_safe() -> _Output | None:
    """Put a writer that cannot fail in place of the program's stdout and stderr; returns stdout's.

    Every line is written at once, as a program that is stopped writes nothing more. File names may hold what the
    terminal cannot show: such characters are written as escapes.
    """
    outputs: dict[str, _Output] = {}
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):  # else somebody has put his own there
            outputs[name] = _Output(number, "w", closefd=False)
            encoding = "utf-8" if stream is None else stream.encoding
            setattr(
                sys,
                name,
                io.TextIOWrapper(
                    io.BufferedWriter(outputs[name]),
                    encoding,
                    "backslashreplace",
                    line_buffering=True,
                    write_through=name == "stderr",
                ),
            )
    return outputs.get("stdout")


def lost(output: _Output | None) -> str | None:
    """What went wrong with an output of `make_safe`, in words, where somebody waits for its content; else None."""
    error = None if output is None else output.error
    return None if error is None or error.errno in _READER_GONE else error.strerror
