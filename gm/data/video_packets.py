"""What a coded packet holds, read from its first bytes: how many pictures are shown from it, can decoding begin here.

Only for codecs where the answer is certain. Sources: ITU-T H.264 7.3 and D.1.8, ITU-T H.265 7.3, RFC 6386 9.1, the VP9
bitstream specification 6.2 and annex B, the AV1 specification 7.5.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import av

_INTRA_ONLY = {
    "mjpeg",
    "prores",
    "dnxhd",
    "huffyuv",
    "ffvhuff",
    "utvideo",
    "rawvideo",
    "png",
    "dvvideo",
    "v210",
    "jpeg2000",
    "magicyuv",
    "cfhd",
    "qoi",
}


class Look(NamedTuple):
    """pictures: shown from this packet; None where that is not certain. start: decoding can begin here, and what is
    shown after this packet's picture comes out right. closed: so does what follows in the file but is shown before it;
    at an open start that depends on what came before, and a decoder may leave it out. whole: no picture is lost before
    this packet (None: it does not tell); after a loss a decoder may hide pictures, and what others show is chance."""

    pictures: int | None
    start: bool
    closed: bool = True
    whole: bool | None = True


def looker(stream: av.VideoStream) -> Callable[[av.Packet], Look] | None:
    """The function packet → Look for the codec of a stream (av.VideoStream); None where only decoding can tell."""
    name, extra = stream.codec_context.name, stream.codec_context.extradata or b""
    if name == "h264":
        prefix = (extra[4] & 3) + 1 if len(extra) > 6 and extra[0] == 1 else None
        return _H264(prefix, extra)
    if name == "hevc":
        boxed = len(extra) > 22 and (extra[0] or extra[1] or extra[2] > 1)
        prefix = (extra[21] & 3) + 1 if boxed else None
        return lambda packet: _hevc(_units(bytes(packet), prefix))
    if name in ("vp8", "libvpx"):
        return _vp8
    if name in ("vp9", "libvpx-vp9"):
        return _vp9
    if name in ("av1", "libdav1d", "libaom-av1"):  # a temporal unit shows one picture
        return lambda packet: Look(1, packet.is_keyframe, whole=None)
    if name == "ffv1":
        return lambda packet: Look(1, packet.is_keyframe)
    if name == "gif":  # pictures are painted over each other from the first on
        seen = itertools.count()
        return lambda packet: Look(1, next(seen) == 0)
    if name in _INTRA_ONLY:
        return lambda packet: Look(1, True)
    return None


def _units(data: bytes, prefix: int | None) -> Iterator[bytes]:
    """The first bytes of the NAL units of a packet; prefix: bytes of the length before each, None for start codes."""
    if prefix is None:
        position = data.find(b"\0\0\1")
        while position >= 0:
            position += 3
            yield data[position : position + 64]
            position = data.find(b"\0\0\1", position)
        return
    position = 0
    while position + prefix < len(data):
        size = int.from_bytes(data[position : position + prefix], "big")
        position += prefix
        yield data[position : position + min(size, 64)]
        position += size


class _H264:
    """packet → Look. prefix, extra: bytes of the length before each unit (None: start codes), the codec's extradata."""

    def __init__(self, prefix: int | None, extra: bytes) -> None:
        self._prefix = prefix
        self._parameters: tuple[int, int, int] | None = None
        self._last: int | None = None
        for unit in _units_of_extradata(extra):
            if unit and unit[0] & 31 == 7:
                self._take_parameters(unit[1:])

    def __call__(self, packet: av.Packet) -> Look:
        pictures, idr, recovery, intra, whole = 0, False, False, True, True
        for unit in _units(bytes(packet), self._prefix):
            kind = unit[0] & 31 if unit else 0
            if kind in (1, 2, 5):
                try:
                    bits = _Bits(unit[1:])
                    first, slice_type = bits.ue(), bits.ue()
                    whole &= first > 0 or self._follows(bits, kind == 5, unit[0] >> 5 & 3)
                except ValueError:
                    first = slice_type = -1
                pictures += first == 0
                idr |= kind == 5
                intra &= slice_type % 5 in (2, 4)  # I or SI
            elif kind == 6:
                recovery |= _recovers_at_once(unit[1:])
            elif kind == 7:
                self._take_parameters(unit[1:])
        return Look(1 if pictures == 1 else None, idr or (recovery and intra), idr, whole)

    def _take_parameters(self, unit: bytes) -> None:
        try:
            self._parameters = _frame_number_of(_Bits(unit))
        except ValueError:
            self._parameters = None

    def _follows(self, bits: _Bits, idr: bool, is_reference: int) -> bool:
        """Whether frame_num, next in a slice header, counts on from the last reference picture (7.4.3)."""
        if self._parameters is None:
            return True
        length, planes, gaps = self._parameters
        bits.ue()
        bits.u(2 if planes else 0)
        number, last = bits.u(length), self._last
        if is_reference:
            self._last = number
        return idr or bool(gaps) or last is None or number in (last, (last + 1) % (1 << length))


def _units_of_extradata(extra: bytes) -> Iterator[bytes]:
    if extra[:1] != b"\1":
        yield from _units(extra, None)
        return
    position = 6  # ISO/IEC 14496-15, 5.3.3.1
    for _ in range(extra[5] & 31 if len(extra) > 6 else 0):
        size = int.from_bytes(extra[position : position + 2], "big")
        yield extra[position + 2 : position + 2 + min(size, 64)]
        position += 2 + size


def _frame_number_of(bits: _Bits) -> tuple[int, int, int]:
    """(bits of frame_num, separate_colour_plane_flag, whether gaps in it are allowed) of a sequence parameter set."""
    profile, planes = bits.u(8), 0
    bits.u(16)
    bits.ue()
    if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
        chroma = bits.ue()
        planes = bits.u(1) if chroma == 3 else 0
        bits.ue()
        bits.ue()
        bits.u(1)
        for number in range((8 if chroma != 3 else 12) if bits.u(1) else 0):
            if bits.u(1):
                _pass_scaling_list(bits, 16 if number < 6 else 64)
    length, order = bits.ue() + 4, bits.ue()
    if order == 0:
        bits.ue()
    elif order == 1:
        bits.u(1)
        bits.ue()
        bits.ue()
        for _ in range(bits.ue()):
            bits.ue()
    bits.ue()
    return length, planes, bits.u(1)


def _pass_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            number = bits.ue()
            following = (last + ((number + 1) // 2 if number % 2 else -(number // 2))) % 256
        last = following or last


class _Bits:
    """Reads the bits of a NAL unit, emulation prevention left out. ValueError at its end."""

    def __init__(self, unit: bytes) -> None:
        data = unit.replace(b"\0\0\3", b"\0\0")
        self._bits, self._position = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else "", 0

    def u(self, count: int) -> int:
        """An unsigned number of so many bits."""
        end = self._position + count
        if end > len(self._bits):
            raise ValueError("the end of the unit")
        number, self._position = int(self._bits[self._position : end] or "0", 2), end
        return number

    def ue(self) -> int:
        """An Exp-Golomb number, 9.1."""
        zeros = self._bits.index("1", self._position) - self._position
        self._position += zeros
        return self.u(zeros + 1) - 1


def _recovers_at_once(message: bytes) -> bool:
    """Whether an SEI NAL unit holds a recovery point (payload 6) with recovery_frame_cnt 0."""
    position = 0
    while position + 2 < len(message):
        numbers = []
        for _ in range(2):  # payload type, payload size: each a run of 255 and a last byte
            number = 0
            while position < len(message) and message[position] == 255:
                number, position = number + 255, position + 1
            if position >= len(message):
                return False
            numbers.append(number + message[position])
            position += 1
        if numbers[0] == 6:
            return bool(message[position : position + 1]) and message[position] >= 128  # ue(v) 0 is the bit 1
        position += numbers[1]
    return False


def _hevc(units: Iterable[bytes]) -> Look:
    pictures, start, closed = 0, False, False
    for unit in units:
        if len(unit) < 3 or (unit[0] & 1) << 5 | unit[1] >> 3:  # another layer: depth, the other eye
            continue
        kind = unit[0] >> 1 & 63
        if kind < 32:
            pictures += unit[2] >> 7
            start |= 16 <= kind <= 23  # BLA, IDR, CRA
            closed |= kind in (19, 20)  # IDR
    return Look(1 if pictures == 1 else None, start, closed, whole=None)


def _vp8(packet: av.Packet) -> Look:
    data = bytes(packet)[:1]
    return Look(data[0] >> 4 & 1, not data[0] & 1) if data else Look(0, False)


def _vp9(packet: av.Packet) -> Look:
    data = bytes(packet)
    if not data:
        return Look(0, False)
    bits = f"{int.from_bytes(data[:2].ljust(2, bytes(1)), 'big'):016b}"
    header = bits[5:] if bits[2:4] == "11" else bits[4:]  # profile 3 has a reserved bit
    existing, inter, shown = (bit == "1" for bit in header[:3])
    several = data[-1] >> 5 == 0b110  # a superframe: hidden pictures and the one that is shown
    return Look(1 if existing or shown or several else 0, not existing and not inter)
