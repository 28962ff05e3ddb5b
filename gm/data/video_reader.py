"""Videos in, exactly: `with open_video(path) as video: video.frames([0, 4, 8])`.

Frame n is the n-th that a player shows, and that ffmpeg gives when it decodes the file from its beginning: edit lists
applied, hidden and dropped pictures left out. A read begins at a packet from which the decoder is known to come out
right, and knows each picture by the number of its packet, never by counting from where a seek landed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gm.data.video_crop import container_crop
from gm.data.video_decoder import Decoder, Run
from gm.data.video_file import SUFFIXES, checked_path, is_cut_off
from gm.data.video_index import display_matrix, index_by_decoding, pixel_shape
from gm.data.video_index_store import stored_index
from gm.data.video_pictures import Pictures, whole_picture
from gm.errors import UserError

if TYPE_CHECKING:
    import av

_Reader = TypeVar("_Reader", bound="VideoReader")
__all__ = ["SUFFIXES", "VideoFile", "VideoReader", "open_video"]


def open_video(
    path: str | Path, threads: int = 1, index_folder: str | Path | None = None, hdr: str = "map"
) -> VideoFile:
    """Open the video file `path` → VideoReader.

    threads: that decode; the frames are the same with any number. index_folder: where what was found out about the file
    is kept, so that the next call need not look through it again. hdr: as in `gm.data.video_pictures.Pictures`.

    UserError, naming file and reason: missing, empty, a text file, no video in it, without its index, no frame or no
    frame rate. What is wrong with single frames comes out when they are read.
    """
    return VideoFile(checked_path(path), threads, index_folder, hdr)


class VideoReader:
    """A clip, open: a context manager."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def __enter__(self: _Reader) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def fps(self) -> float | None:
        """Frames over shown duration, in 1/s; None where the file states none."""
        raise NotImplementedError

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) in pixels, upright and square."""
        raise NotImplementedError

    @property
    def length(self) -> int:
        """Frames."""
        raise NotImplementedError

    @property
    def times(self) -> list[float] | None:
        """Seconds at which the frames are shown, from the first on; None where they follow from fps."""
        return None

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The frames at `indices` (any order, repeats allowed) as uint8 (t, h, w, 3) RGB, upright. UserError if one of
        them cannot be had."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        raise NotImplementedError


class VideoFile(VideoReader):
    """A video file, made by `open_video`. length raises UserError for one that is damaged or cut off."""

    def __init__(
        self, path: str | Path, threads: int = 1, index_folder: str | Path | None = None, hdr: str = "map"
    ) -> None:
        super().__init__(path)
        self._decoder = Decoder(path, threads)
        self._run: Run | None = None
        self._interlaced = False
        try:
            self._index = stored_index(self._decoder, index_folder)
            self._run = self._decoder.run
            stored = self._index.size
            if stored is None or not len(self._index):
                raise UserError(f"{path}: {self._what_can_be_read(0)}")
            stream = self._decoder.stream
            number = self._decoder.container.streams.video.index(stream)
            crop = container_crop(path, stream.id, number, stored)
            self._pictures = Pictures(path, stream, hdr, self._index.matrix, crop)
            if not (self.fps > 0 and math.isfinite(self.fps)):
                raise UserError(f"{path}: states no frame rate ({self.fps}); re-encode it")
        except BaseException:
            self.close()
            raise

    @property
    def fps(self) -> float:
        return self._index.fps

    @property
    def times(self) -> list[float]:
        return self._index.times

    @functools.cached_property
    def length(self) -> int:
        if is_cut_off(self.path) or self._index.damaged is not None:
            raise UserError(f"{self.path}: {self._what_can_be_read(self._stated() - 1)}")
        return len(self._index)

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        return self._pictures.size(next(self._decode([0]))[1])

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The frames at `indices` (any order, repeats allowed) as uint8 (t, h, w, 3) RGB, upright.

        UserError if one of them cannot be decoded, saying how many frames of the file can: a file that ends early or is
        damaged never gives repeated or fewer frames. Also where the picture size changes, naming the frame.
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

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        self._run = None
        self._decoder.close()

    def _rgb(self, wanted: list[int]) -> np.ndarray:
        frames = np.empty(0, np.uint8)
        for row, (_, frame) in enumerate(self._shown(wanted)):
            if row == 0:
                frames = np.empty((len(wanted), *self._pictures.size(frame), 3), np.uint8)
            self._pictures.rgb(frame, frames[row])
        return frames

    def _shown(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number, av.VideoFrame) as `_decode`, but whole pictures where they are interlaced."""
        done = 0
        if not self._interlaced:
            for number, frame in self._decode(wanted):
                if frame.interlaced_frame:
                    self._interlaced = True
                    break
                yield number, frame
                done += 1
        if done < len(wanted):
            yield from self._deinterlaced(wanted[done:])

    def _deinterlaced(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        neighbours = {n for number in wanted for n in (number - 1, number + 1) if 0 <= n < len(self._index)}
        decoded = self._decode(sorted(neighbours.union(wanted)))
        held: dict[int, av.VideoFrame] = {}
        for number in wanted:
            while number not in held or (number + 1 in neighbours and number + 1 not in held):
                held.update([next(decoded)])
            yield number, whole_picture(held.get(number - 1), held[number], held.get(number + 1))
            held = {n: frame for n, frame in held.items() if n >= number}

    def _decode(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(index, av.VideoFrame) of the frames `wanted`, ascending without repeats."""
        if self._run is not None:
            self._run.want(wanted)
        for number in wanted:
            frame = self._frame(number, wanted)
            if frame is None and not self._index.decoded:
                # Damaged, or a stream that is not what its packets say. In that case the index is made by decoding.
                index = index_by_decoding(self._decoder)
                self._run = None
                if index.damaged is None:
                    self._index = index
                    frame = self._frame(number, wanted)
            if frame is None:
                raise UserError(f"{self.path}: {self._what_can_be_read(wanted[-1])}")
            if (frame.height, frame.width) != self._index.size:
                height, width = self._index.size or (0, 0)
                raise UserError(
                    f"{self.path}: the picture size changes within the video: frame {number} is "
                    f"{frame.width}x{frame.height}, the first one {width}x{height}; cut it there, or re-encode it"
                )
            if display_matrix(frame) not in (None, self._index.matrix):
                raise UserError(f"{self.path}: frame {number} is turned otherwise than the first one; cut it there")
            now, first = pixel_shape(self._decoder), self._index.pixel  # now: it may know of the next frames already
            if now != first:
                (width, height), (first_width, first_height) = now, first or (1, 1)
                raise UserError(
                    f"{self.path}: frame {number} has pixels of the shape {width}:{height}, the first one "
                    f"{first_width}:{first_height}; cut it there, or re-encode it"
                )
            yield number, frame

    def _frame(self, number: int, wanted: list[int]) -> av.VideoFrame | None:
        if number >= len(self._index):
            return None
        start, run = self._index.start_of(number), self._run
        if run is None or not run.can_give(number) or run.fed < start.number:
            self._run = run = Run(self._decoder, self._index, start)
            run.want(wanted)
        frame = run.frame(number)
        # Where a stream changes, a decoder that left pictures out may drop what it holds back.
        if frame is None and run.has_skipped:
            self._run = run = Run(self._decoder, self._index, start)
            frame = run.frame(number)
        if frame is None:
            self._run = None
        return frame

    def _stated(self) -> int:
        return max(self._decoder.stream.frames, len(self._index))

    def _what_can_be_read(self, wanted: int) -> str:
        index = self._index if self._index.decoded else index_by_decoding(self._decoder)
        self._run = None
        readable = len(index) if index.damaged is None else index.damaged
        if not readable:
            return "none of its frames can be decoded: damaged, or a codec that is not supported; re-encode it"
        return (
            f"frame {wanted} was asked for, but only the first {readable} frames can be read (the file states "
            f"{self._stated()}): damaged, cut off, or shorter than its label"
        )
