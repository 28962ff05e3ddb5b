"""Videos out: decoded frames as an mp4, a GIF, a folder of pictures or one contact sheet.

`to_uint8` → `write_video`, `write_gif`, `write_frames`, `contact_sheet`. Frames are uint8 (t, h, w, 3) RGB. Files are
whole or absent (`gm.files.atomic_path`). What cannot be written is a UserError that names the path. `about`, a line of
text, goes into the file's metadata: what made the video.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gm import interrupts
from gm.errors import UserError
from gm.files import atomic_path, temporary_folder

_SHEET_WIDTH = 2400  # pixels at most
_SHEET_GAP = 4
# What ffmpeg may take at most, many times what it takes on a slow machine: it must not hang for ever.
_SECONDS, _SECONDS_PER_MEGAPIXEL = 120, 20
GIF_MAX_FPS = 50.0  # a delay below 2/100 s is played at 1/10 s by the browsers


def to_uint8(frames: np.ndarray, mark: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
    """float32 (t, 3, h, w), nominally in [-1, 1] → uint8 (t, h, w, 3): clamp((x + 1) / 2, 0, 1) · 255, truncated.

    Same float32 arithmetic as the original script. `mark`, if given, changes the clamped frames, float32 (1, 3, h, w)
    in [0, 1], before they are truncated: `gm.data.watermark.embed_watermark`. UserError on NaN or infinity, which
    would become arbitrary bytes.
    """
    count, channels, height, width = frames.shape
    pixels = np.empty((count, height, width, channels), np.uint8)
    for index, frame in enumerate(frames):  # one at a time: the float copies stay small
        if not np.isfinite(frame).all():
            raise UserError(f"frame {index} holds NaN or infinite values; if you run in float16, try --amp_level=O0")
        unit = np.clip((frame.astype(np.float32) + np.float32(1)) / np.float32(2), 0, 1)
        if mark is not None:
            unit = mark(unit[None])[0]
        pixels[index] = (unit * np.float32(255)).astype(np.uint8).transpose(1, 2, 0)
    return pixels


def write_video(frames: np.ndarray, path: str | Path, fps: float, about: str = "") -> None:
    """Frames → H.264 yuv420p mp4 at `fps` (int or float) frames per second; `about` is its tag "comment".

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
    _encode(frames, path, fps, ["-vf", colours, "-metadata", f"comment={about}", *coding])


def write_gif(frames: np.ndarray, path: str | Path, fps: float, about: str = "") -> None:
    """Frames → endless GIF with one palette made for the whole video; `about` is its comment, which ffmpeg writes not.

    GIF counts time in 1/100 s: the delays average to `fps`, which is limited to 50, the most that browsers play.
    UserError as in `write_video`.
    """
    _check_frames(frames)
    _check_fps(fps)
    palette = "split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse=dither=sierra2_4a"
    options = ["-filter_complex", palette, "-loop", "0", "-f", "gif"]
    _encode(frames, path, min(fps, GIF_MAX_FPS), options, (lambda made: _add_comment(made, about)) if about else None)


def _add_comment(path: Path, text: str) -> None:
    """Put a comment extension (GIF89a, section 24) before the first picture of a GIF file."""
    content, parts = path.read_bytes(), text.encode("ascii", "replace")
    table = 3 * 2 ** ((content[10] & 7) + 1) if content[10] & 0x80 else 0  # the palette behind the two headers
    blocks = b"".join(bytes([len(parts[i : i + 255])]) + parts[i : i + 255] for i in range(0, len(parts), 255))
    start = 13 + table
    path.write_bytes(content[:start] + b"\x21\xfe" + blocks + b"\x00" + content[start:])


def _encode(
    frames: np.ndarray,
    path: str | Path,
    fps: float,
    options: Sequence[str],
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Pipe `frames` through ffmpeg with the given output options into `path`; finish(path) changes it at last."""
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(f"cannot write {path}: no ffmpeg; run `pip install imageio-ffmpeg` ({error})") from error
    height, width = frames.shape[1:3]
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", str(fps), "-i", "-"]
    limit = _SECONDS + _SECONDS_PER_MEGAPIXEL * len(frames) * height * width / 1e6
    with atomic_path(path) as temporary:
        # absolute: a relative name that begins with "-" or holds ":" would be read as an option or a protocol
        command = [program, "-hide_banner", "-loglevel", "error", "-y", *source, *options, os.path.abspath(temporary)]
        try:
            status, messages = _run(command, frames.tobytes(), limit)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"cannot write {path}: ffmpeg ({program}) did not end in {limit:.0f} s") from error
        if status:
            lines = messages.decode(errors="replace").strip().splitlines()  # the first is the cause
            ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
            raise UserError(f"cannot write {path}: ffmpeg: {lines[0] if lines else ended}")
        if finish is not None:
            finish(temporary)


def _run(command: Sequence[str], content: bytes, limit: float) -> tuple[int, bytes]:
    """(exit status, stderr) of a program that reads `content`; it ends with this process, and after `limit` seconds."""
    pipe = subprocess.PIPE
    with interrupts.lock:
        process = subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, env=os.environ)
        interrupts.add(process.kill)
    try:
        messages = process.communicate(content, limit)[1]
        return process.returncode, messages
    finally:
        process.kill()
        process.wait()
        interrupts.remove(process.kill)


def try_out(kind: str, fps: float, folder: str | Path) -> None:
    """Write two small frames as a `kind` ("mp4" or "gif") and throw them away: what cannot be written is told early.

    UserError as in `write_video`: no ffmpeg, one that fails, a rate that it does not take.
    """
    write = {"mp4": write_video, "gif": write_gif}[kind]
    try:
        with temporary_folder(folder) as place:
            write(np.zeros((2, 64, 64, 3), np.uint8), place / f"trial.{kind}", fps)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error


def write_frames(frames: np.ndarray, folder: str | Path, about: str = "") -> None:
    """Frames → `folder`/00000.png, 00001.png …, `about` in each one's text "Comment". The folder appears when all are
    written. UserError if it exists."""
    _check_frames(frames)
    folder = Path(folder)
    if os.path.lexists(folder):
        raise UserError(f"cannot write frames: {folder} exists already")
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(temporary / f"{index:05d}.png", pnginfo=png_text(about))


def png_text(about: str) -> PngInfo:
    """What a PNG file tells of its making, for Pillow."""
    info = PngInfo()
    if about:
        info.add_text("Comment", about)
    return info


def contact_sheet(frames: np.ndarray, columns: int | None = None) -> np.ndarray:
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


def _check_frames(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"frames must be uint8 (t, h, w, 3), not {frames.dtype} {frames.shape}")


def _check_fps(fps: float) -> None:
    if not (fps > 0 and math.isfinite(fps)):
        raise UserError(f"frames per second must be a number above 0, not {fps}")
