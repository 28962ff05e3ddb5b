"""The index of a video: which packet shows frame n, and from which packet on it must be decoded.

Frame n is the n-th that ffmpeg gives when it decodes the file from its beginning; a packet is known by its number in
the file, from 0. Where the packets' first bytes and time stamps tell for certain what a decoder will show, nothing is
decoded (`index_by_packets`); else the file is decoded once (`index_by_decoding`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from gm.data.video_file import ERRORS
from gm.data.video_packets import looker


@dataclass(frozen=True)
class Packet:
    """pts, dts, duration in units of the stream's time base; pos, the byte in the file. None where not known."""

    pts: int | None
    dts: int | None
    pos: int | None
    size: int
    duration: int
    key: bool
    discard: bool
    corrupt: bool
    look: object = None

    def is_same(self, packet):
        """Whether an av.Packet is this one."""
        return (packet.pts, packet.dts, packet.pos, packet.size) == (self.pts, self.dts, self.pos, self.size)


@dataclass(frozen=True)
class Start:
    """A packet at which decoding can begin. Every frame from number `first` on then comes out right."""

    number: int
    first: int
    packet: Packet


@dataclass(frozen=True)
class Index:
    """shown: int64 (n,), the number of the packet that shows each frame. starts: ascending; fps: frames per second.

    damaged: the first frame that cannot be decoded, None if there is none or the file has not been decoded.
    """

    shown: np.ndarray
    starts: list
    fps: float
    decoded: bool
    damaged: int | None = None
    positions: dict = field(default_factory=dict, compare=False)

    def __post_init__(self):
        # (packet, how many pictures it has shown before) → frame; all but a few odd packets show one.
        counts = {}
        for frame, packet in enumerate(self.shown.tolist()):
            nth = counts.get(packet, 0)
            counts[packet] = nth + 1
            self.positions[packet, nth] = frame

    def __len__(self):
        return len(self.shown)

    def start_of(self, frame):
        """The last start from which `frame` comes out right."""
        packet = self.shown[frame]
        return max(
            (s for s in self.starts if s.first <= frame and s.number <= packet), key=lambda s: s.number,
            default=self.starts[0],
        )


def read_packets(container, stream):
    """All packets of a stream, in the order of the file, with what their first bytes tell."""
    look = looker(stream)
    found = []
    try:
        for packet in container.demux(stream):
            if packet.size == 0 and packet.dts is None and packet.pts is None:
                continue  # the empty packet at the end
            found.append(_noted(packet, look))
    except ERRORS:  # the file ends within a packet, or its structure is damaged: what came before counts
        pass
    return found


def _noted(packet, look=None):
    return Packet(
        packet.pts, packet.dts, packet.pos, packet.size, packet.duration or 0, packet.is_keyframe, packet.is_discard,
        packet.is_corrupt, look and look(packet),
    )


def index_by_packets(packets, stream):
    """The Index without decoding; None where it would not be certain."""
    if not packets or packets[0].look is None or not _is_certain(packets):
        return None
    times = {number: packet.pts for number, packet in enumerate(packets) if packet.look.pictures and not packet.discard}
    shown = np.array(sorted(times, key=times.get), np.int64)
    ordered = np.array([times[number] for number in shown.tolist()], np.int64)
    if not len(shown) or (np.diff(ordered) <= 0).any():
        return None
    starts = [
        Start(number, int(np.searchsorted(ordered, packet.pts)), packet)
        for number, packet in enumerate(packets)
        if number == 0 or (packet.look.start and packet.key)
    ]
    return Index(shown, starts, _fps(ordered.tolist(), packets[int(shown[-1])].duration, stream), decoded=False)


def _is_certain(packets):
    first = packets[0]
    if not first.key or not all(p.look.pictures <= 1 and not p.look.breaks for p in packets):
        return False
    if any(p.pts is None or p.corrupt or p.pts < first.pts for p in packets):
        return False
    decoding = [p.dts for p in packets if p.dts is not None]  # Matroska has none: the first few are not known
    return all(a < b for a, b in zip(decoding, decoding[1:]))


def index_by_decoding(container, stream, packets):
    """The Index from decoding the file, open at its beginning, to its end."""
    shown, keys, damaged = [], {}, None
    expected = {number for number, packet in enumerate(packets) if not packet.discard}
    for _number, frames, failed in decode_run(stream, numbered(container.demux(stream))):
        if failed and shown and damaged is None:
            damaged = len(shown)
        for frame in frames:
            if frame.key_frame:
                keys[frame.pts] = len(shown)
            if frame.is_corrupt and damaged is None:
                damaged = len(shown)
            shown.append(frame.pts)
    del expected
    starts = [Start(0, 0, packets[0])] if packets else []
    for number, position in sorted(keys.items()):
        packet = packets[number]
        if number and packet.key and (packet.look is None or packet.look.start):
            behind = [p for p in range(position, len(shown)) if shown[p] < number]
            starts.append(Start(number, behind[-1] + 1 if behind else position, packet))
    times = [packets[number].pts for number in shown]
    if any(time is None for time in times):
        times = [packets[number].dts for number in sorted(shown)]
    fps = _fps(times, packets[shown[-1]].duration, stream) if shown else 0.0
    return Index(np.array(shown, np.int64), starts, fps, decoded=True, damaged=damaged)


def numbered(demuxed, first=0):
    """(number, av.Packet) of packets; (None, empty packet) at the end, which makes the decoder give out the rest."""
    for packet in demuxed:
        if packet.size == 0 and packet.dts is None and packet.pts is None:
            yield None, packet
            return
        yield first, packet
        first += 1


def decode_run(stream, packets):
    """(number, frames, failed) of each packet: the av.VideoFrames that came out; their pts is their packet's number."""
    try:
        for number, packet in packets:
            if number is not None:
                packet.pts = packet.dts = number
            try:
                yield number, stream.codec_context.decode(packet), False
            except ERRORS:
                yield number, [], True
    except ERRORS:  # the file cannot be demuxed any further
        yield None, [], True
        try:
            yield None, stream.codec_context.decode(None), False
        except ERRORS:
            yield None, [], True


def _fps(times, last_duration, stream):
    """Frames over shown duration. times: of the frames, in the order in which they are shown; None: unknown."""
    count = len(times)
    guess = stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(0)
    if not count or any(time is None for time in times):
        return float(guess)
    steps = [after - before for before, after in zip(times, times[1:])]
    usual = sorted(steps)[len(steps) // 2] if steps else 0
    duration = sum(step if step >= 0 else usual for step in steps)  # joined streams count from zero again
    duration += last_duration or (steps[-1] if steps and steps[-1] > 0 else usual)
    if duration <= 0 or not stream.time_base:
        return float(guess)
    return float(Fraction(count) / (duration * stream.time_base))
