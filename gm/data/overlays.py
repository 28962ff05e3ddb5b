"""Letterbox bars, and text or logos burnt into a moving picture, from a few frames of one scene. Plain measures.

Bars are rows and columns at the edges that are nearly black and nearly even in every frame. Not found: bars with
subtitles or a logo in them, coloured or blurred ones.

An overlay is a place with sharp edges, upright and level ones, that stay where they are in every frame while at least
half of what is around them changes. Found: station logos, watermarks, captions that stay for the whole scene. Not
found: subtitles that change within the scene, faint or moving marks, and anything where the picture behind does not
move. Wrongly found: what belongs to the scene and stays before something that moves, such as a dashboard, and at times
the point that a zoom leaves where it is.
"""

from __future__ import annotations

import cv2
import numpy as np

_DARK, _EVEN = 20.0, 8.0  # mean and deviation of a bar's row, of 255
_LEAST_BAR = 0.01  # of the side
_SIDE = 360  # shortest side, in pixels, of the pictures in which overlays are looked for
_EDGE, _CHANGE = 24.0, 25.0  # grey values: across an edge, from pixel to pixel; over time, around it
_DENSE = 0.04  # share of pixels that are edges, of each kind
_BOX, _AROUND = 1 / 24, 1 / 6  # of the shortest side: a place with edges; what is around it


class Overlays:
    """Take frames of one scene by `add`, then ask `crop` and `overlay`."""

    def __init__(self) -> None:
        self._bars: list[np.ndarray] = []
        self._edges: list[np.ndarray] = []
        self._range: list[np.ndarray] = []

    def add(self, frame: np.ndarray) -> None:
        """frame: uint8 (h, w, 3)."""
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        exact = grey.astype(np.float32)
        bars = [(exact.mean(axis) <= _DARK) & (exact.std(axis) <= _EVEN) for axis in (1, 0)]
        scale = min(1.0, _SIDE / min(grey.shape))
        size = [max(1, round(side * scale)) for side in grey.shape[::-1]]
        small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        edges = [np.abs(cv2.Sobel(small, cv2.CV_32F, *order, scale=1 / 8)) for order in ((1, 0), (0, 1))]
        if not self._bars:
            self._bars, self._edges, self._range = bars, edges, [small, small]
            return
        self._bars = [old & new for old, new in zip(self._bars, bars)]
        self._edges = [np.minimum(old, new) for old, new in zip(self._edges, edges)]
        self._range = [np.minimum(self._range[0], small), np.maximum(self._range[1], small)]

    def crop(self) -> str:
        """ "w:h:x:y", as ffmpeg's filter crop takes it, of the picture without its bars; "" where there are none."""
        (top, bottom), (left, right) = (_inside(bar) for bar in self._bars)
        height, width = (len(bar) for bar in self._bars)
        if (top, bottom, left, right) == (0, height, 0, width) or top >= bottom or left >= right:
            return ""
        return f"{right - left}:{bottom - top}:{left}:{top}"

    def overlay(self) -> float:
        """Per cent of the picture that is covered by what looks like text or a logo; 0 where none is found."""
        dense = [_share(edge > _EDGE, _BOX) >= _DENSE for edge in self._edges]
        around = _share(self._range[1] - self._range[0] > _CHANGE, _AROUND) >= 0.5
        return 100.0 * float((dense[0] & dense[1] & around).mean())


def _share(where: np.ndarray, side: float) -> np.ndarray:
    """Of a bool (h, w), for each pixel the share that is True in the square around it of that share of the side."""
    pixels = round(side * min(where.shape)) | 1
    return cv2.blur(where.astype(np.float32), (pixels, pixels))


def _inside(bar: np.ndarray) -> tuple[int, int]:
    """(first, after the last) of the rows that are not in the bars at both ends."""
    inner = np.flatnonzero(~bar)
    if not len(inner):
        return 0, len(bar)  # all black: no bars
    least = _LEAST_BAR * len(bar)
    start, end = int(inner[0]), int(inner[-1]) + 1
    return (start if start >= least else 0), (end if len(bar) - end >= least else len(bar))
