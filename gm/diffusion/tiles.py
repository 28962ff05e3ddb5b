"""Decoding a picture tile by tile, so that memory does not grow with its size."""

from __future__ import annotations

import contextlib

import numpy as np
from mindspore import Tensor, nn

from gm.networks.tiles import Upper

# Rounds go on until the picture changes by less than this (PSNR, dB), which is by what it may still be off. svd_tiny at
# 192x256 in tiles of 96, against the whole: 29, 37, 44, 50, 55, 65, 72 dB.
_CLOSE = 46.0


class _Lower(nn.Cell):
    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def construct(self, z, t):
        return self.decoder.decoder.lower(self.decoder.post_quant_conv(z), t)


class TiledDecoder:
    """A VAE decoder that is called as the one that it is made from, and gives nearly the same pixels.

    The part at the latents' resolution, which attends to the whole picture, is computed whole; the part that enlarges
    in square tiles with a margin that is as wide as its convolutions see. See `gm.networks.tiles` for the norms. Some
    ten times slower: every tile is computed in each of five rounds or so, margins included.

    Args:
        decoder: `gm.networks.vae.VaeDecoder`.
        tile: side of a tile in pixels of the latents.
    """

    def __init__(self, decoder, tile):
        self.decoder, self.tile = decoder, tile
        self.lower = _Lower(decoder)
        self._uppers = {}  # a compiled one for each shape
        levels = decoder.decoder.up
        # Two 3x3 convolutions in a block and one more that enlarges, or is the last one, at every level.
        self.margin = int(np.ceil(sum((2 * len(level.block) + 1) / 2**i for i, level in enumerate(reversed(levels)))))

    def __call__(self, z, t):
        """z Tensor (t, z, h, w), unscaled -> pixels, Tensor (t, 3, ...)."""
        full = self.tile + 2 * self.margin
        size = z.shape[2:]
        if max(size) <= full:
            return self.decoder(z, t)
        side = tuple(min(n, full) for n in size)
        middle = self.lower(z, t).asnumpy()
        if (side, t) not in self._uppers:
            self._uppers[side, t] = Upper(self.decoder.decoder, side, t)
        return Tensor(self._enlarge(self._uppers[side, t], middle, t))

    def _enlarge(self, upper, middle, t):
        places = list(_places(middle.shape[2:], upper.side, self.tile))
        with _sharing(upper):
            before = None
            for _ in range(len(upper.norms) + 1):  # after so many all norms are exact
                sums, tiles = 0, []
                for start, core in places:
                    y, x = (slice(s, s + n) for s, n in zip(start, upper.side))
                    upper.count(core)
                    tiles.append(upper(Tensor(np.ascontiguousarray(middle[:, :, y, x])), t).asnumpy())
                    sums = sums + upper.sums()
                upper.learn(sums)
                whole = _joined(places, tiles, middle.shape[2:])
                if before is not None and _psnr(whole, before) > _CLOSE:
                    break
                before = whole
        return whole


def _psnr(found, expected):
    """Of pixels in [-1, 1]."""
    return 10 * np.log10(4 / max(float(np.mean((found - expected) ** 2)), 1e-12))


@contextlib.contextmanager
def _sharing(upper):
    for norm, statistics in upper.norms:
        statistics.forget()
        norm.shared = statistics
    try:
        yield
    finally:
        for norm, _ in upper.norms:
            norm.shared = None


def _places(size, side, tile):
    """For every tile where it starts, (y, x), and which of its pixels are its own, float32 (h, w) of ones and zeros.

    All tiles have the same shape, so that one graph serves them; every pixel belongs to one of them.
    """
    steps = [n if n == s else tile for n, s in zip(size, side)]
    for y in range(0, size[0], steps[0]):
        for x in range(0, size[1], steps[1]):
            start, core = [], np.ones(side, np.float32)
            for axis, (at, n, s, step) in enumerate(zip((y, x), size, side, steps)):
                begin = int(np.clip(at + step // 2 - s // 2, 0, n - s))
                own = np.arange(begin, begin + s)
                inside = (own >= at) & (own < at + step)
                core *= inside.reshape((-1, 1) if axis == 0 else (1, -1))
                start.append(begin)
            yield tuple(start), core


def _joined(places, tiles, size):
    """The tiles' own pixels side by side: float32 (t, 3, H, W)."""
    factor = tiles[0].shape[2] // places[0][1].shape[0]
    whole = np.empty((*tiles[0].shape[:2], size[0] * factor, size[1] * factor), np.float32)
    for ((y, x), core), tile in zip(places, tiles):
        rows, columns = (np.flatnonzero(core.any(axis)) for axis in (1, 0))
        inside = [slice(n[0] * factor, (n[-1] + 1) * factor) for n in (rows, columns)]
        outside = [slice((n[0] + at) * factor, (n[-1] + 1 + at) * factor) for n, at in ((rows, y), (columns, x))]
        whole[:, :, outside[0], outside[1]] = tile[:, :, inside[0], inside[1]]
    return whole
