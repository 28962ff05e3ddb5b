"""Videos in, exactly: `with open_video(path) as video: video.frames([0, 4, 8])`.

Frame n is the n-th that a player shows, and that ffmpeg gives when it decodes the file from its beginning: edit lists
applied, hidden and dropped pictures left out. A read begins at a packet from which the decoder is known to come out
right, and knows each picture by the number of its packet, never by counting from where a seek landed.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from gm.data.video_file import ERRORS, SUFFIXES, checked_path, is_cut_off, open_container
from gm.data.video_index import decode_run, index_by_decoding, index_by_packets, numbered, read_packets
from gm.data.video_pictures import Pictures
from gm.errors import UserError

__all__ = ["SUFFIXES", "VideoReader", "open_video"]


def open_video(path, threads=1):
    """Open the video file `path` → VideoReader.

    threads: that decode; the frames are the same with any number. UserError, naming file and reason: missing, empty, a
    text file, no video in it, without its index, no frame or no frame rate. What is wrong with single frames comes out
    when they are read.
    """
    return VideoReader(checked_path(path), threads)


class VideoReader:
    """A video file, open. Made by `open_video`; a context manager.

    path; fps (float, frames over shown duration, in 1/s); size (h, w) in pixels, upright and square; length (frames;
    UserError for an mp4 or mov that is cut off).
    """

    def __init__(self, path, threads=1):
        self.path, self._threads = path, threads
        self._container = None
        try:
            self._open()
            self._packets = read_packets(self._container, self._stream)
            self._index = index_by_packets(self._packets, self._stream) or self._decoded_index()
            if not len(self._index):
                raise UserError(f"{path}: {self._what_can_be_read(0)}")
            if not (self.fps > 0 and math.isfinite(self.fps)):
                raise UserError(f"{path}: states no frame rate ({self.fps}); re-encode it")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def fps(self):
        return self._index.fps

    @functools.cached_property
    def length(self):
        if is_cut_off(self.path):
            raise UserError(f"{self.path}: {self._what_can_be_read(max(self._stream.frames, len(self._index)) - 1)}")
        return len(self._index)

    @functools.cached_property
    def size(self):
        frame = next(iter(self._decode([0])))[1]
        return self._pictures.size(frame)

    def frames(self, indices):
        """The frames at `indices` (any order, repeats allowed) as uint8 (t, h, w, 3) RGB, upright.

        UserError if one of them cannot be decoded, saying how many frames of the file can: a file that ends early or is
        damaged never gives repeated or fewer frames.
        """
        indices = np.asarray(indices, np.int64)
        if indices.ndim != 1 or not len(indices):
            raise ValueError(f"indices must be a list of at least one number, not shape {indices.shape}")
        if indices.min() < 0:
            raise ValueError(f"frame indices must not be negative, got {indices.min()}")
        wanted, positions = np.unique(indices, return_inverse=True)
        decoded = self._rgb(wanted.tolist())
        in_order = len(wanted) == len(positions) and (positions == np.arange(len(positions))).all()
        return decoded if in_order else decoded[positions]

    def close(self):
        """Let go of the file. May be called twice."""
        self._run = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self):
        self.close()
        self._container, self._stream = open_container(self.path)
        context = self._stream.codec_context
        context.thread_count = self._threads
        context.thread_type = "AUTO" if self._threads > 1 else "SLICE"
        self._pictures = Pictures(self.path, self._stream.sample_aspect_ratio)

    def _decoded_index(self):
        self._open()
        index = index_by_decoding(self._container, self._stream, self._packets)
        self._run = None
        return index

    def _rgb(self, wanted):
        if wanted[-1] >= len(self._index):
            raise UserError(f"{self.path}: {self._what_can_be_read(wanted[-1])}")
        frames = None
        for row, (index, frame) in enumerate(self._decode(wanted)):
            if frames is None:
                frames = np.empty((len(wanted), *self._pictures.size(frame), 3), np.uint8)
            elif self._pictures.size(frame) != frames.shape[1:3]:
                raise UserError(f"{self.path}: the picture size changes within the video, at frame {index}")
            self._pictures.rgb(frame, frames[row])
        return frames

    def _decode(self, wanted):
        """(index, av.VideoFrame) of the frames `wanted`, ascending without repeats."""
        for index in wanted:
            start = self._index.start_of(index)
            run = self._run
            if run is None or run.next > index or run.fed < start.number:
                self._run = run = _Run(self, start)
            frame = run.frame(index)
            if frame is None:
                self._run = None
                raise UserError(f"{self.path}: {self._what_can_be_read(index)}")
            yield index, frame

    def _from(self, start):
        """(number, av.Packet) of the packets from a Start on. A seek may land too late; then it begins further back."""
        earlier = [s for s in self._index.starts if s.number <= start.number][-1:-6:-1]
        for target in earlier:
            time = target.packet.dts if target.packet.pts is None else target.packet.pts
            if time is None:
                break
            try:
                self._container.seek(time, stream=self._stream)
                demuxed = self._container.demux(self._stream)
                for packet in demuxed:
                    if start.packet.is_same(packet):
                        return numbered(_with(packet, demuxed), start.number)
                    if packet.dts is None or (start.packet.dts is not None and packet.dts > start.packet.dts):
                        break
            except ERRORS:
                pass
        self._open()
        packets = numbered(self._container.demux(self._stream))
        return ((number, packet) for number, packet in packets if number is None or number >= start.number)

    def _what_can_be_read(self, wanted):
        index = self._decoded_index()
        readable = len(index) if index.damaged is None else index.damaged
        if not readable:
            return "none of its frames can be decoded: damaged, or a codec that is not supported; re-encode it"
        stated = max(self._stream.frames, len(self._index))
        return (
            f"frame {wanted} was asked for, but only the first {readable} frames can be read (the file states "
            f"{stated}): damaged, cut off, trimmed without re-encoding, or shorter than its label"
        )


def _with(first, others):
    yield first
    yield from others


class _Run:
    """Decoding in order from a Start on. next: the first frame that can still come; fed: the packet fed last."""

    def __init__(self, reader, start):
        self._positions = reader._index.positions
        self._frames = self._ordered(decode_run(reader._stream, reader._from(start)))
        self.next, self.fed = start.first, start.number

    def _ordered(self, decoded):
        """(index, av.VideoFrame), ascending without a gap; ends where something is damaged."""
        counts = {}
        for number, frames, failed in decoded:
            if failed:
                return
            if number is not None:
                self.fed = number
            for frame in frames:
                nth = counts.get(frame.pts, 0)
                counts[frame.pts] = nth + 1
                index = self._positions.get((frame.pts, nth))
                if index is None or index < self.next:
                    continue
                if index != self.next or frame.is_corrupt:
                    return
                self.next += 1
                yield index, frame

    def frame(self, index):
        """The av.VideoFrame of that number; None if it cannot be decoded."""
        return next((frame for found, frame in self._frames if found == index), None)
