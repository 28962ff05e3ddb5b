"""Pictures in: from files of any common kind to the tensor that the networks take.

`list_images` → `load_image` → `fit_size` / `fit_image` → `to_signed`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from gm import places
from gm.data.colour import ToSrgb, UnusableProfile, conversion
from gm.data.rgb import to_rgb
from gm.errors import UserError
from gm.files import count_suffixes, kind_of

SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif",
)  # fmt: skip
MAX_IMAGES = 100_000  # of a folder: each takes seconds at the least, so these take days
MAX_MEGAPIXELS = 250  # 1 GB as Pillow holds it, and another while it is turned upright
# What the content may be, whatever the suffix says: files are often misnamed. Named one by one so that Pillow never
# tries its other readers (PostScript, for one, starts an external program).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
_OPTIONAL = {  # brand of ISO/IEC 23008-12 → what reads it
    b"avif": ("AVIF", 'a Pillow with AVIF: run `pip install "pillow>=11.3"`'),
    b"avis": ("AVIF", 'a Pillow with AVIF: run `pip install "pillow>=11.3"`'),
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
        ("HEIF", f"pillow-heif: run `{places.install('extra')}`"),
    ),
}
_ORIENTATION_TAG = 0x0112
_FEW_BITS = {"L;2": 255 // 3, "L;4": 255 // 15}  # Pillow's name of a PNG's greys → what it multiplies them by
# EXIF orientation → what turns the stored pixels (h, w, 3) upright (EXIF 2.32, tag 274). 1 is upright already.
_UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels),
}
_log = logging.getLogger(__name__)

# Pillow warns of metadata and of sizes in its own words, on the terminal. Set once, not around each call: threads read
# pictures, and Python's filters belong to the whole process. Its limit of pixels is ours, so that it only acts on parts
# of a file that state another size than its header.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
Image.MAX_IMAGE_PIXELS = MAX_MEGAPIXELS * 1_000_000


def list_images(path: str | Path) -> list[Path]:
    """The image files that `path` stands for, as a list of Path: itself, or the images of a folder sorted by name.

    A folder is not searched recursively, and hidden files (macOS leaves `._photo.jpg` beside `photo.jpg`) are skipped;
    other files in it are counted by suffix in a logged warning.
    UserError: nothing at `path`, a file with another suffix than `SUFFIXES` (any case), a folder without images or with
    more than `MAX_IMAGES`.
    """
    path = Path(path)
    accepted = ", ".join(suffix[1:] for suffix in SUFFIXES)
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                files = [entry.name for entry in entries if not (entry.name.startswith(".") or _is_folder(entry))]
        elif path.is_file():
            if path.suffix.lower() not in SUFFIXES:
                raise UserError(f"{path} is not named as an image: its suffix must be one of {accepted} (any case)")
            return [path]
        else:
            raise UserError(_no_file(path, "image file or folder"))
    except OSError as error:
        raise UserError(f"cannot look at {path}: {error.strerror or error}") from error
    images = [name for name in files if Path(name).suffix.lower() in SUFFIXES]
    others = count_suffixes(name for name in files if Path(name).suffix.lower() not in SUFFIXES)
    if not images:
        raise UserError(f"no images in folder {path}: looked for {accepted} (any case), found {others}")
    if len(images) > MAX_IMAGES:
        raise UserError(
            f"folder {path} holds {len(images):,} images, and at most {MAX_IMAGES:,} are done in one run: use several "
            "folders"
        )
    if len(images) < len(files):
        _log.warning("%s: %s left out, not named as images", path, others)
    return [path / name for name in sorted(images)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; who opens it says so
        return False


def load_image(path: str | Path) -> np.ndarray:
    """The picture in a file as uint8 (h, w, 3) sRGB, upright.

    Follows an embedded colour profile (`gm.data.colour`; one that is damaged is a logged warning), applies the EXIF
    orientation, lays transparent pixels over white, takes the first frame of an animation, scales 16-bit grey values
    (0..65535) to 0..255, and of 16-bit colours takes the upper byte. UserError, naming the file: missing, no file,
    empty, no image, a kind whose reader is not installed, truncated or damaged, above `MAX_MEGAPIXELS` (decided from
    its header).
    """
    with _opened(path) as picture:
        picture.load()  # decodes everything: this is where a truncated file is found out
        turn = _UPRIGHT.get(_orientation(picture))
        pixels = to_rgb(picture, _conversion(picture, Path(path)))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of what `load_image` would give, from the header where that says it. UserError as there."""
    with _opened(path) as picture:
        if picture.format in ("PNG", "TIFF"):  # the EXIF of a PNG may stand behind its pixels; Pillow turns a TIFF
            picture.load()
        width, height = picture.size
        return (width, height) if _orientation(picture) >= 5 else (height, width)


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """`with _opened(path) as picture`: a Pillow image of which only the header is read; what fails is a UserError."""
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(_no_file(path, "image file"))
        if path.stat().st_size == 0:
            raise UserError(f"image {path} is an empty file (0 bytes)")
        with Image.open(path, formats=_formats()) as picture:
            _check_size(path, picture.size)
            _check_tiff(path, picture)
            _scale_transparent(path, picture)
            yield picture
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a readable image ({_why_unknown(path)})") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"image {path}: more than {MAX_MEGAPIXELS} megapixels; make it smaller first") from error
    except MemoryError as error:
        raise UserError(f"image {path}: too little memory to decode it; make it smaller first") from error
    except Exception as error:  # on a damaged file the decoders raise almost any type, SyntaxError and struct.error too
        raise UserError(f"cannot read image {path}: {error or type(error).__name__}") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this machine can read: HEIF needs another library, AVIF a recent Pillow."""
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN and (name != "AVIF" or features.check("avif")))


def _why_unknown(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(12)
    name, reader = _OPTIONAL.get(head[8:], (None, None)) if head[4:8] == b"ftyp" else (None, None)
    if name and name not in _formats():
        return f"it is {name}, which needs {reader}"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "a damaged TIFF, or one with numbers or colours of a rare kind: save it as PNG"
    return f"damaged, or its content is none of {', '.join(_FORMATS)}"


def _no_file(path: Path, wanted: str) -> str:
    kind = kind_of(path)
    return f"{path} is {kind}, not an {wanted}" if kind else f"no {wanted} at {path}: check the path"


def _check_size(path: Path, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_MEGAPIXELS * 1_000_000:
        raise UserError(
            f"image {path} has {size[0]}x{size[1]} pixels, {size[0] * size[1] / 1e6:.0f} megapixels; at most "
            f"{MAX_MEGAPIXELS} are read: make it smaller first"
        )


def _check_tiff(path: Path, picture: Image.Image) -> None:
    """UserError for what Pillow would read as other numbers than the file holds."""
    if not isinstance(picture, TiffImageFile):
        return
    bits, planes, kinds = (picture.tag_v2.get(tag, (1,)) for tag in (258, 284, 339))
    if max(bits) > 8 and planes == 2 and len(picture.getbands()) > 1:  # Pillow takes half of each number for a pixel
        raise UserError(
            f"image {path}: a TIFF of {max(bits)} bits with its colours in separate planes; save it with interleaved "
            "colours, or as PNG"
        )
    if max(bits) <= 8 and 2 in kinds:  # Pillow takes -1 for 255
        raise UserError(f"image {path}: a TIFF of signed numbers of 8 bits; save it with unsigned ones, or as PNG")


def _scale_transparent(path: Path, picture: Image.Image) -> None:
    """Bring a PNG's see-through value (its tRNS chunk), which Pillow leaves as it stands in the file, to the scale of
    the pixels that Pillow gives. UserError where it has more bits than these."""
    transparent = picture.info.get("transparency")
    if not isinstance(picture, PngImageFile) or transparent is None:
        return
    stored = str(picture.tile[0][3])
    if stored == "RGB;16B":
        raise UserError(
            f"image {path}: a PNG of 16 bits with a see-through colour, of which only the upper halves are read; save "
            "it with an alpha channel"
        )
    if stored in _FEW_BITS and isinstance(transparent, int):
        picture.info["transparency"] = transparent * _FEW_BITS[stored]


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. A PNG must be loaded before: Pillow would do it here, and its faults be lost."""
    try:
        return picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # unreadable metadata is no reason to refuse good pixels
        return 1


def _conversion(picture: Image.Image, path: Path) -> ToSrgb | None:
    try:
        return conversion(picture, path)
    except UnusableProfile as reason:
        _warn_once(path.parent, str(reason), path)
        return None


_warned = set()


def _warn_once(folder: Path, reason: str, path: Path) -> None:
    """One warning for each folder and reason: the frames of a clip have all the same profile."""
    if (folder, reason) not in _warned:
        _warned.add((folder, reason))
        _log.warning("%s: what it says of its colours cannot be followed, they are taken for sRGB: %s", path, reason)


def fit_size(height: int, width: int, multiple: int = 64) -> tuple[int, int]:
    """(height, width) cut down to the largest multiples of `multiple`, in pixels.

    UserError where a side is shorter than one multiple: the networks halve the picture six times.
    """
    if height < multiple or width < multiple:
        raise UserError(
            f"image of {width}x{height} pixels (width x height) is smaller than {multiple} in a direction: "
            "use a larger image, or pass --height and --width to enlarge it"
        )
    return height // multiple * multiple, width // multiple * multiple


def fit_image(image: np.ndarray, height: int, width: int, crop: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """uint8 (h, w, 3) → uint8 (height, width, 3): scaled until it covers the size, then cropped.

    The aspect ratio is kept; Lanczos filter; the same values come back where the size already fits. crop: which part of
    what is too much goes at the left and at the top, (0, 0) keeps the left upper corner, (1, 1) the right lower one.
    """
    return np.array(ImageOps.fit(Image.fromarray(image), (width, height), Image.Resampling.LANCZOS, centering=crop))


def to_signed(image: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) → float32 (1, 3, h, w) in [-1, 1], as the original script: u8 / 255 · 2 − 1 in float32."""
    unit = image.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(unit * np.float32(2) - np.float32(1))
