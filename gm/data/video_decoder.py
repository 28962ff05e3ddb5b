"""Decoding a video file from a given packet on. A picture is known by the number of its packet in the file, from 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import av

from gm.data.video_file import ERRORS, open_container

if TYPE_CHECKING:
    from gm.data.video_index import Index, Packet, Start

    _Decoded = tuple[Optional[int], list[av.VideoFrame], bool]  # see `Decoder.decode`

_SKIPPING = ("h264", "hevc")  # decoders that skip a picture without any effect on others
_EARLIER_STARTS = 6  # tried where seeks land too late, before the file is read from its beginning


class Decoder:
    """A file open for decoding. container, stream: av.container.InputContainer, av.VideoStream. run: the `Run` that was
    left when the index was made, None where there is none.

    threads: that decode. UserError, from `open_container`, where there is no video in the file.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        self.path, self.threads = path, threads
        self._is_open = self._is_new = False
        self.rewind()

    def rewind(self, options: dict[str, str] | None = None) -> None:
        """Open the file again, unless nothing was read of it: the next packet is its first. options: of the codec,
        {name: value}."""
        if self._is_new and not options:  # to open one takes as long as to decode five pictures
            return
        self.close()
        self.run: Run | None = None
        self.container, self.stream = open_container(self.path)
        self._is_open = True
        context = self.stream.codec_context
        context.thread_count = self.threads
        # AUTO: several pictures at once too. Never with one thread: it would only delay what comes out.
        context.thread_type = "AUTO" if self.threads > 1 else "SLICE"
        context.flags |= av.codec.context.Flags.unaligned  # else what is cut off at the left is less than the file says
        if options:
            context.options = options
        self._is_new = not options

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        if self._is_open:
            self.container.close()
            self._is_open = self._is_new = False

    def packets(self) -> Iterator[av.Packet]:
        """av.Packets from here to the end of the file, and then an empty one, with which a decoder gives out the rest.

        The error that ends a file that is cut off or damaged is raised.
        """
        self._is_new = False
        for packet in self.container.demux(self.stream):
            yield packet
            if _is_last(packet):
                return

    def decode(
        self, numbered: Iterable[tuple[int, av.Packet]], is_needed: Callable[[int], bool] = lambda number: True
    ) -> Iterator[_Decoded]:
        """(number, frames, failed) for each (number, av.Packet): av.VideoFrames whose pts is their packet's number.

        is_needed: of a packet's number; a picture that is neither needed nor a reference for others is skipped.
        """
        try:
            for number, packet in numbered:
                if not _is_last(packet):
                    skip = self.stream.codec_context.name in _SKIPPING and not is_needed(number)
                    self.stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
                    packet.pts = packet.dts = number
                yield (number, *self._decoded(packet))
        except ERRORS:  # the file cannot be taken apart any further
            yield None, [], True
            yield (None, *self._decoded(None))

    def _decoded(self, packet: av.Packet | None) -> tuple[list[av.VideoFrame], bool]:
        try:
            return self.stream.codec_context.decode(packet), False
        except ERRORS:
            return [], True

    def from_start(self, number: int, starts: Sequence[Start]) -> Iterator[tuple[int, av.Packet]]:
        """(number, av.Packet) from the packet of that number on, or from an earlier one; starts: the `Start`s up to it,
        itself the last.

        A seek may land anywhere. So the packet is looked for by what it is, from further back each time, and in the end
        from the beginning of the file.
        """
        if self.stream.codec_context.pix_fmt == "pal8":  # the colours may have come with any packet before
            self.rewind()
            return enumerate(self.packets())
        for target in starts[: -_EARLIER_STARTS - 1 : -1]:
            if target.packet.time is None:
                break
            found = self._found(starts[-1].packet, target.packet.time)
            if found is not None:
                return enumerate(found, number)
        self.rewind()
        return ((n, packet) for n, packet in enumerate(self.packets()) if n >= number or _is_last(packet))

    def _found(self, wanted: Packet, time: int) -> Iterator[av.Packet] | None:
        """av.Packets from the `Packet` wanted on, after a seek to `time`; None: it is not there."""
        self._is_new = False
        try:
            self.container.seek(time, stream=self.stream)
            rest = self.packets()
            for packet in rest:
                if wanted.is_same(packet):
                    return _chain(packet, rest)
                if packet.dts is not None and wanted.dts is not None and packet.dts > wanted.dts:
                    break
        except ERRORS:
            pass
        return None


class Run:
    """Frames in the order in which they are shown, decoded from a `Start` on.

    next: the number of the first frame that was not decoded yet; fed: the packet that was decoded last.
    """

    def __init__(self, decoder: Decoder, index: Index, start: Start) -> None:
        earlier = [s for s in index.starts if s.number <= start.number]
        packets = decoder.from_start(start.number, earlier)
        self.next, self.fed = start.first, start.number
        self.want([])
        self._index = index
        self._skipped: set[int] = set()  # packets
        # The number of the frame that was given out last, and itself.
        self._held: tuple[int, av.VideoFrame] | tuple[None, None] = None, None
        self._frames = self._in_order(decoder.decode(packets, self._is_needed))

    def want(self, numbers: Sequence[int]) -> None:
        """Say which frames, ascending, will be asked for; others before the last of them are skipped where possible."""
        self._wanted, self._last = set(numbers), numbers[-1] if numbers else -1

    def _is_wanted(self, frame: int) -> bool:
        return frame > self._last or frame in self._wanted

    def _is_needed(self, packet: int) -> bool:
        frame = self._index.frame_of(packet, 0)
        needed = frame is None or self._index.lossy or self._is_wanted(frame)
        if not needed:
            self._skipped.add(packet)
        return needed

    def _in_order(self, decoded: Iterable[_Decoded]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number, av.VideoFrame), ascending; ends at the first that is damaged, or missing and not skipped."""
        pictures: dict[int | None, int] = {}  # packet → pictures that it has shown
        for number, frames, failed in decoded:
            if failed and pictures:  # before the first picture: the beginning of a recording
                return
            self.fed = max(self.fed, number or 0)
            for frame in frames:
                nth = pictures.get(frame.pts, 0)
                pictures[frame.pts] = nth + 1
                index = self._index.frame_of(frame.pts, nth)
                if index is None and not self._index.decoded:  # the packets promised no picture here
                    return
                if index is None or index < self.next:  # shown before the start's picture: it may lack references
                    continue
                missing = self._index.shown[self.next : index]
                if frame.is_corrupt or not self._skipped.issuperset(missing):
                    return
                self.next = index + 1
                yield index, frame

    def frame(self, number: int) -> av.VideoFrame | None:
        """The av.VideoFrame of that number; None if it, or one before it since the start, cannot be decoded."""
        if self._held[0] != number:
            self._held = next(((found, frame) for found, frame in self._frames if found == number), (None, None))
        return self._held[1]

    @property
    def has_skipped(self) -> bool:
        """Whether pictures were left out that nobody had asked for."""
        return bool(self._skipped)

    def can_give(self, number: int) -> bool:
        """Whether the frame of that number has not gone by."""
        return number >= self.next or number == self._held[0]


def _is_last(packet: av.Packet) -> bool:
    return packet.size == 0 and packet.pts is None and packet.dts is None


def _chain(first: av.Packet, others: Iterable[av.Packet]) -> Iterator[av.Packet]:
    yield first
    yield from others
