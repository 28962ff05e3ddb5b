"""What a picture file says of its colours, and the way from there to sRGB, which the networks are trained on.

Sources, the first that is there: an ICC profile or, in PNG before it, a cICP chunk; PNG's gAMA and cHRM; the numbers of
ITU-T H.273 in AVIF and HEIC; the mark of Adobe RGB that cameras write (DCF 2.0, "R03"). Nothing there: sRGB.

The intent is relative colorimetric without black point compensation: white becomes white, and every colour that sRGB
has becomes just what the profile says it is. The perceptual tables of print profiles move those too (3.5 of 255 in the
mean with Ghostscript's CMYK profile, where this gives 0.7), and each maker's otherwise.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_D50 = np.array([0.9642, 1.0, 0.8249])  # the white of all ICC profiles
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # ICC's parametric curve of type 3
_D65 = (0.3127, 0.3290)
_BT709 = (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)  # x and y of white, red, green and blue
_ADOBE_RGB = (*_D65, 0.640, 0.330, 0.210, 0.710, 0.150, 0.060)
# ITU-T H.273, tables 2 and 3. What is not here, "unspecified" above all, is taken for sRGB; so are the camera curves of
# BT.601, 709 and 2020, as for videos.
_PRIMARIES = {
    5: (*_D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
_CURVES = {4: (2.2,), 5: (2.8,), 8: (1.0,)}
_HDR = {16: "PQ", 18: "HLG"}
_SAME_CHROMATICITY = 0.005
_SAME_GAMMA = 0.05  # relative; libpng too leaves a picture alone below that
_PROBE = np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), axis=-1).reshape(1, -1, 3)


class UnusableProfile(Exception):
    """Why what the file says of its colours cannot be followed. The pixels are good all the same."""


class ToSrgb:
    """A conversion: `ToSrgb(profile)(picture)`, with `space` "RGB", "GRAY" or "CMYK", what the profile speaks of.

    `greys`: uint8 (256, 3), what becomes of the greys 0 … 255; None for CMYK.
    `unchanged`: the profile is sRGB under whatever name: no value would change by more than 1 of 255.
    UnusableProfile: damaged, or of another kind.
    """

    def __init__(self, profile: bytes) -> None:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            self.space = source.profile.xcolor_space.strip()
            mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(self.space)
            if mode is None:
                raise UnusableProfile(f"a profile of colour space {self.space or 'unknown'}")
            # LittleCMS's shortcuts are within 1 for matrices, and ten times as fast; through tables of its own it is
            # off by up to 15 of 255 for inks, and by 10 for linear grey.
            exact = self.space == "RGB" and source.profile.is_matrix_shaper
            self._transform = ImageCms.buildTransform(
                source,
                ImageCms.createProfile("sRGB"),
                mode,
                "RGB",
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                ImageCms.Flags.NONE if exact else ImageCms.Flags.NOOPTIMIZE,
            )
        except (OSError, ImageCms.PyCMSError, ImportError) as error:  # ImportError: a Pillow without LittleCMS
            raise UnusableProfile(str(error)) from error
        self.greys: np.ndarray | None
        levels = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        if self.space == "CMYK":
            self.greys, self.unchanged = None, False
            return
        self.greys = np.asarray(self._transform.apply(levels.convert(mode)))[0]
        probe = levels if self.space == "GRAY" else Image.fromarray(_PROBE)
        before, after = (np.asarray(picture.convert("RGB"), np.int16) for picture in (probe, self(probe)))
        self.unchanged = bool(np.abs(before - after).max() <= 1)

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Picture of mode RGB, L or CMYK, after `space` → picture of mode RGB."""
        if self.space == "GRAY":
            assert self.greys is not None  # only CMYK has none
            return Image.merge("RGB", [picture.point(self.greys[:, i].tolist()) for i in range(3)])
        return self._transform.apply(picture)


@functools.lru_cache(maxsize=32)  # photographs of one camera all have the same
def _to_srgb(profile: bytes) -> ToSrgb:
    return ToSrgb(profile)


def conversion(picture: Image.Image, path: Path) -> ToSrgb | None:
    """The `ToSrgb` for an open picture of the file `path`, or None: it is sRGB already.

    UnusableProfile: there is something, but it cannot be followed; take the colours for sRGB.
    """
    if picture.mode == "LAB":  # Pillow's own conversion is exact
        return None
    profile = _stated(picture, path)
    if profile is None:
        return None
    found = _to_srgb(profile)
    if (found.space == "CMYK") != (picture.mode == "CMYK"):
        raise UnusableProfile(f"a profile for {found.space} in a picture of {picture.mode}")
    if found.space == "GRAY" and not (picture.mode in ("1", "L", "LA", "La", "F") or picture.mode.startswith("I")):
        raise UnusableProfile(f"a profile for GRAY in a picture of {picture.mode}")
    return None if found.unchanged else found


def _stated(picture: Image.Image, path: Path) -> bytes | None:
    """Bytes of an ICC profile, the file's own or one made of its numbers; None for sRGB."""
    info = picture.info
    numbers = _png_cicp(path) if picture.format == "PNG" else None
    if numbers is not None:
        return _profile_of_numbers(*numbers)
    if info.get("icc_profile"):
        return info["icc_profile"]
    if "icc_profile" in info:  # Pillow found parts of one
        raise UnusableProfile("damaged")
    if picture.format == "PNG":
        return None if "srgb" in info else _profile_of_png(info)
    if picture.format in ("AVIF", "HEIF"):
        numbers = _box_numbers(path)
        return numbers and _profile_of_numbers(*numbers)
    return make_profile(_ADOBE_RGB, (563 / 256,)) if _is_dcf_adobe_rgb(picture) else None


def _profile_of_numbers(primaries: int, transfer: int) -> bytes | None:
    if transfer in _HDR:
        raise UnusableProfile(f"it is an HDR picture ({_HDR[transfer]}): save it as SDR to have its colours")
    if primaries not in _PRIMARIES and transfer not in _CURVES:
        return None
    return make_profile(_PRIMARIES.get(primaries, _BT709), _CURVES.get(transfer, _SRGB_CURVE))


def _profile_of_png(info: dict[Any, Any]) -> bytes | None:
    gamma, places = info.get("gamma"), info.get("chromaticity", _BT709)
    curve = _SRGB_CURVE if not gamma or abs(gamma * 2.2 - 1) < _SAME_GAMMA else (1 / gamma,)
    if max(abs(a - b) for a, b in zip(places, _BT709)) < _SAME_CHROMATICITY:
        if curve is _SRGB_CURVE:
            return None
        places = _BT709
    return make_profile(tuple(places), curve)


def _is_dcf_adobe_rgb(picture: Image.Image) -> bool:
    try:
        return str(picture.getexif().get_ifd(0xA005).get(1, "")).startswith("R03")
    except Exception:  # unreadable metadata is no reason to refuse good pixels
        return False


def _png_cicp(path: Path) -> tuple[int, int] | None:
    """(primaries, transfer) of a PNG's cICP chunk, which Pillow does not hand on; None without one."""
    with open(path, "rb") as file:
        file.seek(8)
        while True:
            header = file.read(8)
            if len(header) < 8 or header[4:] == b"IDAT":
                return None
            if header[4:] == b"cICP":
                body = file.read(4)
                return (body[0], body[1]) if len(body) == 4 else None
            file.seek(int.from_bytes(header[:4], "big") + 4, 1)


def _box_numbers(path: Path) -> tuple[int, int] | None:
    """(primaries, transfer) of the first `colr` box with numbers in an AVIF or HEIC; None without one.

    ISO/IEC 23008-12: file → meta → iprp → ipco → colr; ISO/IEC 14496-12, section 12.1.5.
    """
    with open(path, "rb") as file:
        content = file.read(1 << 20)  # the boxes that describe come first
    for meta in _boxes(content, b"meta"):
        for properties in _boxes(meta[4:], b"iprp"):  # 4: version and flags
            for container in _boxes(properties, b"ipco"):
                for colour in _boxes(container, b"colr"):
                    if colour[:4] == b"nclx" and len(colour) >= 8:
                        return struct.unpack_from(">HH", colour, 4)
    return None


def _boxes(content: bytes, kind: bytes) -> Iterator[bytes]:
    """Contents of the boxes of one kind that stand side by side in `content`."""
    position = 0
    while position + 8 <= len(content):
        size = int.from_bytes(content[position : position + 4], "big")
        if size < 8:  # to the end, or of 64 bits: pixels
            return
        if content[position + 4 : position + 8] == kind:
            yield content[position + 8 : position + size]
        position += size


@functools.lru_cache(maxsize=32)
def make_profile(chromaticities: tuple[float, ...], curve: tuple[float, ...]) -> bytes:
    """Bytes of an RGB profile (ICC.1:2010, version 4). UnusableProfile where the numbers describe no colour space.

    chromaticities: x and y of white, red, green and blue. curve: exponent, or the five numbers of ICC's type 3.
    """
    places = np.array(chromaticities, np.float64).reshape(4, 2)
    if not (places[:, 1] > 0).all():
        raise UnusableProfile("its white and primaries describe no colours")
    try:
        white, *primaries = np.column_stack([places[:, 0], places[:, 1], 1 - places.sum(1)]) / places[:, 1:]
        primaries = np.stack(primaries, axis=1)
        to_xyz = primaries * np.linalg.solve(primaries, white)
        cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)  # how the eye takes D50 for white instead
        colorants = np.linalg.inv(_BRADFORD) @ (cones[:, None] * (_BRADFORD @ to_xyz))
        tags = {name: _xyz_tag(colorants[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
        numbers = np.rint(np.array(curve) * 65536).astype(int).tolist()
        shape = struct.pack(f">4s4xHxx{len(curve)}i", b"para", 3 if len(curve) > 1 else 0, *numbers)
    except (np.linalg.LinAlgError, struct.error, ArithmeticError, ValueError) as error:
        raise UnusableProfile("its white and primaries describe no colours") from error
    tags.update({name: shape for name in (b"rTRC", b"gTRC", b"bTRC")})
    tags[b"wtpt"] = _xyz_tag(_D50)
    position, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, position + len(body), len(content))
        body += content
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x3i48x",
        position + len(body),
        0x04200000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        b"acsp",
        *np.rint(_D50 * 65536).astype(int).tolist(),
    )
    return header + struct.pack(">I", len(tags)) + table + body


def _xyz_tag(values: np.ndarray) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *np.rint(np.asarray(values) * 65536).astype(int).tolist())
