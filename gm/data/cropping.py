"""The part of the picture that a row of a list keeps: what its column `crop` says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gm.errors import UserError

if TYPE_CHECKING:
    import numpy as np

_CELL = re.compile(r"(\d{1,9}):(\d{1,9}):(\d{1,9}):(\d{1,9})")


class Crop(NamedTuple):
    """Pixels of the picture as a player shows it; x, y: of the left upper corner."""

    width: int
    height: int
    x: int
    y: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def fault(self, size: Sequence[int]) -> str | None:
        """What is wrong with it in a picture of size (height, width); None if nothing is."""
        height, width = size
        if self.x + self.width <= width and self.y + self.height <= height:
            return None
        return f"crop {self} does not lie within the picture, which is {width}x{height}"

    def of(self, frames: np.ndarray, path: str | Path) -> np.ndarray:
        """uint8 (t, h, w, 3) → the part of it. UserError, naming the file, where it is not within."""
        fault = self.fault(frames.shape[1:3])
        if fault:
            raise UserError(f"{path}: {fault}")
        return frames[:, self.y : self.y + self.height, self.x : self.x + self.width]

    def __str__(self) -> str:
        return f"{self.width}:{self.height}:{self.x}:{self.y}"


def read_crop(cell: str) -> Crop | None:
    """The Crop that a cell names, "width:height:x:y" as ffmpeg's filter takes it; None for an empty one. ValueError."""
    if not cell:
        return None
    found = _CELL.fullmatch(cell)
    crop = found and Crop(*map(int, found.groups()))
    if not crop or not crop.width or not crop.height:
        raise ValueError(cell)
    return crop
