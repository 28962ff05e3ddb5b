"""The colours of a picture: from any mode that Pillow has to sRGB of 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from gm.data.colour import ToSrgb

_STRIP = 1 << 22  # pixels converted at a time: a large picture is in memory as Pillow's and as ours, no third time


def to_rgb(picture: Image.Image, to_srgb: ToSrgb | None) -> np.ndarray:
    """A loaded picture of any Pillow mode → uint8 (h, w, 3) sRGB, strip by strip.

    Transparent pixels are laid over white; 16-bit grey values (0..65535) are scaled to 0..255. to_srgb: what its colour
    profile asks for, None: its colours are sRGB. ValueError where grey values do not tell what is white.
    """
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _wide_grey_to_rgb(picture, to_srgb)
    width, height = picture.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(height, top + rows)))
        pixels[top : top + rows] = np.asarray(_strip_to_rgb(strip, to_srgb))
    return pixels


def _strip_to_rgb(strip: Image.Image, to_srgb: ToSrgb | None) -> Image.Image:
    if not strip.has_transparency_data:
        return _coloured(strip, to_srgb)
    strip = strip.convert("RGBA")
    colours = _coloured(strip.convert("RGB"), to_srgb).convert("RGBA")
    colours.putalpha(strip.getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", strip.size, "white"), colours).convert("RGB")


def _coloured(strip: Image.Image, to_srgb: ToSrgb | None) -> Image.Image:
    """A strip without alpha as mode RGB, in sRGB."""
    if to_srgb is None:
        return strip.convert("RGB")
    return to_srgb(strip.convert({"GRAY": "L"}.get(to_srgb.space, to_srgb.space)))


def _wide_grey_to_rgb(picture: Image.Image, to_srgb: ToSrgb | None) -> np.ndarray:
    """Modes I;16…, I and F, which Pillow's own conversion would clip at 255 → uint8 (h, w, 3), rounded to nearest.

    ValueError where the values do not tell what is white.
    """
    grey = np.asarray(picture)
    low, high = grey.min(), grey.max()
    if not (low >= 0 and high <= 65535):  # written so that NaN is refused too
        raise ValueError(f"values from {low} to {high}, expected 16 bits (0 to 65535); save it as an 8-bit image")
    if picture.mode == "F" and high <= 255:
        raise ValueError(f"floating-point values up to {high}, of unknown range; save it as an 8-bit image")
    scaled = _of_16_bits(picture, grey) / np.float32(257)  # 65535 / 255 = 257
    if to_srgb is None:
        scaled = np.repeat(np.rint(scaled).astype(np.uint8)[:, :, None], 3, axis=2)
    else:  # between the 256 greys that the profile is asked for, a straight line
        assert to_srgb.greys is not None  # only CMYK has none
        columns = [np.interp(scaled, np.arange(256), to_srgb.greys[:, i]) for i in range(3)]
        scaled = np.stack([np.rint(column).astype(np.uint8) for column in columns], axis=-1)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):  # PNG's tRNS chunk: this one grey value is see-through
        scaled[grey == transparent] = 255
    return scaled


def _of_16_bits(picture: Image.Image, grey: np.ndarray) -> np.ndarray:
    """float32, 0 black to 65535 white: also where Pillow gives the numbers of a TIFF as they stand there, of 12 bits or
    with 0 for white (TIFF 6.0, BitsPerSample and PhotometricInterpretation)."""
    grey = grey.astype(np.float32)
    if not isinstance(picture, TiffImageFile):
        return grey
    if picture.tag_v2.get(258) == (12,):
        grey *= np.float32(65535 / 4095)
    return 65535 - grey if picture.tag_v2.get(262) == 0 else grey
