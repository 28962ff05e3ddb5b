"""Videos out: from decoded frames to files. No file is ever seen half-written, and none is overwritten by chance.

`to_uint8` → `next_base` → `write_video`, `write_gif`, `write_frames`, `contact_sheet` + `write_png`, `write_json`.
Frames are uint8 (t, h, w, 3) RGB. What cannot be written is a UserError that names the path.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import uuid
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from gm.errors import UserError

_SHEET_WIDTH = 2400  # pixels at most
_SHEET_GAP = 4
_GIF_MAX_FPS = 50.0  # a delay below 2/100 s is played at 1/10 s by the browsers


def to_uint8(frames):
    """float32 (t, 3, h, w), nominally in [-1, 1] → uint8 (t, h, w, 3): clamp((x + 1) / 2, 0, 1) · 255, truncated.

    Same float32 arithmetic as the original script. UserError on NaN or infinity, which would become arbitrary bytes.
    """
    count, channels, height, width = frames.shape
    pixels = np.empty((count, height, width, channels), np.uint8)
    for index, frame in enumerate(frames):  # one at a time: the float copies stay small
        if not np.isfinite(frame).all():
            raise UserError(f"frame {index} holds NaN or infinite values; if you run in float16, try --amp_level=O0")
        unit = np.clip((frame.astype(np.float32) + np.float32(1)) / np.float32(2), 0, 1)
        pixels[index] = (unit * np.float32(255)).astype(np.uint8).transpose(1, 2, 0)
    return pixels


@contextlib.contextmanager
def atomic_path(path):
    """`with atomic_path(path) as temporary:` write a file or folder there; it takes the name `path` when all went well.

    The temporary name lies in the same folder and has the same suffix. On any exception, Ctrl-C included, it is removed
    and an older `path` stays as it was. An OSError (disk full, no such folder) becomes a UserError naming `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_video(frames, path, fps):
    """Frames → H.264 yuv420p mp4 at `fps` (int or float) frames per second.

    yuv420p has one colour sample per 2x2 pixels, so an odd height or width is made even by repeating the last row or
    column. UserError where fps is not above 0 or ffmpeg fails.
    """
    _check_frames(frames)
    _check_fps(fps)
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    # Left alone, ffmpeg turns RGB to YUV by BT.601 and labels nothing: players then guess, some of them BT.709, and
    # shift the colours. So the matrix is named in the file.
    colours = (
        "scale=out_color_matrix=bt601:out_range=tv,format=yuv420p,"
        "setparams=range=tv:colorspace=smpte170m:color_primaries=bt709:color_trc=iec61966-2-1"
    )
    coding = ["-c:v", "libx264", "-crf", "17", "-movflags", "+faststart", "-f", "mp4"]
    _encode(frames, path, fps, ["-vf", colours, *coding])


def write_gif(frames, path, fps):
    """Frames → endless GIF with one palette made for the whole video.

    GIF counts time in 1/100 s: the delays average to `fps`, which is limited to 50, the most that browsers play.
    UserError as in `write_video`.
    """
    _check_frames(frames)
    _check_fps(fps)
    palette = "split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse=dither=sierra2_4a"
    _encode(frames, path, min(fps, _GIF_MAX_FPS), ["-filter_complex", palette, "-loop", "0", "-f", "gif"])


def _encode(frames, path, fps, options):
    """Pipe `frames` through ffmpeg with the given output options into `path`."""
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f"cannot write {path}: no ffmpeg; run `pip install imageio-ffmpeg` ({error})") from error
    height, width = frames.shape[1:3]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", str(fps), "-i", "-"]
    with atomic_path(path) as temporary:
        # absolute: a relative name that begins with "-" or holds ":" would be read as an option or a protocol
        command = [program, "-hide_banner", "-loglevel", "error", "-y", *source, *options, os.path.abspath(temporary)]
        result = subprocess.run(command, input=frames.tobytes(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if result.returncode:
            lines = result.stderr.decode(errors="replace").strip().splitlines()  # the first is the cause
            raise UserError(f"cannot write {path}: ffmpeg: {lines[0] if lines else result.returncode}")


def write_frames(frames, folder):
    """Frames → `folder`/00000.png, 00001.png … The folder appears when all are written. UserError if it exists."""
    _check_frames(frames)
    folder = Path(folder)
    if os.path.lexists(folder):
        raise UserError(f"cannot write frames: {folder} exists already")
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(temporary / f"{index:05d}.png")


def contact_sheet(frames, columns=None):
    """All frames side by side, row by row → uint8 (H, W, 3), on white with a thin gap, at most 2400 pixels wide.

    columns: frames in a row; by default the smallest number that makes no more rows than columns.
    """
    _check_frames(frames)
    count, height, width = frames.shape[:3]
    columns = math.ceil(math.sqrt(count)) if columns is None else min(columns, count)
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    rows = math.ceil(count / columns)
    room = (_SHEET_WIDTH - _SHEET_GAP * (columns - 1)) / columns
    scale = min(1.0, room / width)
    tile_width, tile_height = max(1, int(width * scale)), max(1, round(height * scale))
    sheet_shape = [n * size + (n - 1) * _SHEET_GAP for n, size in ((rows, tile_height), (columns, tile_width))]
    sheet = np.full((*sheet_shape, 3), 255, np.uint8)
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        top, left = row * (tile_height + _SHEET_GAP), column * (tile_width + _SHEET_GAP)
        tile = Image.fromarray(frame).resize((tile_width, tile_height), Image.Resampling.LANCZOS)
        sheet[top : top + tile_height, left : left + tile_width] = np.asarray(tile)
    return sheet


def write_png(image, path):
    """uint8 (h, w, 3) → PNG file."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def write_json(data, path):
    """`data` → JSON file, indented; Path and NumPy values in it become strings and numbers. ValueError on NaN."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _plain(value):
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_npy(array, path):
    """Array → NumPy's .npy file."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


def next_base(folder, stem):
    """A base name for one video's files: `<folder>/<stem>_000`, or the first number after it that nothing uses.

    A number is used if a file or folder is named with it, alone or followed by "." or "_". Makes the folder. The name
    is reserved for this process by a hidden file, removed when the process ends, so that processes running side by side
    never get the same one. UserError if the folder cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = _used_numbers(folder, stem)
        for number in itertools.count():
            digits = f"{number:03d}"
            if digits not in used and _reserve(folder / f".{stem}_{digits}.claim"):
                used = _used_numbers(folder, stem)  # again: another process may have finished since
                if digits not in used:
                    return folder / f"{stem}_{digits}"
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror or error
        raise UserError(f"cannot write to output folder {folder}: {reason}; choose another folder") from error


def _used_numbers(folder, stem):
    pattern = re.compile(re.escape(stem) + r"_(\d{3,})(?:[._]|\Z)")
    return {found.group(1) for found in map(pattern.match, os.listdir(folder)) if found}


def _reserve(claim):
    """Create the file `claim` until this process ends; False where another process, or this one, holds it."""
    try:
        claim.open("x").close()
    except FileExistsError:
        return False
    atexit.register(_release, claim.absolute())
    return True


def _release(claim):
    with contextlib.suppress(OSError):
        claim.unlink()


def _check_frames(frames):
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames must be uint8 (t, h, w, 3), not {frames.dtype} {frames.shape}")


def _check_fps(fps):
    if not (fps > 0 and math.isfinite(fps)):
        raise UserError(f"frames per second must be a number above 0, not {fps}")
