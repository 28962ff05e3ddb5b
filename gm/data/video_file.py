"""A video file opened for demuxing: what may be opened, which of its streams is the video, what is wrong with it.

Nothing but a plain file is ever opened, and no playlist: a name such as `concat:a|b`, `http://…` or `a.m3u8` gives no
file a way to make the program read another one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av

from gm.errors import UserError
from gm.files import kind_of

if TYPE_CHECKING:
    from av.container import InputContainer

SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".qt",
    ".3gp",
    ".3g2",
    ".mkv",
    ".webm",
    ".avi",
    ".gif",
    ".ts",
    ".mts",
    ".m2ts",
    ".m2t",
    ".mpg",
    ".mpeg",
    ".m2v",
    ".vob",
    ".wmv",
    ".asf",
    ".flv",
    ".f4v",
    ".ogv",
    ".mxf",
)
# What ffmpeg's many readers may be used, whatever the suffix says; the others read playlists, series of pictures,
# sound or devices.
_CONTAINERS = (
    "mov",
    "mp4",
    "matroska",
    "webm",
    "avi",
    "gif",
    "mpegts",
    "mpeg",
    "mpegvideo",
    "m4v",
    "h264",
    "hevc",
    "asf",
    "flv",
    "live_flv",
    "ogg",
    "ivf",
    "obu",
    "mxf",
    "dv",
    "rm",
    "nut",
    "yuv4mpegpipe",
)
_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(_CONTAINERS),
    "fflags": "-genpts",  # PyAV adds it: time stamps made up where the file has none
}
# What ffmpeg and PyAV raise on damaged content: their own errors, and others from headers that lie about sizes.
ERRORS = (av.error.FFmpegError, OSError, ValueError, MemoryError, OverflowError, RuntimeError, EOFError)
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"[playlist]", b"<SMIL", b"<MPD")
_UNREADABLE = "not a video that can be read; re-encode it, for instance as H.264 in .mp4"


def open_container(path: str | Path) -> tuple[InputContainer, av.VideoStream]:
    """(container, stream): the file open for demuxing, and its video. UserError, naming file and reason."""
    fault = _recognised_fault(path)
    if fault:
        raise UserError(f"{path}: {fault}")
    try:
        # "file:" and an absolute path: a name with a colon would be taken for a protocol. Not as `options`: PyAV 15
        # hands those to the streams too, and crashes where these are found later (flv, mpg).
        name = "file:" + os.path.abspath(path)
        container = av.open(name, container_options=_OPTIONS, metadata_errors="ignore")
    except ERRORS as error:
        raise UserError(f"{path}: {_UNREADABLE}") from error
    try:
        return container, _video_stream(container, path)
    except BaseException:
        container.close()
        raise


def _video_stream(container: InputContainer, path: str | Path) -> av.VideoStream:
    """The stream that ffmpeg takes: the largest picture, unless another is marked as the default; no cover picture."""

    def rank(stream: av.VideoStream) -> int:
        area = stream.codec_context.width * stream.codec_context.height
        return area + (5_000_000 if stream.disposition & av.stream.Disposition.default else 0)

    streams = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & av.stream.Disposition.attached_pic
    ]
    if not streams:
        decoderless = any(stream.type == "video" and stream.codec_context is None for stream in container.streams)
        raise UserError(f"{path}: {_UNREADABLE} ({'unknown codec' if decoderless else 'there is no video in it'})")
    return max(streams, key=rank)


def is_cut_off(path: str | Path) -> bool:
    """Whether an ISO media file (mp4, mov) ends before one of its boxes does."""
    with open(path, "rb") as file:
        found = list(boxes(file))
        return bool(found) and found[0][0] == b"ftyp" and found[-1][2] > file.seek(0, os.SEEK_END)


def _recognised_fault(path: str | Path) -> str | None:
    """What is wrong with a file, where its bytes tell it more clearly than a decoder does; None if nothing is seen."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            if not head:
                return "an empty file (0 bytes)"
            if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_PLAYLISTS):
                return f"a playlist or other text file, not a video (it begins with {_shown(head)})"
            if _is_text(head):
                return f"a text file, not a video (it begins with {_shown(head)})"
            if head[4:8] == b"ftyp" and not any(kind == b"moov" for kind, _, _ in boxes(file)):
                return "cut off: its index (the `moov` box, often at the end) is missing; copy or record it again"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None


def _is_text(head: bytes) -> bool:
    """ASCII or UTF-8 without control characters; the last letter may be cut."""
    if any(byte < 32 and byte not in b"\t\n\r\f" or byte == 127 for byte in head):
        return False
    return "�" not in head.decode("utf-8", errors="replace")[:-1]


def _shown(head: bytes) -> str:
    return repr(head[:20].decode("utf-8", errors="replace"))


def boxes(file: BinaryIO, position: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of the content, end) of the boxes of an ISO media file between two places, of the whole file by
    default: ISO/IEC 14496-12, section 4.2. The last may end beyond the file."""
    end = file.seek(0, os.SEEK_END) if end is None else end
    while position + 8 <= end:
        file.seek(position)
        header = file.read(16)
        size, kind, head = int.from_bytes(header[:4], "big"), header[4:8], 8
        if size == 1:  # a 64-bit size follows
            size, head = int.from_bytes(header[8:16], "big"), 16
        if size == 0:  # the box reaches to the end of the file
            size = end - position
        if size < 8:
            return
        yield kind, position + head, position + size
        position += size


def checked_path(path: str | Path) -> Path:
    """`path` as a Path. UserError if there is no file, saying what there is."""
    path, kind = Path(path), kind_of(path)
    if kind is None:
        raise UserError(f"no video file at {path}")
    if kind != "a file":
        raise UserError(f"{path} is {kind}, not a video file")
    return path
