"""Which sizes of pictures a model can do, and which one a picture gets; no mindspore here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from gm.data.images import fit_size
from gm.errors import UserError

if TYPE_CHECKING:
    from gm.model_config import ModelConfig, Networks

LARGEST_AREA = 2.0
LONGEST_SIDE = 16384  # pixels


def size_multiple(model: Networks) -> int:
    """Height and width in pixels must be multiples of this: the VAE's and the UNet's halvings together (64 for SVD)."""
    return vae_factor(model) * 2 ** (len(model.unet.channel_mult) - 1)


def vae_factor(model: Networks) -> int:
    """Pixels of a picture's side for one of its latent's: 8 for SVD."""
    return 2 ** (len(model.vae.ch_mult) - 1)


def latent_shape(model: Networks, size: tuple[int, int]) -> tuple[int, int, int]:
    """(channels, height, width) of the latent of a picture of `size`, (height, width) in pixels."""
    factor = vae_factor(model)
    return model.vae.z_channels, size[0] // factor, size[1] // factor


def embedding_width(model: Networks) -> int:
    """Of each of the three numbers that the UNet is told: fps, motion bucket, noise augmentation."""
    return model.unet.adm_in_channels // 3


def check_picture(image: object, model: Networks) -> None:
    """UserError, with the remedy, unless a picture is what the networks take: uint8 (h, w, 3), h and w multiples of
    `size_multiple`."""
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None or dtype is None:
        raise UserError(
            f"the picture is a {type(image).__name__}: give an array uint8 (height, width, 3); load_image "
            "reads one from a file, np.asarray makes one of a PIL picture in mode RGB"
        )
    if len(shape) == 2 or len(shape) == 3 and shape[2] == 1:
        raise UserError(
            f"the picture is grey, of shape {shape}: repeat it for the three colours, "
            "np.stack([grey] * 3, axis=-1), to get (height, width, 3)"
        )
    if len(shape) == 3 and shape[2] == 4:
        raise UserError(
            f"the picture has four channels (RGBA), of shape {shape}: lay it over a colour, or leave the "
            "fourth out, picture[..., :3]"
        )
    if len(shape) != 3 or shape[2] != 3:
        raise UserError(f"the picture has the shape {shape}: it must be (height, width, 3), one picture, colours last")
    if dtype != np.uint8:
        raise UserError(
            f"the picture holds {dtype}: it must be uint8 from 0 to 255; for values from 0 to 1 that is "
            "np.uint8(np.clip(picture, 0, 1) * 255 + 0.5)"
        )
    multiple = size_multiple(model)
    height, width = shape[:2]
    if height % multiple or width % multiple:
        raise UserError(f"picture of {height}x{width} pixels: height and width must be multiples of {multiple}")


def choose_size(
    config: ModelConfig, size: Sequence[int], height: int | None = None, width: int | None = None
) -> tuple[int, int]:
    """(height, width) in pixels of the video of a picture of `size`.

    Both given: as asked. One given: the other follows the picture's aspect. None: the picture's own size, or, where
    that has more than `LARGEST_AREA` times as many pixels as the model was trained at, as many as that at the picture's
    aspect. What is not asked for is rounded to what the model can do, multiples of 64.

    Raises:
        UserError: a given size that is not such a multiple, or a picture that is too small.
    """
    multiple = size_multiple(config.model)
    for name, value in (("height", height), ("width", width)):
        if value is not None and value > LONGEST_SIDE:
            raise UserError(f"{name} {value}: must be {LONGEST_SIDE} or less; attention over more pixels takes years")
        if value is not None and (value <= 0 or value % multiple):
            near = _nearest(value, multiple)
            raise UserError(f"{name} {value}: must be a multiple of {multiple}, for instance {near}")
    if height and width:
        return height, width
    if height:
        return height, _nearest(height * size[1] / size[0], multiple)
    if width:
        return _nearest(width * size[0] / size[1], multiple), width
    trained = config.sampling.height * config.sampling.width
    if size[0] * size[1] <= LARGEST_AREA * trained:
        return fit_size(size[0], size[1], multiple)
    reduced = [round((trained * a / b) ** 0.5) for a, b in (size, size[::-1])]
    if min(reduced) < multiple:
        raise UserError(
            f"image of {size[1]}x{size[0]} pixels (width x height) is {reduced[1]}x{reduced[0]} at the model's area, "
            f"smaller than {multiple} in a direction: crop it, or pass --height and --width"
        )
    return fit_size(reduced[0], reduced[1], multiple)


def nearest_size(source: Sequence[int], sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The one of `sizes` whose aspect is nearest to that of a video of size `source`, all (height, width) in pixels.

    Nearest: the least of the picture is lost when it is scaled to cover the size and cropped. Of several with the same
    loss it is the largest that needs no enlarging, or else the one that needs the least.
    """

    def cost(size: tuple[int, int]) -> tuple[Fraction, Fraction, int]:
        (height, width), (old_height, old_width) = size, source
        across, down = Fraction(width, old_width), Fraction(height, old_height)
        kept, scale = min(across, down) / max(across, down), max(across, down)
        return -kept, max(scale, Fraction(1)), -height * width

    return min(sizes, key=cost)


def _nearest(value: float, multiple: int) -> int:
    return max(multiple, round(value / multiple) * multiple)
