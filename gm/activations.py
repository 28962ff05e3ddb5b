"""How much memory the activations of the networks take, from shapes alone; no mindspore here.

Measured on a CPU with MindSpore 2.8.0: how many copies of a network's widest activation are alive at once, counted in
units, one unit being a float32 activation of all frames at full resolution with the narrowest level's channels.
`gm.estimate` adds weights and what the framework takes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gm.model_config import Networks, Unet, Vae

FLOAT = 4  # bytes
# Units alive at once, in graph mode and in PyNative; and without the compiled kernels, whose operations are then
# several operators each.
_UNITS = {"encoder": (3.7, 5.4), "resblock": (14, 14), "transformer": (48, 48), "decoder": (4, 8)}
_UNITS_PLAIN = {"encoder": (10, 10), "resblock": (14, 14), "transformer": (48, 48), "decoder": (4.5, 9)}
_PLAIN_COMPILED = 1.35  # without kernels, as a multiple of with
_LOWER_UNITS = 10  # of a decoder at the latents' resolution, with that level's channels; only tiles tell it apart
# Units that the backward pass keeps of a block, of its own level's pixels and channels.
_KEPT = {"resblock": 15, "transformer": 58, "inputs": 3}
_KEPT_PYNATIVE = 1.75  # as a multiple of graph mode's


class Setting(NamedTuple):
    """What of the program decides memory: graph mode or PyNative, and whether the compiled kernels are there."""

    graph: bool = True
    kernels: bool = True

    def units(self, network: str) -> float:
        return (_UNITS if self.kernels else _UNITS_PLAIN)[network][0 if self.graph else 1]

    def compiled(self, size: float) -> float:
        """Bytes of the compiler for `size` bytes of blocks."""
        return size * (1 if self.kernels else _PLAIN_COMPILED) if self.graph else 0


class Size(NamedTuple):
    """Pixels and frames. evaluated: frames of one call of the UNet, of both halves of guidance and all of a batch."""

    height: int
    width: int
    frames: int
    evaluated: int


def unet_blocks(unet: Unet) -> list[tuple[bool, int, int]]:
    """[(is a transformer, channels, how often its side is halved)] of the UNet's blocks, from its config section."""
    blocks = []
    for level, mult in enumerate(unet.channel_mult):
        kinds = [False, True] if 2**level in unet.attention_resolutions else [False]
        # The way down has one block of each kind fewer than the way up.
        blocks += [(kind, mult * unet.model_channels, level) for kind in kinds * (2 * unet.num_res_blocks + 1)]
    last = len(unet.channel_mult) - 1
    widest = unet.channel_mult[-1] * unet.model_channels
    return blocks + [(kind, widest, last) for kind in (False, True, False)]


def _factor(vae: Vae) -> int:
    return 2 ** (len(vae.ch_mult) - 1)


def _latent_pixels(model: Networks, size: Size) -> float:
    return size.height * size.width / _factor(model.vae) ** 2


def encoder(model: Networks, size: Size, setting: Setting, tile: int | None = None) -> float:
    vae = model.vae
    pixels = size.height * size.width
    if tile is not None:
        pixels = min(pixels, _tile_side(vae, tile, vae.num_res_blocks) ** 2)
    return setting.units("encoder") * pixels * vae.ch * FLOAT


def _tile_side(vae: Vae, tile: int, blocks: int) -> int:
    """Pixels of a tile's side with its margins (`gm.networks.tiles`)."""
    margin = math.ceil(sum((2 * blocks + 1) / 2**i for i in range(len(vae.ch_mult))))
    return tile + 2 * margin * _factor(vae)


def _unet_units(model: Networks, size: Size) -> list[tuple[str, float]]:
    """[(kind, bytes of an activation)] of the UNet's blocks."""
    values = size.evaluated * _latent_pixels(model, size) * FLOAT
    return [
        ("transformer" if transformer else "resblock", values * channels / 4**level)
        for transformer, channels, level in unet_blocks(model.unet)
    ]


def unet_widest(model: Networks, size: Size, setting: Setting) -> float:
    return max(setting.units(kind) * unit for kind, unit in _unet_units(model, size))


def deep_kept(model: Networks, size: Size) -> float:
    """What DeepCache keeps of a film: the result of the block that is the third from the end, at full resolution."""
    unet = model.unet
    level = min(2 // (unet.num_res_blocks + 1), len(unet.channel_mult) - 1)
    return FLOAT * size.evaluated * _latent_pixels(model, size) * unet.model_channels * unet.channel_mult[level]


def scores(model: Networks, size: Size, setting: Setting, most: int) -> float:
    """Attention's scores and their softmax: the kernels hold none."""
    if setting.kernels:
        return 0
    pixels, unet = _latent_pixels(model, size), model.unet
    found = max(
        (
            size.evaluated * (pixels / 4**level) ** 2 * channels / unet.num_head_channels
            for transformer, channels, level in unet_blocks(unet)
            if transformer
        )
    )
    return 2 * FLOAT * min(found, most)


def decoder(model: Networks, size: Size, setting: Setting, chunk: int, tile: int | None = None) -> float:
    vae = model.vae
    frames = min(chunk, size.frames)
    pixels = size.height * size.width
    upper = pixels if tile is None else min(pixels, _tile_side(vae, tile, vae.num_res_blocks + 1) ** 2)
    found = setting.units("decoder") * frames * upper * vae.ch * FLOAT
    if upper < pixels:
        found += _LOWER_UNITS * frames * _latent_pixels(model, size) * vae.ch * vae.ch_mult[-1] * FLOAT
        found += 2 * 3 * FLOAT * frames * pixels  # of this round and the one before
    return found


def kept_for_backward(model: Networks, size: Size, setting: Setting, recompute: bool) -> float:
    """Bytes of what the forward pass leaves for the backward pass, which is then computed beside it."""
    blocks = _unet_units(model, size)
    if not recompute:
        return sum(_KEPT[kind] * unit for kind, unit in blocks) * (1 if setting.graph else _KEPT_PYNATIVE)
    inputs = sum(_KEPT["inputs"] * unit for kind, unit in blocks if kind == "resblock")
    # The stage whose inside is there, a ResBlock and perhaps a transformer, and its gradients.
    inside = 2 * max(
        (_KEPT["resblock"] + _KEPT["transformer"] * (kind == "transformer")) * unit for kind, unit in blocks
    )
    return inputs + inside + unet_widest(model, size, setting)
