"""What a container says is to be cut off from the stored pictures, which PyAV does not hand on: `clap` in mp4 and mov
(ISO/IEC 14496-12, 12.1.4), PixelCrop… in Matroska (RFC 9559, 5.1.4.1.28). Cameras use it for the 8 lines of a height of
1088 that are none of the picture."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from gm.data.video_file import boxes

_NOTHING = 0, 0, 0, 0
_ERRORS = OSError, ValueError, ArithmeticError, struct.error, StopIteration  # structures that are not as they should be
_SEGMENT, _TRACKS, _ENTRY, _TYPE, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0x83, 0xE0
_CROPS = 0x54CC, 0x54BB, 0x54DD, 0x54AA
_VISUAL_ENTRY = 8 + 78  # bytes of a sample entry before its boxes


def container_crop(path: str | Path, track: int, number: int, size: tuple[int, int]) -> tuple[int, ...]:
    """Pixels that are cut off: (left, top, right, bottom), zeros where the file says nothing that fits.

    track: id of the video's track; number: which of the file's videos it is, from 0; size: (height, width) as stored.
    """
    with contextlib.suppress(*_ERRORS), open(path, "rb") as file:
        head = file.read(8)
        crop = _matroska(file, number) if head[:4] == b"\x1aE\xdf\xa3" else _clap(file, track, size)
        if crop[0] + crop[2] < size[1] and crop[1] + crop[3] < size[0] and min(crop) >= 0:
            return crop
    return _NOTHING


def _clap(file: BinaryIO, track: int, size: tuple[int, int]) -> tuple[int, ...]:
    moov = _one(file, b"moov", 0, file.seek(0, 2))
    for start, end in _all(file, b"trak", *moov):
        header, _ = _one(file, b"tkhd", start, end)
        file.seek(header)
        content = file.read(24)
        if int.from_bytes(content[20:24] if content[0] else content[12:16], "big") != track:
            continue
        for name in (b"mdia", b"minf", b"stbl", b"stsd"):
            start, end = _one(file, name, start, end)
        start, _ = _one(file, b"clap", start + 8 + _VISUAL_ENTRY, end)
        file.seek(start)
        numbers = struct.unpack(">IIIIiIiI", file.read(32))
        width, height, right, down = (Fraction(a, b) for a, b in zip(numbers[::2], numbers[1::2]))
        left, top = (size[1] - width) / 2 + right, (size[0] - height) / 2 + down
        last_column, last_row = math.floor(left + width - 1), math.floor(top + height - 1)
        return math.ceil(left), math.ceil(top), size[1] - 1 - last_column, size[0] - 1 - last_row
    return _NOTHING


def _one(file: BinaryIO, name: bytes, start: int, end: int) -> tuple[int, int]:
    return next(_all(file, name, start, end))


def _all(file: BinaryIO, name: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the contents of the boxes of one name between two places of the file."""
    return ((first, last) for kind, first, last in boxes(file, start, end) if kind == name)


def _matroska(file: BinaryIO, number: int) -> tuple[int, ...]:
    end = file.seek(0, 2)
    segment = next((a, b) for name, a, b in _elements(file, 0, end) if name == _SEGMENT)
    tracks = next((a, b) for name, a, b in _elements(file, *segment) if name == _TRACKS)
    videos = []
    for name, *entry in _elements(file, *tracks):
        parts = {part: place for part, *place in _elements(file, *entry)} if name == _ENTRY else {}
        if _number(file, parts.get(_TYPE)) == 1:
            videos.append(parts.get(_VIDEO))
    video = videos[number] if number < len(videos) else None
    parts = {part: place for part, *place in _elements(file, *video)} if video else {}
    return tuple(_number(file, parts.get(name)) for name in _CROPS)


def _elements(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(id, start, end) of the elements between two places of the file: RFC 8794, 4 to 6."""
    while start < end:
        file.seek(start)
        name, used = _variable(file.read(8), keep=True)
        file.seek(start + used)
        size, length = _variable(file.read(8), keep=False)
        start += used + length
        last = end if size == (1 << 7 * length) - 1 else min(end, start + size)  # of unknown size
        yield name, start, last
        start = last


def _variable(data: bytes, keep: bool) -> tuple[int, int]:
    """(number, bytes that it takes) of a variable-size integer; keep: with its length marker."""
    length = 9 - data[:1].ljust(1, b"\0")[0].bit_length()
    if length > len(data):
        raise ValueError("no element")
    return int.from_bytes(data[:length], "big") & ((1 << 8 * length) - 1 if keep else (1 << 7 * length) - 1), length


def _number(file: BinaryIO, place: Sequence[int] | None) -> int:
    if place is None:
        return 0
    file.seek(place[0])
    return int.from_bytes(file.read(min(8, place[1] - place[0])), "big")
