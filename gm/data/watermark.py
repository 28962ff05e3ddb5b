"""The invisible mark that the original script puts on every frame it writes: 48 bits that name the generator.

Method "dwtDct" of the library invisible-watermark 0.2.0 as `simple_video_sample.py` uses it; in spite of the name no
DCT is taken. The bits lie in U, the blue difference: one level of Haar wavelets, whose low band (half the height and
width) is cut into 4x4 blocks. The largest entry of each block is moved to the middle of the lower half (bit 0) or of
the upper half (bit 1) of a step of 36. The message repeats over the blocks, row by row. The library itself is not used
because it needs PyTorch.
"""

from __future__ import annotations

import cv2
import numpy as np

from gm.errors import UserError

WATERMARK = 0xB3EC907BB19E
_BITS = 48
_STRENGTH = np.float32(36)
_BLOCK = 4
_MIN_PIXELS = 256 * 256
FOUND = 41  # bits that agree: sum(comb(48, k) for k in range(41, 49)) / 2 ** 48 is 3e-7, and from 40 on 1.7e-6
_HALF = np.float32(np.sqrt(0.5))  # Haar filters: (a + b) / sqrt(2) and (a - b) / sqrt(2)


def embed_watermark(frames: np.ndarray) -> np.ndarray:
    """float32 (t, 3, h, w) RGB in [0, 1] → the same with the mark `WATERMARK` in every frame, clamped to [0, 1].

    What the original does up to float32 rounding, its slips included. Frames are marked before they become uint8.
    UserError if h * w is below 256 * 256, which the original refuses as well.
    """
    if frames.dtype != np.float32 or frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(f"frames must be float32 (t, 3, h, w), not {frames.dtype} {frames.shape}")
    check_size(*frames.shape[2:])
    bits = np.array([int(bit) for bit in f"{WATERMARK:0{_BITS}b}"], np.float32)
    marked = np.empty_like(frames)
    for index, frame in enumerate(frames):  # one at a time: the float copies stay small
        yuv = _rgb_to_yuv(frame.transpose(1, 2, 0) * np.float32(255))
        plane = _whole_part(yuv[..., 1])
        plane[:] = _embed(plane, bits)
        rgb = cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB) / np.float32(255)
        marked[index] = np.clip(rgb, 0, 1).transpose(2, 0, 1)
    return marked


def read_watermark(frame: np.ndarray) -> int:
    """uint8 (h, w, 3) RGB → the 48-bit message that most blocks vote for, the first bit the highest.

    It equals `WATERMARK` on most marked photographs, also after `write_video`; without a mark it is arbitrary. The
    mark is weak, as in the original: it is lost by JPEG with subsampled colours, and partly or wholly in pictures made
    largely of white or saturated areas, where U cannot move. So another message does not prove that there was no mark.
    UserError if h * w is below 256 * 256: such a frame holds no mark.
    """
    return message(votes(frame))


def votes(frame: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) RGB → int (48, 2): how many blocks say 0, and 1, of each bit; they may be summed over frames.
    Errors as of `read_watermark`."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frame must be uint8 (h, w, 3), not {frame.dtype} {frame.shape}")
    check_size(*frame.shape[:2])
    low = _haar(_whole_part(_rgb_to_yuv(frame.astype(np.float32))[..., 1]))[0]
    blocks = _blocks(low)
    value = np.take_along_axis(blocks, _largest(blocks), 1)[:, 0]
    ones = np.abs(value) % _STRENGTH > _STRENGTH / 2
    place = np.arange(len(ones)) % _BITS
    ones, all_of = (np.bincount(place[chosen], minlength=_BITS) for chosen in (ones, slice(None)))
    return np.stack([all_of - ones, ones], 1)


def message(counts: np.ndarray) -> int:
    """The 48-bit number that `votes`, of one frame or summed over several, decide for, the first bit the highest."""
    return int("".join("1" if one > zero else "0" for zero, one in counts), 2)


def agreement(counts: np.ndarray) -> int:
    """How many of the 48 bits are those of `WATERMARK`. `FOUND` of them or more: one in three million of chance's
    messages has so many."""
    return _BITS - bin(message(counts) ^ WATERMARK).count("1")


def fits(height: int, width: int) -> bool:
    """Whether frames of this size, in pixels, can have the mark."""
    return height * width >= _MIN_PIXELS


def check_size(height: int, width: int) -> None:
    """Raise a UserError for frames that the mark does not fit in; the original fails on them too."""
    if not fits(height, width):
        raise UserError(
            f"frames of {width}x{height} are too small for the invisible watermark, which needs {_MIN_PIXELS} pixels "
            "(256x256): choose a larger size or do without the watermark"
        )


def _rgb_to_yuv(frame: np.ndarray) -> np.ndarray:
    # OpenCV's rounded factors are part of the method: there and back they miss the identity by up to 0.07 levels.
    return cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2YUV)


def _embed(channel: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """U, float32 (h, w) with both even, of colours 0..255 → the same with `bits` in the blocks of its low band."""
    low, down, across, both = _haar(channel)
    blocks = _blocks(low)
    entry = _largest(blocks)
    value = np.take_along_axis(blocks, entry, 1)
    bit = np.resize(bits, value.shape)  # repeats the message
    level = np.floor(np.abs(value) / _STRENGTH) + np.float32(0.25) + np.float32(0.5) * bit
    np.put_along_axis(blocks, entry, np.where(value < 0, -level, level) * _STRENGTH, 1)
    # The library hands the two detail bands back in the wrong order, which alters U a little along every edge. Kept, so
    # that frames equal those of the original.
    return _unhaar(_with_blocks(low, blocks), across, down, both)


def _whole_part(channel: np.ndarray) -> np.ndarray:
    """A view of (h, w) without the last rows and columns beyond a multiple of 4, which stay as they are."""
    height, width = (size // 4 * 4 for size in channel.shape)
    return channel[:height, :width]


def _haar(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(h, w), both even → four bands (h/2, w/2): sums, differences down, differences across, differences of both."""
    low, high = (image[::2] + image[1::2]) * _HALF, (image[::2] - image[1::2]) * _HALF
    sums, across = (low[:, ::2] + low[:, 1::2]) * _HALF, (low[:, ::2] - low[:, 1::2]) * _HALF
    down, both = (high[:, ::2] + high[:, 1::2]) * _HALF, (high[:, ::2] - high[:, 1::2]) * _HALF
    return sums, down, across, both


def _unhaar(sums: np.ndarray, down: np.ndarray, across: np.ndarray, both: np.ndarray) -> np.ndarray:
    """The image that has these bands: the inverse of `_haar`."""
    rows, columns = sums.shape
    image = np.empty((2 * rows, 2 * columns), sums.dtype)
    for start, low, high in ((0, sums + across, down + both), (1, sums - across, down - both)):
        image[::2, start::2] = (low * _HALF + high * _HALF) * _HALF
        image[1::2, start::2] = (low * _HALF - high * _HALF) * _HALF
    return image


def _blocks(low: np.ndarray) -> np.ndarray:
    """(h, w) → a copy of its whole 4x4 blocks, row by row: (h//4 * w//4, 16)."""
    rows, columns = (size // _BLOCK for size in low.shape)
    whole = low[: rows * _BLOCK, : columns * _BLOCK]
    return whole.reshape(rows, _BLOCK, columns, _BLOCK).swapaxes(1, 2).reshape(-1, _BLOCK * _BLOCK)


def _with_blocks(low: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The inverse of `_blocks`; what lies beyond the last whole block comes from `low`."""
    rows, columns = (size // _BLOCK for size in low.shape)
    whole = blocks.reshape(rows, columns, _BLOCK, _BLOCK).swapaxes(1, 2).reshape(rows * _BLOCK, columns * _BLOCK)
    low = low.copy()
    low[: rows * _BLOCK, : columns * _BLOCK] = whole
    return low


def _largest(blocks: np.ndarray) -> np.ndarray:
    """(n, 16) → (n, 1): where each block is largest in magnitude, its first entry left out as the library does."""
    return np.abs(blocks[:, 1:]).argmax(axis=1, keepdims=True) + 1
