"""The index of a video: which packet shows frame n, and from which packet on it must be decoded.

Frame n is the n-th that ffmpeg gives when it decodes the file from its beginning. Where the packets' time stamps and
first bytes tell for certain what a decoder will show, nothing is decoded (`index_by_packets`); else the file is decoded
once (`index_by_decoding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from gm.data.video_decoder import Run
from gm.data.video_file import ERRORS
from gm.data.video_packets import looker

if TYPE_CHECKING:
    import av

    from gm.data.video_decoder import Decoder
    from gm.data.video_packets import Look

_GAP = 1.5  # times the usual step


class Packet(NamedTuple):
    """By what a packet is found again. pts, dts in units of the stream's time base, pos in bytes; None: not known."""

    pts: int | None
    dts: int | None
    pos: int | None
    size: int

    @property
    def time(self) -> int | None:
        """What to seek to."""
        return self.dts if self.pts is None else self.pts

    def is_same(self, packet: av.Packet) -> bool:
        """Whether an av.Packet is this one."""
        return (packet.pts, packet.dts, packet.pos, packet.size) == self


class Start(NamedTuple):
    """The packet `number`, at which decoding can begin. Every frame from number `first` on then comes out right."""

    number: int
    first: int
    packet: Packet


@dataclass(frozen=True)
class Index:
    """shown: the number of the packet that shows each frame; times: when it is shown, in seconds from the first on;
    starts: of `Start`, ascending; fps: frames per second of shown duration; size: (height, width) of the first frame as
    it is stored, None if it cannot be decoded; decoded: whether the file was decoded for it; damaged: the first frame
    that cannot be decoded, None if there is none, or if that is not known; matrix: how the first frame, and with it the
    whole video, is turned upright, as `display_matrix` gives it; lossy: pictures are missing in the stream,
    so that what a decoder shows depends on all that it was given before; pixel: `pixel_shape` at the first frame."""

    shown: list[int]
    times: list[float]
    starts: list[Start]
    fps: float
    size: tuple[int, int] | None
    decoded: bool
    damaged: int | None = None
    matrix: list[int] | None = None
    lossy: bool = False
    pixel: list[int] | None = None

    def __len__(self) -> int:
        return len(self.shown)

    @cached_property
    def _frames(self) -> dict[tuple[int | None, int], int]:
        counts: dict[int, int] = {}
        found: dict[tuple[int | None, int], int] = {}
        for frame, packet in enumerate(self.shown):
            nth = counts.get(packet, 0)
            counts[packet] = nth + 1
            found[packet, nth] = frame
        return found

    def frame_of(self, packet: int | None, nth: int) -> int | None:
        """The frame that a packet shows, its nth from 0 (all but a few odd packets show one); None if it is hidden."""
        return self._frames.get((packet, nth))

    def start_of(self, frame: int) -> Start:
        """The last `Start` from which `frame` comes out right."""
        packet = self.shown[frame]
        return next(s for s in reversed(self.starts) if s.number <= packet and s.first <= frame)


@dataclass(frozen=True)
class _Seen:
    """A packet of the file. look: gm.data.video_packets.Look, None if only decoding can tell."""

    packet: Packet
    duration: int
    key: bool
    discard: bool
    corrupt: bool
    look: Look | None


def make_index(decoder: Decoder) -> Index:
    """The Index of the file of a `gm.data.video_decoder.Decoder`."""
    seen = _scan(decoder)
    index = _index_by_packets(seen, decoder.stream)
    if index is not None:
        run = Run(decoder, index, index.starts[0])
        first = run.frame(0)
        if first is not None:
            decoder.run = run
            size, matrix = (first.height, first.width), display_matrix(first)
            return replace(index, size=size, matrix=matrix, pixel=pixel_shape(decoder))
    return index_by_decoding(decoder, seen)


def _scan(decoder: Decoder) -> list[_Seen]:
    decoder.rewind()
    look = looker(decoder.stream)
    seen = []
    try:
        for packet in decoder.packets():
            if packet.size or packet.dts is not None or packet.pts is not None:
                seen.append(
                    _Seen(
                        Packet(packet.pts, packet.dts, packet.pos, packet.size),
                        packet.duration or 0,
                        packet.is_keyframe,
                        packet.is_discard,
                        packet.is_corrupt,
                        look and look(packet),
                    )
                )
    except ERRORS:  # the file ends within a packet, or its structure is damaged: what came before counts
        pass
    return seen


def _index_by_packets(seen: list[_Seen], stream: av.VideoStream) -> Index | None:
    """The Index without decoding; None where it would not be certain."""
    known = _certain(seen)
    if not known:
        return None
    if stream.codec_context.has_b_frames and _are_decoding_times(seen):
        return None
    stamps = {n: pts for n, (one, look, pts) in enumerate(known) if look.pictures and not one.discard}
    shown = sorted(stamps, key=stamps.__getitem__)
    ordered = [stamps[number] for number in shown]
    steps = [b - a for a, b in zip(ordered, ordered[1:])]
    if not shown or 0 in steps:
        return None
    if known[0][1].whole is None and steps and max(steps) > _GAP * sorted(steps)[len(steps) // 2]:
        return None  # a picture may be lost there
    starts = [
        Start(number, int(np.searchsorted(ordered, pts)), one.packet)
        for number, (one, look, pts) in enumerate(known)
        if look.start and one.key
    ]
    times, fps = _times(ordered, seen[shown[-1]].duration, stream)
    return Index(shown, times, starts, fps, None, decoded=False)


def _certain(seen: list[_Seen]) -> list[tuple[_Seen, Look, int]]:
    """Each packet, its look and its pts; [] where they do not tell for certain what a decoder will show."""
    known = [(one, one.look, one.packet.pts) for one in seen if one.look is not None and one.packet.pts is not None]
    if not known or len(known) < len(seen):
        return []
    first, begin, least = known[0]
    if not (first.key and begin.start):
        return []
    for one, look, pts in known:
        if one.corrupt or pts < least:
            return []
        if look.pictures is None or look.whole is False:
            return []
        # An open start is harmless where the stream is whole, but not where two streams were joined.
        if look.start and not look.closed:
            return []
    decoding = [one.packet.dts for one in seen if one.packet.dts is not None]  # not known for Matroska's first few
    return known if all(a < b for a, b in zip(decoding, decoding[1:])) else []


def _are_decoding_times(seen: list[_Seen]) -> bool:
    """Whether the times are those of decoding, ascending in the file: all that AVI knows, and mp4 where `ctts` is left
    out. Of a stream whose pictures are shown in another order they do not tell which one."""
    times = [one.packet.pts for one in seen if one.packet.pts is not None]
    return len(times) == len(seen) and all(a <= b for a, b in zip(times, times[1:]))


def index_by_decoding(decoder: Decoder, seen: list[_Seen] | None = None) -> Index:
    """The Index from decoding the whole file. seen: what a scan of its packets has found."""
    seen = _scan(decoder) if seen is None else seen
    decoder.rewind({"skip_loop_filter": "all"})  # the look of the pictures does not matter here
    shown: list[int] = []
    keys: dict[int, int] = {}
    damaged: int | None = None
    first: tuple[tuple[int, int], list[int] | None, list[int]] | None = None
    for _, frames, failed in decoder.decode(enumerate(decoder.packets())):
        if failed and shown and damaged is None:  # before the first picture: the beginning of a recording
            damaged = len(shown)
        for frame in frames:
            if frame.is_corrupt and damaged is None:
                damaged = len(shown)
            if first is None:
                first = (frame.height, frame.width), display_matrix(frame), pixel_shape(decoder)
            packet = cast(int, frame.pts)  # its number, by `decode`
            if frame.key_frame:
                keys[packet] = len(shown)
            shown.append(packet)
    decoder.rewind()
    starts = [Start(0, 0, seen[0].packet)] if seen else []
    lossy = any(one.look and one.look.whole is False for one in seen)
    for number, position in sorted(keys.items()):
        one = seen[number]
        if number and one.key and (one.look is None or one.look.start and (one.look.closed or not lossy)):
            starts.append(Start(number, _first_after(shown, number, position), one.packet))
    stamps: Sequence[int | None] = [seen[number].packet.pts for number in shown]
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) < len(stamps):
        stamps = [seen[number].packet.dts for number in sorted(shown)]
    elif _are_decoding_times(seen):
        stamps = sorted(known)
    times, fps = _times(stamps, seen[shown[-1]].duration, decoder.stream) if shown else ([], 0.0)
    size, matrix, pixel = first or (None, None, None)
    return Index(shown, times, starts, fps, size, True, damaged, matrix, lossy, pixel)


def pixel_shape(decoder: Decoder) -> list[int]:
    """[width, height] of a pixel as the stream of a `gm.data.video_decoder.Decoder` states it where it is decoded now;
    [1, 1] where it states none. A container's word counts for more, and is not looked at here."""
    ratio = decoder.stream.codec_context.sample_aspect_ratio or 1
    return [ratio.numerator, ratio.denominator]


def display_matrix(frame: av.VideoFrame) -> list[int] | None:
    """The nine numbers of the display matrix of an av.VideoFrame (ISO/IEC 14496-12, 8.3.2); None where it has none. A
    container's is on each frame; one within the stream may be on the first alone, though it is meant for all."""
    try:
        side_data: Any = frame.side_data  # PyAV's types know of motion vectors alone
        matrix = next((data for data in side_data if data.type.name == "DISPLAYMATRIX"), None)
    except ValueError:  # beside it is what this PyAV has no name for, such as EXIF: it tells the turn alone, no mirror
        turn = np.deg2rad(frame.rotation)
        ahead, aside = (round(65536 * part) for part in (np.cos(turn), np.sin(turn)))
        return [ahead, -aside, 0, aside, ahead, 0, 0, 0, 1 << 30] if frame.rotation else None
    return None if matrix is None else np.frombuffer(bytes(matrix), np.int32)[:9].tolist()


def _first_after(shown: list[int], number: int, position: int) -> int:
    """The first frame from which on all are shown by packets from `number` on; `position`: the frame of that packet."""
    before = [frame for frame in range(position, min(len(shown), position + 64)) if shown[frame] < number]
    return before[-1] + 1 if before else position


def _times(stamps: Sequence[int | None], last_duration: int, stream: av.VideoStream) -> tuple[list[float], float]:
    """(seconds at which each frame is shown, frames per second) from their time stamps, in the order in which they are
    shown, and for how long the last is shown, both in units of the time base; None and 0: unknown."""
    count, unit = len(stamps), stream.time_base
    known = [stamp for stamp in stamps if stamp is not None]
    if unit and len(known) == count:
        steps = [after - before for before, after in zip(known, known[1:])]
        usual = sorted(steps)[count // 2 - 1] if steps else 0
        steps = [step if step >= 0 else usual for step in steps]  # a joined stream may count from zero again
        duration = sum(steps) + (last_duration or (steps[-1] if steps and steps[-1] > 0 else usual))
        if duration > 0:
            times = accumulate(steps, initial=0)
            return [round(n * unit.numerator / unit.denominator, 6) for n in times], float(count / (duration * unit))
    fps = float(stream.average_rate or stream.guessed_rate or stream.base_rate or 0)
    return [round(n / fps, 6) if fps else 0.0 for n in range(count)], fps
