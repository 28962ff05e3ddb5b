"""Decoded pictures → RGB as a player shows them: upright, square pixels, by the colour matrix and range in the file,
high dynamic range brought down to SDR, interlaced pictures made whole.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

from gm.data import tone_map, ycbcr
from gm.data.video_file import ERRORS, open_container
from gm.errors import UserError

if TYPE_CHECKING:
    from av.video.plane import VideoPlane

# Colour matrices by their number in ITU-T H.273, table 4, under the names of ffmpeg's scale filter, and what each takes
# for K_R and K_B.
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
_WEIGHTS = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt601": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020": (0.2627, 0.0593),
}
_RGB, _UNKNOWN = 0, (2, 3)
_NARROW_RANGE, _FULL_RANGE = 1, 2
_BT2020_PRIMARIES = 9
_FLAGS = "bicubic+accurate_rnd+full_chroma_int"
_QUICK = ("yuv420p", "yuvj420p")  # what nearly all videos are
_NARROW_RGB = ("rgb555", "bgr555", "rgb565", "bgr565")  # the way to gbrp leaves white at 248
_MAX_STRETCH = 10  # a pixel longer than this times its width is taken for a mistake in the file
_HDR = {tone_map.PQ: "PQ", tone_map.HLG: "HLG"}
_log = logging.getLogger(__name__)


class Pictures:
    """Turns the av.VideoFrames of an av.VideoStream into RGB. hdr: "map" brings high dynamic range down to SDR, with a
    logged warning, one for each file; "refuse" is a UserError. matrix: of `gm.data.video_index.display_matrix`, that of
    the whole video. crop: as `gm.data.video_crop.container_crop`."""

    def __init__(
        self,
        path: str | Path,
        stream: av.VideoStream,
        hdr: str = "map",
        matrix: Sequence[int] | None = None,
        crop: Sequence[int] = (0, 0, 0, 0),
    ) -> None:
        if hdr not in ("map", "refuse"):
            raise UserError(f"hdr must be map or refuse, not {hdr!r}")
        self._path, self._context, self._hdr = path, stream.codec_context, hdr
        ratio = float(stream.sample_aspect_ratio or 1)
        self._stretch = ratio if 1 / _MAX_STRETCH <= ratio <= _MAX_STRETCH else 1.0
        self._crop = crop
        self._right, self._down, self._on_its_side = _signs(matrix)
        self._last: tuple[object, av.filter.Graph | np.ndarray] | None = None  # of `_way`: the kind, and what it gave

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """(height, width) of the picture that `rgb` gives."""
        height, width = frame.height - self._crop[1] - self._crop[3], self._width(frame)
        return (width, height) if self._on_its_side else (height, width)

    def rgb(self, frame: av.VideoFrame, target: np.ndarray) -> None:
        """Put an av.VideoFrame into the array `target`, uint8 (h, w, 3) of its `size`. UserError if it has no colours
        that are known."""
        stated, primaries = self._stated(frame, "color_trc"), self._stated(frame, "color_primaries")
        transfer, frame = stated if stated in _HDR else None, _well_named(frame)
        if transfer is not None:
            self._say(_HDR[transfer])
        try:
            way = self._way(frame, deep=transfer is not None)
            if isinstance(way, np.ndarray):
                self._quickly(frame, way, target)
                return
            way.push(frame)
            picture = way.vpull()
        except ERRORS as error:
            raise UserError(f"{self._path}: pictures in {frame.format.name} cannot be turned into RGB") from error
        green, blue, red = (_plane(plane, np.uint8 if transfer is None else np.uint16) for plane in picture.planes)
        if transfer is None:
            cv2.merge([red, green, blue], target)
            return
        wide = primaries in (_BT2020_PRIMARIES, *_UNKNOWN)
        target[:] = tone_map.to_sdr(cv2.merge([red, green, blue]), transfer, wide)

    def _stated(self, frame: av.VideoFrame, name: str) -> int:
        """What a frame says of its colours: another one where two streams were joined. The stream's own word, of its
        first picture, where this PyAV does not know the frame's."""
        found = getattr(frame, name, None)
        return int(getattr(self._context, name) if found is None else found)

    def _quickly(self, frame: av.VideoFrame, numbers: np.ndarray, target: np.ndarray) -> None:
        """The kinds of pictures that nearly all videos have, in a fifth of the time of ffmpeg's way."""
        left, top, right, bottom = self._crop
        area = [slice(top, frame.height - bottom), slice(left, frame.width - right)]
        half = [slice(part.start // 2, part.stop // 2) for part in area]
        planes = [_plane(plane, np.uint8)[tuple(part)] for plane, part in zip(frame.planes, (area, half, half))]
        flips = self._right < 0, self._down < 0
        if not self._on_its_side and not any(flips):
            ycbcr.to_rgb(planes, numbers, target)
            return
        stored = np.empty((*planes[0].shape, 3), np.uint8)
        ycbcr.to_rgb(planes, numbers, stored)
        picture = cv2.transpose(stored) if self._on_its_side else stored
        if any(flips):
            cv2.flip(picture, {(True, False): 1, (False, True): 0, (True, True): -1}[flips], target)
        else:
            target[:] = picture

    def _say(self, kind: str) -> None:
        if self._hdr == "map":
            _warn_once(self._path, kind)
            return
        raise UserError(
            f"{self._path}: high dynamic range ({kind}), and hdr is refuse; make SDR of it, for instance by ffmpeg's "
            "filters zscale=t=linear:npl=100,tonemap=hable,zscale=p=bt709:t=bt709:m=bt709"
        )

    def _width(self, frame: av.VideoFrame) -> int:
        return max(1, round((frame.width - self._crop[0] - self._crop[2]) * self._stretch))

    def _way(self, frame: av.VideoFrame, deep: bool) -> av.filter.Graph | np.ndarray:
        """What turns the kind of picture that `frame` is into RGB: filters or, for the quick way, `ycbcr.numbers`.
        deep: 12 bits come out, else 8."""
        matrix, full = self._matrix(frame), _is_full_range(frame)
        key = (frame.width, frame.height, frame.format.name, matrix, full, deep)
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        self._last = None
        if not deep and matrix is not None and self._is_quick(frame):
            red, blue = _WEIGHTS[matrix]
            numbers = ycbcr.numbers(red, blue, full)
            self._last = key, numbers
            return numbers
        scale = {
            "w": self._width(frame),
            "h": "ih",
            "in_range": "pc" if full else "tv",
            "out_range": "pc",
            "flags": _FLAGS,
            **({"in_color_matrix": matrix} if matrix else {}),
        }
        left, top, right, bottom = self._crop
        cut = [("crop", f"iw-{left + right}:ih-{top + bottom}:{left}:{top}")] if any(self._crop) else []
        wider = [("format", "rgb24")] if frame.format.name.startswith(_NARROW_RGB) and not deep else []
        filters = [*cut, *wider, ("scale", _written(scale)), ("format", "gbrp12le" if deep else "gbrp"), *self._turns()]
        graph = filter_graph(frame, filters)
        self._last = key, graph
        return graph

    def _is_quick(self, frame: av.VideoFrame) -> bool:
        """Whether `ycbcr` can do it. Odd sizes are for ffmpeg, which then moves the colours by parts of a pixel."""
        is_even = not any(edge % 2 for edge in (frame.width, frame.height, *self._crop))
        return frame.format.name in _QUICK and self._stretch == 1 and is_even

    def _turns(self) -> list[tuple[str, str | None]]:
        """The filters that turn the stored picture upright."""
        turns = [("transpose", "cclock_flip")] if self._on_its_side else []  # plain transposition
        return [*turns, *([("hflip", None)] if self._right < 0 else []), *([("vflip", None)] if self._down < 0 else [])]

    def _matrix(self, frame: av.VideoFrame) -> str | None:
        number = frame.colorspace
        if number == _RGB or frame.format.is_rgb:
            return None
        if number in _UNKNOWN:  # the sizes from which on players take HD's
            return "bt709" if frame.height >= 720 or frame.width >= 1280 else "bt601"
        if number not in _MATRICES:
            raise UserError(f"{self._path}: its colour matrix (number {number} in ITU-T H.273) is not supported")
        return _MATRICES[number]


def is_hdr(path: str | Path) -> bool:
    """Whether a video states at its beginning that it is of high dynamic range; False for what is none, or cannot be
    opened."""
    if not Path(path).is_file():
        return False
    try:
        container, stream = open_container(path)
    except UserError:
        return False
    with container:
        return stream.codec_context.color_trc in _HDR


def filter_graph(frame: av.VideoFrame, filters: Sequence[tuple[str, str | None]]) -> av.filter.Graph:
    """An av.filter.Graph of [(name, argument or None)] for pictures such as the av.VideoFrame `frame`."""
    source = {
        "video_size": f"{frame.width}x{frame.height}",
        "pix_fmt": frame.format.name,
        "time_base": "1/25",
        "pixel_aspect": "1/1",
    }
    graph: Any = av.filter.Graph()  # whose types differ from version to version
    with contextlib.suppress(AttributeError):  # PyAV before 16
        graph.threads = 1
    nodes = [
        graph.add(name, argument) if argument else graph.add(name)
        for name, argument in [("buffer", _written(source)), *filters, ("buffersink", None)]
    ]
    graph.link_nodes(*nodes)
    graph.configure()
    return graph


def whole_picture(before: av.VideoFrame | None, frame: av.VideoFrame, after: av.VideoFrame | None) -> av.VideoFrame:
    """An interlaced av.VideoFrame without its comb, from it and its neighbours (None at the ends of the video)."""

    def kind(one: av.VideoFrame) -> tuple[int, int, str]:
        return one.width, one.height, one.format.name

    graph = filter_graph(frame, [("bwdif", "mode=send_frame:deint=interlaced")])
    shown = [one for one in (before, frame, after) if one is not None and kind(one) == kind(frame)]
    place = shown.index(frame)
    for number, one in enumerate(shown):
        one.pts = number
        graph.push(one)
    graph.push(None)
    return [graph.vpull() for _ in shown][place]


@functools.cache  # one for each file, however often it is opened
def _warn_once(path: str | Path, kind: str) -> None:
    _log.warning("%s: high dynamic range (%s), brought down to SDR by a plain tone map", path, kind)


def _is_full_range(frame: av.VideoFrame) -> bool:
    name = frame.format.name
    return frame.color_range == _FULL_RANGE or name.startswith(("yuvj", "gray", "ya8", "pal8")) or frame.format.is_rgb


def _well_named(frame: av.VideoFrame) -> av.VideoFrame:
    """The same picture under the name of its kind: a decoder keeps that of the full range, such as yuvj420p, where the
    next part of a joined stream has the narrow one, and ffmpeg's filters go by the name."""
    name = frame.format.name
    if not name.startswith("yuvj") or frame.color_range != _NARROW_RANGE:
        return frame
    copy = av.VideoFrame(frame.width, frame.height, name.replace("yuvj", "yuv"))
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    for source, target in zip(frame.planes, copy.planes):
        _plane(target, np.uint8)[:] = _plane(source, np.uint8)
    return copy


def _signs(matrix: Sequence[int] | None) -> tuple[int, int, bool]:
    """(to the right, down, on its side) of a display matrix: the signs with which stored columns and rows, or on its
    side rows and columns, are shown."""
    if matrix is None:
        return 1, 1, False
    a, b, _, c, d, *_ = matrix  # x' = a x + c y, y' = b x + d y
    return (c, b, True) if abs(b) + abs(c) > abs(a) + abs(d) else (a, d, False)


def _plane(plane: VideoPlane, kind: type[np.generic]) -> np.ndarray:
    return np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)[:, : plane.width]


def _written(options: Mapping[str, object]) -> str:
    return ":".join(f"{name}={value}" for name, value in options.items())
