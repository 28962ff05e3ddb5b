"""Pictures in: from files of any common kind to the tensor that the networks take.

`list_images` → `load_image` → `fit_size` / `fit_image` → `to_signed`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gm.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# What the content may be, whatever the suffix says: files are often misnamed. Named one by one so that Pillow never
# tries its other readers (PostScript, for one, starts an external program).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_ORIENTATION_TAG = 0x0112
# EXIF orientation → what turns the stored pixels upright (EXIF 2.32, tag 274). 1 is upright already.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def list_images(path):
    """The image files that `path` stands for, as a list of Path: itself, or the images of a folder sorted by name.

    A folder is not searched recursively, and hidden files (macOS leaves `._photo.jpg` beside `photo.jpg`) are skipped.
    UserError: nothing at `path`, a file with another suffix than `SUFFIXES` (any case), a folder without images.
    """
    path = Path(path)
    accepted = ", ".join(suffix[1:] for suffix in SUFFIXES)
    try:
        if path.is_dir():
            files = [entry for entry in path.iterdir() if entry.is_file()]
        elif path.is_file():
            if path.suffix.lower() not in SUFFIXES:
                raise UserError(f"{path} is not named as an image: its suffix must be one of {accepted} (any case)")
            return [path]
        else:
            raise UserError(f"no image file or folder at {path}: check the path")
    except OSError as error:
        raise UserError(f"cannot look at {path}: {error.strerror or error}") from error
    images = [file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    if not images:
        count = f"{len(files)} other file" + ("" if len(files) == 1 else "s")
        raise UserError(f"no images in folder {path}: looked for {accepted} (any case), found {count}")
    return sorted(images, key=lambda file: file.name)


def load_image(path):
    """The picture in a file as uint8 (h, w, 3) RGB, upright.

    Applies the EXIF orientation, lays transparent pixels over white, takes the first frame of an animation, and scales
    16-bit grey values (0..65535) to 0..255. UserError, naming the file: missing, empty, no image, truncated or damaged,
    or with so many pixels that Pillow takes it for a decompression bomb.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(f"no image file at {path}")
        if path.stat().st_size == 0:
            raise UserError(f"image {path} is an empty file (0 bytes)")
        with Image.open(path, formats=_FORMATS) as picture:
            picture.load()  # decodes everything: this is where a truncated file is found out
            return _to_rgb(_upright(picture))
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a readable image (its content is none of {', '.join(_FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"image {path} has too many pixels; make it smaller first ({error})") from error
    except Exception as error:  # on a damaged file the decoders raise almost any type, SyntaxError and struct.error too
        raise UserError(f"cannot read image {path}: {error or type(error).__name__}") from error


def _upright(picture):
    """Apply the EXIF orientation. `ImageOps.exif_transpose` rewrites all tags, and fails on an unrelated bad one."""
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # unreadable metadata is no reason to refuse good pixels
        orientation = 1
    method = _UPRIGHT.get(orientation)
    return picture if method is None else picture.transpose(method)


def _to_rgb(picture):
    """Any Pillow mode → uint8 (h, w, 3)."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _wide_grey_to_rgb(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.array(picture.convert("RGB"))


def _wide_grey_to_rgb(picture):
    """Modes I;16…, I and F, which Pillow's own conversion would clip at 255 → uint8 (h, w, 3), rounded to nearest.

    ValueError where the values do not tell what is white.
    """
    grey = np.asarray(picture)
    low, high = grey.min(), grey.max()
    if not (low >= 0 and high <= 65535):  # written so that NaN is refused too
        raise ValueError(f"values from {low} to {high}, expected 16 bits (0 to 65535); save it as an 8-bit image")
    if picture.mode == "F" and high <= 255:
        raise ValueError(f"floating-point values up to {high}, of unknown range; save it as an 8-bit image")
    scaled = np.rint(grey.astype(np.float32) / np.float32(257)).astype(np.uint8)  # 65535 / 255 = 257
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):  # PNG's tRNS chunk: this one grey value is see-through
        scaled[grey == transparent] = 255
    return np.repeat(scaled[:, :, None], 3, axis=2)


def fit_size(height, width, multiple=64):
    """(height, width) cut down to the largest multiples of `multiple`, in pixels.

    UserError where a side is shorter than one multiple: the networks halve the picture six times.
    """
    if height < multiple or width < multiple:
        raise UserError(
            f"image of {width}x{height} pixels (width x height) is smaller than {multiple} in a direction: "
            "use a larger image, or pass --height and --width to enlarge it"
        )
    return height // multiple * multiple, width // multiple * multiple


def fit_image(image, height, width):
    """uint8 (h, w, 3) → uint8 (height, width, 3): scaled until it covers the size, then cropped around the centre.

    The aspect ratio is kept; Lanczos filter; the same values come back where the size already fits.
    """
    return np.array(ImageOps.fit(Image.fromarray(image), (width, height), Image.Resampling.LANCZOS))


def to_signed(image):
    """uint8 (h, w, 3) → float32 (1, 3, h, w) in [-1, 1], as the original script: u8 / 255 · 2 − 1 in float32."""
    unit = image.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(unit * np.float32(2) - np.float32(1))
