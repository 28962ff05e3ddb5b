"""Decoded pictures → RGB as a player shows them: upright, square pixels, by the colour matrix and range in the file."""

from __future__ import annotations

import av
import cv2
import numpy as np

from gm.errors import UserError

# Colour matrices by their number in ITU-T H.273, table 4, under the names of ffmpeg's scale filter.
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
_RGB, _UNKNOWN = 0, (2, 3)
_FULL_RANGE = 2
_FLAGS = "bicubic+accurate_rnd+full_chroma_int"
_MAX_STRETCH = 10  # a pixel that is longer than this times its width is taken for a mistake in the file


class Pictures:
    """Turns the av.VideoFrames of one video into RGB. shape: asked of the first frame, (height, width)."""

    def __init__(self, path, pixel_aspect):
        self._path = path
        self._stretch = _sane(pixel_aspect)
        self._key = self._graph = None

    def rgb(self, frame, target=None):
        """An av.VideoFrame → uint8 (h, w, 3), into the array `target` if it is given."""
        self._prepare(frame)
        self._graph.push(frame)
        picture = self._graph.pull()
        green, blue, red = (_plane(plane) for plane in picture.planes)
        return cv2.merge([red, green, blue], target)

    def size(self, frame):
        """(height, width) of the RGB picture that `rgb` would give."""
        width = round(frame.width * self._stretch)
        flips = _orientation(frame)
        return (width, frame.height) if "transpose" in dict(flips) else (frame.height, width)

    def _prepare(self, frame):
        matrix, full = self._matrix(frame), _is_full_range(frame)
        flips = _orientation(frame)
        key = (frame.width, frame.height, frame.format.name, matrix, full, flips)
        if key == self._key:
            return
        scale = {
            "w": max(1, round(frame.width * self._stretch)), "h": frame.height, "in_range": "pc" if full else "tv",
            "out_range": "pc", "flags": _FLAGS,
        }
        if matrix:
            scale["in_color_matrix"] = matrix
        graph = av.filter.Graph()
        graph.threads = 1
        source = {
            "video_size": f"{frame.width}x{frame.height}", "pix_fmt": frame.format.name, "time_base": "1/25",
            "pixel_aspect": "1/1",
        }
        nodes = [graph.add("buffer", _written(source)), graph.add("scale", _written(scale)), graph.add("format", "gbrp")]
        nodes += [graph.add(name, argument) if argument else graph.add(name) for name, argument in flips]
        graph.link_nodes(*nodes, graph.add("buffersink"))
        graph.configure()
        self._graph, self._key = graph, key

    def _matrix(self, frame):
        number = frame.colorspace
        if number == _RGB or frame.format.is_rgb:
            return None
        if number in _UNKNOWN:  # the sizes from which on players take HD's
            return "bt709" if frame.height >= 720 or frame.width >= 1280 else "bt601"
        if number not in _MATRICES:
            raise UserError(f"{self._path}: its colour matrix (number {number} of ITU-T H.273) is not supported")
        return _MATRICES[number]


def _is_full_range(frame):
    name = frame.format.name
    return frame.color_range == _FULL_RANGE or name.startswith(("yuvj", "gray", "ya8", "pal8")) or frame.format.is_rgb


def _orientation(frame):
    """The filters that turn the stored picture upright, by its display matrix (ISO/IEC 14496-12, 8.3.2)."""
    matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return ()
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32)[:9].tolist()  # x' = a x + c y, y' = b x + d y
    across = abs(b) + abs(c) > abs(a) + abs(d)
    to_right, down = (c, b) if across else (a, d)
    filters = [("transpose", "cclock_flip")] if across else []  # plain transposition
    filters += [("hflip", None)] if to_right < 0 else []
    filters += [("vflip", None)] if down < 0 else []
    return tuple(filters)


def _sane(pixel_aspect):
    """Width over height of a pixel; 1 where the file states none or nonsense."""
    ratio = float(pixel_aspect or 1)
    return ratio if 1 / _MAX_STRETCH <= ratio <= _MAX_STRETCH else 1.0


def _plane(plane):
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def _written(options):
    return ":".join(f"{name}={value}" for name, value in options.items())
