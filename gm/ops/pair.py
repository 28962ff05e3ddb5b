"""Two devices for one video: each computes one half of classifier-free guidance, and both get both.

They meet by files before each sum over both: a device that waits in it for the other one, which still decodes or
compiles, is given up by the library after half a minute (MindSpore 2.8.0 on CPUs).
"""

from __future__ import annotations

import atexit
import zlib
from pathlib import Path

import numpy as np

from gm.errors import UserError
from gm.ops import parallel
from gm.sharing import folder, launcher

_LARGEST = 2**24  # whole numbers up to it are exact in float32


class Pair:
    """This process and the other one of the two that MindSpore's launcher started. Call after `gm.ops.set_device`.

    rank: 0 has the unconditional half, and writes; 1 the conditional one.
    """

    def __init__(self) -> None:
        parallel.init()
        self.rank, self._place, self._meetings = parallel.rank(), 0, 0
        self._run: folder.RunFolder | None = None

    def meet_in(self, place: str | Path) -> None:
        """Meet the other device by files in this folder from here on. UserError where it does not see it."""
        if self._run is None:
            worker = launcher.worker()  # there is one: this process has joined the launcher's others
            self._run = folder.join(place, worker, ())  # type: ignore[arg-type]  # see above
            if self.rank == 0:
                atexit.register(self._run.remove)

    def begin(self, what: str) -> None:
        """What both do next, in words that are the same for both."""
        self._place = zlib.crc32(what.encode(errors="replace")) % _LARGEST

    def both(self, own: np.ndarray) -> np.ndarray:
        """(the unconditional half, the conditional one), float32 arrays of the same shape, from this device's own.

        Raises:
            UserError: the other device is at another video or step.
        """
        self._place = (self._place + 1) % _LARGEST
        told = np.zeros((2, own.size + 1), np.float32)  # the other's row is zero: the sum is exact
        told[self.rank, :-1], told[self.rank, -1] = own.ravel(), self._place
        self._meetings += 1
        if self._run is not None:
            self._run.meet(self.rank, self._meetings)
        found = parallel.total(told)
        if found[0, -1] != found[1, -1]:
            raise UserError(
                "the two devices of --guidance_devices=2 are not at the same step: they must see the same "
                "pictures and the same output folder"
            )
        return found[:, :-1].reshape(2, *own.shape)
