"""8-bit YCbCr 4:2:0, which nearly all videos are, → RGB with the colours between interpolated.

In integers, by compiled C++ (`gm.cpp`) or else, about ten times slower, by NumPy: the bytes are the same. Exact but for
rounding: within 1 of what ITU-T H.273 says for the colours found, and within 2 of ffmpeg's
`bicubic+accurate_rnd+full_chroma_int`, whose filter and place of the colours these are.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gm import cpp

# Weights in 1/2**15: swscale's bicubic filter (B = 0, C = 0.6) at 1/4, 3/4, 5/4 and 7/4 samples. Each sample lies in
# the middle of its four pixels.
_WEIGHTS = 28570, 7885, -2765, -922
_THIRD = 27788, 7669, -2689, 0  # of the third pixel of a line, and the third line: swscale leaves the last sample out
_MOST = 128 * 128 - 1  # swscale's upper limit of an interpolated colour, in 1/128
_LINES = 32  # of colours, which NumPy takes at a time: they stay in the processor's cache


def numbers(red: float, blue: float, full: bool) -> np.ndarray:
    """int16 (15,): what `to_rgb` computes with. red, blue: the colour matrix's K_R and K_B; full: whether the range is.

    ITU-T H.273, equations 8-19 to 8-40. Light and colours come in 1/128, products leave in 1/32, hence the 4.
    """
    light, colour, black = (1, 1, 0) if full else (255 / 219, 255 / 224, 16)
    green = 1 - red - blue
    factors = [
        light,
        2 * (1 - red) * colour,
        -2 * blue * (1 - blue) / green * colour,
        -2 * red * (1 - red) / green * colour,
        2 * (1 - blue) * colour,
    ]
    factors = [round(factor / 4 * 2**15) for factor in factors]
    return np.array([*_WEIGHTS, *_THIRD, _MOST, 128 * black, *factors], np.int16)


def to_rgb(planes: Sequence[np.ndarray], chosen: np.ndarray, target: np.ndarray) -> None:
    """Put a picture into `target`, contiguous uint8 (h, w, 3), h and w even.

    planes: Y (h, w), Cb and Cr (h / 2, w / 2), uint8, lines contiguous; chosen: of `numbers`.
    """
    function = _compiled()
    if function is None:
        _by_numpy(planes, chosen, target)
        return
    addresses = (ctypes.c_void_p * 3)(*[plane.ctypes.data for plane in planes])
    strides = (ctypes.c_int64 * 3)(*[plane.strides[0] for plane in planes])
    height, width = planes[0].shape
    function(addresses, strides, width, height, chosen.ctypes.data, target.ctypes.data)


@functools.cache
def _compiled() -> Callable[..., None] | None:
    """The function in ycbcr.cpp, None where it can't be had."""
    source = Path(__file__).with_suffix(".cpp")
    path = cpp.library("ycbcr", [source], [], "reading of videos faster", "videos are read without it, slower")
    if path is None:
        return None
    function = ctypes.CDLL(path).YCbCrToRgb  # ctypes lets go of Python's lock during the call
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes, function.restype = (pointer, pointer, number, number, pointer, pointer), None
    return function


def _by_numpy(planes: Sequence[np.ndarray], chosen: np.ndarray, target: np.ndarray) -> None:
    luma, *colours = planes
    black, light, red_v, green_u, green_v, blue_u = chosen[9:].tolist()
    wide = []
    for plane in colours:
        samples = np.pad((plane.astype(np.int32) - 128) * 128, ((0, 0), (2, 2)), mode="edge")
        wide.append(np.pad(np.minimum(_between(samples, 1), _MOST), ((2, 2), (0, 0)), mode="edge"))
    for top in range(0, len(colours[0]), _LINES):
        lines = slice(2 * top, 2 * (top + _LINES))
        u, v = (_between(plane[top : top + _LINES + 4], 0, begins=top == 0) for plane in wide)
        y = _times(luma[lines].astype(np.int32) * 128 - black, light)
        rgb = y + _times(v, red_v), y + _times(u, green_u) + _times(v, green_v), y + _times(u, blue_u)
        for channel, values in enumerate(rgb):
            target[lines, :, channel] = np.clip((values + 16) >> 5, 0, 255)


def _between(samples: np.ndarray, axis: int, begins: bool = True) -> np.ndarray:
    """Twice as many values along an axis, from samples with two more at each end; begins: whether it is the first."""

    def along(start: int, stop: int | None, step: int = 1) -> tuple[slice, ...]:
        return (slice(None),) * axis + (slice(start, stop, step),)

    count = samples.shape[axis] - 4
    a, b, c, d, e = (samples[along(n, n + count)] for n in range(5))
    values = np.empty([size + count * (n == axis) for n, size in enumerate(c.shape)], np.int32)
    values[along(0, None, 2)] = _weighed(a, b, c, d, _WEIGHTS)
    values[along(1, None, 2)] = _weighed(e, d, c, b, _WEIGHTS)
    if begins:
        a, b, c, d = (part[along(1, 2)] for part in (a, b, c, d))
        values[along(2, 3)] = _weighed(a, b, c, d, _THIRD)
    return values


def _weighed(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, weights: Sequence[int]) -> np.ndarray:
    near, after, far, farthest = weights
    values = _times(c, near)
    for sample, weight in ((b, after), (d, far), (a, farthest)):
        values += _times(sample, weight)
    return values


def _times(values: np.ndarray, factor: int) -> np.ndarray:
    product = values * factor
    product += 2**14
    product >>= 15
    return product
