"""What was sampled is not lost because it cannot be written: it is kept in another form, and the message says where."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np

from gm.data.outputs import write_npy
from gm.data.videos import write_frames
from gm.errors import UserError


class Rescue:
    """`with Rescue(base) as rescue:` make and write a video; set `rescue.latents`, float32 (t, z, h/8, w/8), and
    `rescue.frames`, of all of them, once there are some.

    Where the body fails, the frames are kept as <base>_frames, or else the latents as <base>.npy, or that in the
    system's folder for temporary files, and a UserError of the body says so; for any other error a line is printed.

    Args:
        base: base name of the video's files.
    """

    def __init__(self, base: str | Path) -> None:
        self.base = Path(base)
        self.latents: np.ndarray | None = None
        self.frames: np.ndarray | None = None

    def __enter__(self) -> Rescue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> Literal[False]:
        if error is None or not isinstance(error, Exception):
            return False
        place = self._keep()
        if place is not None and isinstance(error, UserError):
            raise UserError(f"{error}; {place}") from error
        if place is not None:
            print(place, file=sys.stderr)
        return False

    def _keep(self) -> str | None:
        if self.frames is not None:
            path = Path(f"{self.base}_frames")
            with contextlib.suppress(UserError):
                write_frames(self.frames, path)
                return f"the frames are kept in {path}"
        if self.latents is not None and np.isfinite(self.latents).all():
            for folder in (lambda: self.base.parent, lambda: tempfile.mkdtemp(prefix="svd-")):
                with contextlib.suppress(UserError, OSError):
                    path = Path(folder()) / f"{self.base.name}.npy"
                    write_npy(self.latents, path)
                    return f"what was sampled is kept as latents in {path}"
        return None
