"""What a coded packet holds, read from its first bytes: how many pictures are shown from it, can decoding begin here.

Only for codecs where the answer is certain. Sources: ITU-T H.264 7.3 and D.1.8, ITU-T H.265 7.3, RFC 6386 9.1, the VP9
bitstream specification 6.2 and annex B, the AV1 specification 7.5.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

_INTRA_ONLY = {
    "mjpeg", "prores", "dnxhd", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "png", "dvvideo", "v210", "jpeg2000",
    "magicyuv", "cfhd", "qoi",
}


class Look(NamedTuple):
    """pictures: shown from this packet; None where that is not certain. start: decoding can begin here, and what is
    shown after this packet's picture comes out right. closed: so does what follows in the file but is shown before it;
    at an open start that depends on what came before, and a decoder may leave it out."""

    pictures: int | None
    start: bool
    closed: bool = True


def looker(stream):
    """The function packet → Look for the codec of a stream (av.VideoStream); None where only decoding can tell."""
    name, extra = stream.codec_context.name, stream.codec_context.extradata or b""
    if name == "h264":
        prefix = (extra[4] & 3) + 1 if len(extra) > 6 and extra[0] == 1 else None
        return lambda packet: _h264(_units(bytes(packet), prefix))
    if name == "hevc":
        boxed = len(extra) > 22 and (extra[0] or extra[1] or extra[2] > 1)
        prefix = (extra[21] & 3) + 1 if boxed else None
        return lambda packet: _hevc(_units(bytes(packet), prefix))
    if name in ("vp8", "libvpx"):
        return _vp8
    if name in ("vp9", "libvpx-vp9"):
        return _vp9
    if name in ("av1", "libdav1d", "libaom-av1", "ffv1"):  # a temporal unit shows one picture
        return lambda packet: Look(1, packet.is_keyframe)
    if name == "gif":  # pictures are painted over each other from the first on
        seen = itertools.count()
        return lambda packet: Look(1, next(seen) == 0)
    if name in _INTRA_ONLY:
        return lambda packet: Look(1, True)
    return None


def _units(data, prefix):
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


def _h264(units):
    pictures, idr, recovery, intra = 0, False, False, True
    for unit in units:
        kind = unit[0] & 31 if unit else 0
        if kind in (1, 2, 5):
            first, slice_type = _exp_golomb(unit[1:], 2)
            pictures += first == 0
            idr |= kind == 5
            intra &= slice_type % 5 in (2, 4)  # I or SI
        elif kind == 6:
            recovery |= _recovers_at_once(unit[1:])
    return Look(1 if pictures == 1 else None, idr or (recovery and intra), idr)


def _recovers_at_once(message):
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


def _exp_golomb(data, count):
    """The first `count` ue(v) numbers of a slice header."""
    bits = "".join(f"{byte:08b}" for byte in data[:12])
    numbers, position = [], 0
    for _ in range(count):
        one = bits.find("1", position)
        zeros = one - position
        if one < 0 or one + zeros >= len(bits):
            return [-1] * count
        numbers.append(int(bits[one : one + zeros + 1], 2) - 1)
        position = one + zeros + 1
    return numbers


def _hevc(units):
    pictures, start, closed = 0, False, False
    for unit in units:
        if len(unit) < 3 or (unit[0] & 1) << 5 | unit[1] >> 3:  # another layer: depth, the other eye
            continue
        kind = unit[0] >> 1 & 63
        if kind < 32:
            pictures += unit[2] >> 7
            start |= 16 <= kind <= 23  # BLA, IDR, CRA
            closed |= kind in (19, 20)  # IDR
    return Look(1 if pictures == 1 else None, start, closed)


def _vp8(packet):
    data = bytes(packet)[:1]
    return Look(data[0] >> 4 & 1, not data[0] & 1) if data else Look(0, False)


def _vp9(packet):
    data = bytes(packet)
    if not data:
        return Look(0, False)
    bits = f"{int.from_bytes(data[:2].ljust(2, bytes(1)), 'big'):016b}"
    header = bits[5:] if bits[2:4] == "11" else bits[4:]  # profile 3 has a reserved bit
    existing, inter, shown = (bit == "1" for bit in header[:3])
    several = data[-1] >> 5 == 0b110  # a superframe: hidden pictures and the one that is shown
    return Look(1 if existing or shown or several else 0, not existing and not inter)
