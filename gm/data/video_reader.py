"""Videos in: one interface over decord and OpenCV. `with open_video(path) as video: video.frames([0, 4, 8])`.

Both back ends hand out the same pixels (upright, RGB) for files whose colour matrix is not named. Where BT.709 is named
in the file, as most HD videos do, decord follows it and OpenCV does not: colours differ by about 6 of 255 in the mean.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import os
from pathlib import Path

# OpenCV's ffmpeg writes its own lines about damaged files to stderr, without the file's name; our messages name it. It
# reads the variable when the first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from gm.errors import UserError  # noqa: E402

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif")
_ISO_MEDIA = (".mp4", ".m4v", ".mov")
# Frames that OpenCV skips by decoding rather than by seeking: decoding is exact for every file, seeking only where the
# frame rate is constant.
_MAX_SKIP = 256


class VideoReader:
    """A video file, open. Made by `open_video`; a context manager.

    path; fps (float, frames per second, the average where it varies); size (h, w) in pixels; length (frames; OpenCV
    decodes the video to count them; UserError if none can be decoded, or less than an mp4 or mov states).
    """

    def __init__(self, path):
        self.path = Path(path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

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
        decoded = self._decode(wanted.tolist())
        if decoded is None:
            raise UserError(f"{self.path}: {self._what_can_be_read(wanted[-1])}")
        in_order = len(wanted) == len(positions) and (positions == np.arange(len(positions))).all()
        return decoded if in_order else decoded[positions]

    def _what_can_be_read(self, wanted):
        readable = readable_frames(self.path)
        if not readable:
            return "none of its frames can be decoded: damaged, or a codec (AV1?) that is not supported; re-encode it"
        return (
            f"frame {wanted} was asked for, but only the first {readable} frames can be read (the file states "
            f"{self._stated}): damaged, cut off, trimmed without re-encoding, or shorter than its label"
        )

    def _decode(self, wanted):
        """uint8 (t, h, w, 3) of the frames `wanted`, ascending without repeats; None if not all can be decoded."""
        raise NotImplementedError

    def close(self):
        """Let go of the file. May be called twice."""
        raise NotImplementedError


class _DecordReader(VideoReader):
    def __init__(self, path):
        super().__init__(path)
        decord = _decord()
        self._errors = (decord.DECORDError, RuntimeError)
        try:
            # One thread for each reader: the loader decodes several clips at once. fault_tol: by default decord puts
            # the neighbouring frame where one cannot be decoded, and says nothing; any share above 0 makes it an error.
            self._video = decord.VideoReader(str(path), num_threads=1, fault_tol=1e-9)
        except self._errors as error:
            raise OSError(f"decord cannot open {path}") from error
        # Trimmed without re-encoding (`ffmpeg -ss 5 -c copy`), an mp4 keeps the frames since the last key frame and an
        # edit list that hides them. decord counts them in, and then jumps back in time in the middle of the clip
        # without a word, or never returns (dmlc/decord issue 373). Such files have frames before time 0.
        if len(self._video) and self._video.get_frame_timestamp(0)[0] < 0:
            raise OSError(f"decord cannot follow the edit list of {path}")
        self.length = self._stated = len(self._video)
        self.fps = float(self._video.get_avg_fps())

    @functools.cached_property
    def size(self):
        return self.frames([0]).shape[1:3]

    def _decode(self, wanted):
        try:
            if wanted[-1] < self.length:
                return self._video.get_batch(wanted).asnumpy()
        except self._errors:  # it fails on some intact files, for instance of 48x32 pixels
            with contextlib.suppress(OSError), _OpenCVReader(self.path) as other:
                return other._decode(wanted)
        return None

    def close(self):
        self._video = None


class _OpenCVReader(VideoReader):
    def __init__(self, path):
        super().__init__(path)
        self._open()
        self.fps = float(self._video.get(cv2.CAP_PROP_FPS))
        self.size = tuple(int(self._video.get(side)) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))

    def _open(self):
        self._video = _open_capture(self.path)
        self._position = 0  # of the frame that is decoded next

        self._stated = int(max(0, self._video.get(cv2.CAP_PROP_FRAME_COUNT)))

    @functools.cached_property
    def length(self):
        """Counted by decoding: what OpenCV states is a guess from the duration, a header, or counts hidden frames."""
        count = readable_frames(self.path)
        if not count or (count < self._stated and self.path.suffix.lower() in _ISO_MEDIA):
            raise UserError(f"{self.path}: {self._what_can_be_read(self._stated - 1)}")
        return count

    def _decode(self, wanted):
        if wanted[0] < self._position:
            self.close()
            self._open()
        frames = None
        for row, index in enumerate(wanted):
            if not self._skip_to(index):
                return None
            good, frame = self._video.read()
            self._position += 1
            if not good:
                return None
            if frames is None:  # one allocation, and the turn from BGR to RGB writes straight into it
                frames = np.empty((len(wanted), *frame.shape), np.uint8)
            elif frame.shape != frames.shape[1:]:
                raise UserError(f"{self.path}: the picture size changes within the video, at frame {index}")
            cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frames[row])
        return frames

    def _skip_to(self, index):
        if index - self._position > _MAX_SKIP:
            self._video.set(cv2.CAP_PROP_POS_FRAMES, index)
            if self._video.get(cv2.CAP_PROP_POS_FRAMES) != index:  # beyond the end
                return False
            self._position = index
        while self._position < index:
            if not self._video.grab():
                return False
            self._position += 1
        return True

    def close(self):
        self._video.release()


def available_readers():
    """Names of the back ends that this machine has, in the order in which they are tried."""
    return ("opencv",) if _decord() is None else ("decord", "opencv")


@functools.cache
def _decord():
    """The decord module, or None where it is not installed: it has wheels for x86-64 only."""
    if importlib.util.find_spec("decord") is None:
        return None
    # First mindspore: imported after decord it aborts the process ("random_device could not be read").
    import mindspore  # noqa: F401  isort: skip

    try:
        import decord  # isort: skip
    except (ImportError, OSError, RuntimeError):  # a library that it links to is missing
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def open_video(path, reader=None):
    """Open the video file `path` → VideoReader.

    reader: one of `available_readers()`; by default the first that can open the file. OpenCV alone reads GIFs; decord
    finds no length in them. UserError, naming file and reason: missing, empty, a text file, no video in it, without its
    index, without a frame rate. What is wrong with the frames themselves comes out when they are read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no video file at {path}")
    names = available_readers() if reader is None else (reader,)
    if reader is None and path.suffix.lower() == ".gif":
        names = ("opencv",)
    fault = _recognised_fault(path)
    video = None if fault else _first_to_open(path, names)
    if video is None:
        fault = fault or f"not a video that {' or '.join(names)} can read; re-encode it, for instance as H.264 in .mp4"
        raise UserError(f"{path}: {fault}")
    try:
        if not (video.fps > 0 and math.isfinite(video.fps)):
            raise UserError(f"{path}: states no frame rate ({video.fps}); re-encode it")
    except BaseException:
        video.close()
        raise
    return video


def _first_to_open(path, names):
    for name in names:
        if name not in _READERS:
            raise UserError(f"no video reader named {name!r}; there are: {', '.join(_READERS)}")
        if name == "decord" and _decord() is None:
            raise UserError("decord is not installed here; use the reader 'opencv'")
        # The back ends' own words are assertions and line numbers, of no use to the reader.
        with contextlib.suppress(OSError):
            return _READERS[name](path)
    return None


def _open_capture(path):
    # Only ffmpeg: OpenCV's other back ends would take "img_01.png" for a series of pictures.
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not video.isOpened():
        raise OSError(f"OpenCV cannot open {path}")
    video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # off unless asked for; decord turns the picture upright
    return video


def readable_frames(path):
    """How many frames of the file can be decoded from its beginning on. Decodes them all."""
    try:
        video = _open_capture(path)
    except OSError:
        return 0
    count = 0
    while video.grab():
        count += 1
    video.release()
    return count


def _recognised_fault(path):
    """What is wrong with a file, where its bytes tell it more clearly than a decoder does; None if nothing is seen."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            if not head:
                return "an empty file (0 bytes)"
            if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
                return f"a text file, not a video (it begins with {head[:20].decode('ascii')!r})"
            if path.suffix.lower() in _ISO_MEDIA and head[4:8] == b"ftyp" and not _has_index(file):
                return "cut off: its index (the `moov` box, often at the end) is missing; copy or record it again"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None


def _has_index(file):
    """Whether an ISO media file (mp4, mov) has its `moov` box: ISO/IEC 14496-12, section 4.2."""
    position, end = 0, file.seek(0, os.SEEK_END)
    while position + 8 <= end:
        file.seek(position)
        header = file.read(16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if kind == b"moov":
            return True
        if size == 1:  # a 64-bit size follows
            size = int.from_bytes(header[8:16], "big")
        if size < 8:  # 0: the box reaches to the end of the file
            return False
        position += size
    return False


_READERS = {"decord": _DecordReader, "opencv": _OpenCVReader}
