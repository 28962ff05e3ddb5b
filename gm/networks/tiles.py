"""Encoding and decoding a picture tile by tile, so that memory does not grow with its size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from mindspore import Parameter, Tensor, nn

from gm.networks.layers import GroupNorm
from gm.networks.shared_norms import SharedStatistics, zeros
from gm.networks.vae import Encoder, ImageDecoder, VaeDecoder, VaeEncoder

# Rounds go on until the result changes by less than this (dB), which is by what it may still be off. svd_tiny's decoder
# at 192x256 in tiles of 96, against the whole: 29, 37, 44, 50, 55, 65, 72 dB.
_CLOSE = 46.0


class _DecoderLower(nn.Cell):
    def __init__(self, decoder: VaeDecoder) -> None:
        super().__init__(auto_prefix=False)
        self.decoder = decoder

    def construct(self, z: Tensor, t: int) -> Tensor:
        return self.decoder.decoder.lower(self.decoder.post_quant_conv(z), t)


class _EncoderLower(nn.Cell):
    def __init__(self, encoder: VaeEncoder) -> None:
        super().__init__(auto_prefix=False)
        self.encoder = encoder

    def construct(self, x: Tensor) -> Tensor:
        return self.encoder.quant_conv(self.encoder.encoder.lower(x))


class Upper(nn.Cell):
    """The part of an encoder or decoder above the latents' resolution, with statistics that its tiles share.

    Args:
        coder: `gm.networks.vae.Encoder` or `ImageDecoder`, used as it is; its norms' `shared` are to be set to the
            statistics for as long as this runs.
        side: (h, w) of a tile in pixels of the latents.
        t: pictures given at once, which are one video to temporal layers.
    """

    def __init__(self, coder: Encoder | ImageDecoder, side: tuple[int, int], t: int) -> None:
        super().__init__(auto_prefix=False)
        self.coder = coder
        self.masks: dict[int, Parameter] = {}
        self.norms: list[tuple[GroupNorm, SharedStatistics]] = []
        last = len(getattr(coder, coder.UPPER[0])) - 1
        for path, norm in coder.cells_and_names():
            part, *rest = path.split(".")
            if isinstance(norm, GroupNorm) and part in coder.UPPER:
                scale = 2 ** (last - int(rest[0]) if rest else last)
                pixels = side[0] * side[1] * scale**2
                mask = self.masks.setdefault(scale, zeros(f"tiles.mask_{scale}", pixels, 1))
                rows = 1 if "time_stack" in path else t
                self.norms.append((norm, SharedStatistics(f"tiles.{path}", rows, norm.eps, mask)))

    def construct(self, x: Tensor, t: int) -> Tensor:
        return self.coder.upper(x, t)

    def count(self, core: np.ndarray) -> None:
        """Which pixels of the next tile are counted: core float32 (h, w) of ones and zeros."""
        for scale, mask in self.masks.items():
            mask.set_data(Tensor(np.kron(core, np.ones((scale, scale), np.float32)).reshape(-1, 1)))

    def sums(self) -> np.ndarray:
        """What every norm saw in the last tile: an array of arrays, which can be added to those of other tiles."""
        found = np.empty(len(self.norms), object)
        found[:] = [statistics.sums.asnumpy().astype(np.float64) for _, statistics in self.norms]
        return found

    def learn(self, sums: np.ndarray) -> None:
        for (_, statistics), total in zip(self.norms, sums):
            statistics.learn(total)


class _Tiles:
    """The part of a coder above the latents' resolution (its `upper`), in square tiles with a margin that is as wide as
    its convolutions see. See `gm.networks.shared_norms` for the norms. Several times slower: every tile is computed in
    each of five rounds or so, margins included.

    Args:
        coder: `gm.networks.vae.Encoder` or `ImageDecoder`.
        tile: side of a tile in pixels of the latents.
        power: of the signal that what changes from one round to the next is compared with; None for the result's own.
    """

    def __init__(self, coder: Encoder | ImageDecoder, tile: int, power: float | None = None) -> None:
        self.coder, self.tile, self.power = coder, tile, power
        self._uppers: dict[tuple[tuple[int, int], int], Upper] = {}  # a compiled one for each shape
        levels = getattr(coder, coder.UPPER[0])
        # Two 3x3 convolutions in a block and one more that changes the size, or is the first or last, at every level.
        margin = sum((2 * len(level.block) + 1) / 2**i for i, level in enumerate(reversed(levels)))
        self.full = tile + 2 * int(np.ceil(margin))

    def __call__(self, x: np.ndarray, size: tuple[int, int], t: int) -> np.ndarray:
        """x float32 (t, c, ...), of a picture whose latents have size (h, w) -> float32 (t, ...)."""
        side, factor = (min(size[0], self.full), min(size[1], self.full)), x.shape[2] // size[0]
        if (side, t) not in self._uppers:
            self._uppers[side, t] = Upper(self.coder, side, t)
        upper = self._uppers[side, t]
        places = list(_places(size, side, self.tile))
        with _sharing(upper):
            before = None
            for _ in range(len(upper.norms) + 1):  # after so many all norms are exact
                sums, tiles = np.zeros(len(upper.norms), object), []
                for start, core in places:
                    rows, columns = (slice(s * factor, (s + n) * factor) for s, n in zip(start, side))
                    upper.count(core)
                    tiles.append(upper(Tensor(np.ascontiguousarray(x[:, :, rows, columns])), t).asnumpy())
                    sums = sums + upper.sums()
                upper.learn(sums)
                whole = _joined(places, tiles, size)
                if before is not None and _decibels(whole, before, self.power or whole.var()) > _CLOSE:
                    break
                before = whole
        return whole


class TiledDecoder:
    """A VAE decoder that is called as the one that it is made from, and gives nearly the same pixels.

    The part at the latents' resolution, which attends to the whole picture, is computed whole; the part that enlarges
    in tiles.

    Args:
        decoder: `gm.networks.vae.VaeDecoder`.
        tile: side of a tile in pixels of the latents.
    """

    def __init__(self, decoder: VaeDecoder, tile: int) -> None:
        self.decoder, self.tile = decoder, tile
        self.lower = _DecoderLower(decoder)
        self.tiles = _Tiles(decoder.decoder, tile, power=4.0)  # pixels are in [-1, 1]

    def __call__(self, z: Tensor, t: int) -> Tensor:
        """z Tensor (t, z, h, w), unscaled -> pixels, Tensor (t, 3, ...)."""
        size = z.shape[2:]
        if max(size) <= self.tiles.full:
            return self.decoder(z, t)
        return Tensor(self.tiles(self.lower(z, t).asnumpy(), size, t))


class TiledEncoder:
    """A VAE encoder that is called as the one that it is made from, and gives nearly the same moments.

    The part that shrinks is computed in tiles, the part at the latents' resolution whole.

    Args:
        encoder: `gm.networks.vae.VaeEncoder`.
        tile: side of a tile in pixels of the latents.
    """

    def __init__(self, encoder: VaeEncoder, tile: int) -> None:
        self.encoder, self.tile = encoder, tile
        self.lower = _EncoderLower(encoder)
        self.tiles = _Tiles(encoder.encoder, tile)
        self.factor = 2 ** (len(encoder.encoder.down) - 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        """pixels Tensor (n, 3, ...) -> moments, Tensor (n, 2 z, h, w)."""
        n, _, *sides = pixels.shape
        size = tuple(side // self.factor for side in sides)
        if max(size) <= self.tiles.full:
            return self.encoder(pixels)
        return self.lower(Tensor(self.tiles(pixels.asnumpy(), size, n)))


def _decibels(found: np.ndarray, expected: np.ndarray, power: float) -> float:
    """A signal's power over that of the difference."""
    return 10 * np.log10(power / max(float(np.mean((found - expected) ** 2)), 1e-12))


@contextlib.contextmanager
def _sharing(upper: Upper) -> Iterator[None]:
    for norm, statistics in upper.norms:
        statistics.forget()
        norm.shared = statistics
    try:
        yield
    finally:
        for norm, _ in upper.norms:
            norm.shared = None


def _places(size: tuple[int, int], side: tuple[int, int], tile: int) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
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
            yield (start[0], start[1]), core


def _joined(
    places: list[tuple[tuple[int, int], np.ndarray]],
    tiles: list[np.ndarray],
    size: tuple[int, int],
) -> np.ndarray:
    """The tiles' own pixels side by side: float32 (t, c, H, W)."""
    factor = tiles[0].shape[2] // places[0][1].shape[0]
    whole = np.empty((*tiles[0].shape[:2], size[0] * factor, size[1] * factor), np.float32)
    for ((y, x), core), tile in zip(places, tiles):
        rows, columns = (np.flatnonzero(core.any(axis)) for axis in (1, 0))
        inside = [slice(n[0] * factor, (n[-1] + 1) * factor) for n in (rows, columns)]
        outside = [slice((n[0] + at) * factor, (n[-1] + 1 + at) * factor) for n, at in ((rows, y), (columns, x))]
        whole[:, :, outside[0], outside[1]] = tile[:, :, inside[0], inside[1]]
    return whole
