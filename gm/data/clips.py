"""Training samples from videos. What a sample shows follows from (seed, epoch, clip) alone: neither the number of
workers or devices nor an interruption changes it.

Order: epoch e shows the clips in a permutation drawn from (seed, e). The permutations of successive epochs, one after
another, form one endless stream; a batch may span two epochs, so that no clip is left out and no batch is short. Global
batch g is the stream's positions [g * B, (g + 1) * B), and of these rank r of R takes r, r + R, r + 2R …: the ranks
together see exactly what one device with the same global batch B sees.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from gm.console import progress
from gm.data.frame_folder import clip_files, open_clip
from gm.diffusion.conditioning import fps_id
from gm.errors import UserError

if TYPE_CHECKING:
    from gm.data.metadata import Metadata
    from gm.data.rows import Clip

# The first number after the seed in every key: what the random numbers are for.
_SHUFFLE, _SAMPLE, _REPLACE = 1, 2, 3
_MAX_REPLACEMENTS = 10  # in a row, for one sample
_MIN_FAILURES = 3  # before a share of failures means anything
_GLIMPSE = 4096  # bytes
CONTENT = "clips (some of their content)"  # in `ClipDataset.identity`
_log = logging.getLogger(__name__)


class Samples(Protocol):
    """What a loader reads: an endless stream of samples, `at` each position; len: how many there are in an epoch."""

    def __len__(self) -> int: ...

    def at(self, position: int) -> dict[str, Any]: ...


def fit_frames(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (t, h, w, 3) → uint8 (t, height, width, 3): scaled until it covers the size, then cropped at the centre."""
    old_height, old_width = frames.shape[1:3]
    scale = max(height / old_height, width / old_width)
    new_height, new_width = max(height, round(old_height * scale)), max(width, round(old_width * scale))
    top, left = (new_height - height) // 2, (new_width - width) // 2
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    fitted = np.empty((len(frames), height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        if (new_height, new_width) != (old_height, old_width):
            frame = cv2.resize(frame, (new_width, new_height), interpolation=kind)
        fitted[index] = frame[top : top + height, left : left + width]
    return fitted


class ClipDataset:
    """Samples of `frames` frames, `step` apart, from the clips of a Metadata.

    height, width: pixels of a sample. flip: probability that a whole sample is mirrored left to right. index_folder,
    threads: as of `gm.data.video_reader.open_video`. stream: number of this data set among those of a run, from 0; each
    draws other numbers.
    """

    def __init__(
        self,
        metadata: Metadata,
        frames: int,
        step: int,
        height: int,
        width: int,
        flip: float = 0.0,
        seed: int = 0,
        index_folder: str | Path | None = None,
        threads: int = 1,
        stream: int = 0,
    ) -> None:
        for name, value in (("frames", frames), ("step", step), ("height", height), ("width", width)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if not 0 <= flip <= 1:
            raise UserError(f"flip is a probability between 0 and 1, not {flip}")
        if seed < 0:
            raise UserError(f"seed must not be negative, got {seed}")
        span = (frames - 1) * step + 1
        short = [clip for clip in metadata.clips if clip.length < span]
        if short or not metadata.clips:
            reason = f"{short[0].path} has {short[0].length} frames, {span} are needed" if short else "there are none"
            raise UserError(f"no samples can be drawn from these clips: {reason}")
        self.clips = metadata.clips
        self.frames, self.step, self.height, self.width = frames, step, height, width
        self.flip, self.seed, self.index_folder, self.threads = flip, seed, index_folder, threads
        self._stream = (stream,) if stream else ()
        self._order = functools.lru_cache(maxsize=4)(self._draw_order)

    def __len__(self) -> int:
        return len(self.clips)

    def order(self, epoch: int) -> np.ndarray:
        """The permutation of epoch `epoch`: int array of positions in `clips`."""
        return self._order(epoch)

    def _draw_order(self, epoch: int) -> np.ndarray:
        return self._random(_SHUFFLE, epoch).permutation(len(self.clips))

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *key, *self._stream))

    def at(self, position: int) -> dict[str, Any]:
        """The sample at `position` (from 0) of the endless stream of epochs."""
        epoch, index = divmod(position, len(self.clips))
        return self.sample(index, epoch)

    def sample(self, index_in_epoch: int, epoch: int) -> dict[str, Any]:
        """One sample as a dict:

        pixels float32 (t, 3, h, w) in [-1, 1]; fps_id and motion_bucket_id floats; path; start (index of the first
        frame in the file); flipped (whether it is mirrored); failures, a list of (path, reason) of the clips that could
        not be decoded and that it stands in for.

        A clip that fails is replaced by the next of an order drawn from (seed, epoch, clip). UserError if ten stand-ins
        fail as well. Safe to call from several threads.
        """
        first = int(self.order(epoch)[index_in_epoch])
        failures = []
        for attempt, clip in enumerate(self._candidates(first, epoch)):
            try:
                sample = self._read(self.clips[clip], self._random(_SAMPLE, epoch, clip, attempt))
            except UserError as error:
                failures.append((str(self.clips[clip].path), str(error)))
            else:
                return {**sample, "failures": failures}
        raise UserError(f"{len(failures)} clips in a row cannot be read; the last one: {failures[-1][1]}")

    def identity(self) -> dict[str, Any]:
        """{what: value} of everything that decides what the samples show, for a cache made of them."""
        digest, content = hashlib.sha256(), hashlib.sha256()
        for clip in self.clips:
            files = clip_files(clip.path)
            content.update(glimpse(files))
            for file in files:
                status = file.stat()
                row = file, status.st_size, status.st_mtime_ns, *clip.label
                digest.update(repr(tuple(map(str, row))).encode())
        return {
            "clips (paths, sizes, times, labels)": digest.hexdigest()[:16],
            CONTENT: content.hexdigest()[:16],
            "number of clips": len(self.clips),
            "frames": self.frames,
            "step": self.step,
            "height": self.height,
            "width": self.width,
            "flip": self.flip,
            "seed": self.seed,
            **({"stream": self._stream[0]} if self._stream else {}),
        }

    def _candidates(self, first: int, epoch: int) -> Iterator[int]:
        yield first
        others = np.delete(np.arange(len(self.clips)), first)
        yield from self._random(_REPLACE, epoch, first).permutation(others)[:_MAX_REPLACEMENTS].tolist()

    def _read(self, clip: Clip, random: np.random.Generator) -> dict[str, Any]:
        span = (self.frames - 1) * self.step + 1
        start = clip.start + int(random.integers(clip.length - span + 1))
        mirrored = random.random() < self.flip
        with open_clip(clip.path, self.index_folder, threads=self.threads) as video:
            frames = video.frames(range(start, start + span, self.step))
            fps = video.fps if clip.fps is None else clip.fps
        if fps is None:
            raise UserError(f"{clip.path}: a folder of pictures states no frame rate: give it in the column fps")
        if clip.crop is not None:
            frames = clip.crop.of(frames, clip.path)
        frames = fit_frames(frames, self.height, self.width)
        if mirrored:
            frames = frames[:, :, ::-1]
        pixels = np.empty((self.frames, 3, self.height, self.width), np.float32)
        np.divide(frames.transpose(0, 3, 1, 2), np.float32(127.5), out=pixels)
        pixels -= 1
        return {
            "pixels": pixels,
            "fps_id": fps_id(fps / self.step),  # of the frames shown
            "motion_bucket_id": float(clip.motion_bucket_id),
            "path": str(clip.path),
            "start": start,
            "flipped": mirrored,
        }


def glimpse(files: Sequence[Path]) -> bytes:
    """Bytes from the middle of the middle one of a clip's files: another one may have its name and size, and its time
    from an archive or a copy. None of one that cannot be read, which is a failure where it is decoded."""
    try:
        with open(files[len(files) // 2], "rb") as opened:
            opened.seek(os.fstat(opened.fileno()).st_size // 2)
            return opened.read(_GLIMPSE)
    except OSError:
        return b""


def content_of(clips: Iterable[Clip]) -> str:
    """What tells the files of these clips from others of the same names, wherever they lie; under a progress bar."""
    digest = hashlib.sha256()
    for path in progress(list(dict.fromkeys(clip.path for clip in clips)), "looking into the clips", "file"):
        with contextlib.suppress(UserError):  # a folder without pictures is a failure too
            digest.update(glimpse(clip_files(path)))
    return digest.hexdigest()[:16]


class FailureLimit:
    """Counts the clips that could not be decoded, over the samples in the order of their use.

    UserError as soon as more than `max_share` of the clips tried have failed, and at least three of them.
    """

    def __init__(self, max_share: float = 0.1) -> None:
        if not 0 <= max_share <= 1:
            raise UserError(f"max_failed_share is a share between 0 and 1, not {max_share}")
        self.max_share = max_share
        self.tried = 0
        self.failed = 0

    def count(self, sample: dict[str, Any]) -> None:
        """Take note of one sample of `ClipDataset.sample`; logs a warning for each clip that it stands in for."""
        failures = sample["failures"]
        self.tried += 1 + len(failures)
        self.failed += len(failures)
        for path, reason in failures:
            _log.warning("clip left out, another one takes its place: %s (%s)", path, reason)
        if failures and self.failed >= _MIN_FAILURES and self.failed > self.max_share * self.tried:
            share = math.ceil(100 * self.failed / self.tried)
            raise UserError(
                f"{self.failed} of {self.tried} clips cannot be decoded ({share} %, the limit is "
                f"{100 * self.max_share:g} %). Check them all with verify_files=open, or raise max_failed_share. "
                f"The last one: {failures[-1][1]}"
            )
