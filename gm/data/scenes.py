"""The scenes of a video, between its hard cuts and gradual transitions, and their black, frozen and faded stretches.

Hard cuts are PySceneDetect's: its adaptive detector marks a frame that differs from the one before it much more than
the frames around do, so that fast motion is no cut. It gets the pictures that this project's own reader decodes, so a
cut is the number of a frame that training reads. Gradual transitions are those of `gm.data.transitions`; their frames
belong to no scene.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from gm import places
from gm.data.transitions import SIDE, find_transitions, reduced
from gm.errors import UserError

if TYPE_CHECKING:
    from gm.data.video_reader import VideoReader

# Of the detector, on reduced pictures. Chosen on joined drawn clips, other ones than the tests': 1.8 gives false cuts,
# 3 loses cuts between clips that move fast.
_RATIO, _LEAST_CHANGE, _WINDOW = 2.2, 18.0, 2
_CHUNK = 8  # frames held at a time
_BLACK_LEVEL, _BLACK_SHARE = 25, 0.98  # as ffmpeg's blackdetect: 98 % of the pixels up to a tenth of white
_SAME = 0.255  # mean difference of 255 to the frame before, as ffmpeg's freezedetect: -60 dB
_FROZEN_SECONDS = 0.5  # shorter stretches are drawings that are shown twice, or repeated fields
_FADED = 0.5  # of the contrast that the scene has elsewhere


@dataclass(frozen=True)
class Scene:
    """start, length in frames of the file; black, frozen, faded: shares (0..1) of its frames that are black, that stand
    still for half a second or longer, and that have less than half of the contrast that the scene has elsewhere."""

    start: int
    length: int
    black: float
    frozen: float
    faded: float


def find_scenes(video: VideoReader, fps: float) -> list[Scene]:
    """[Scene] of an open clip (`gm.data.video_reader.VideoReader`), in order. Decodes every frame once, holds few.

    Frames of gradual transitions are in none of them. fps: frames per second, for how long a stretch stands still.
    UserError: PySceneDetect is missing, or a frame cannot be read.
    """
    detector = cut_detector()
    pictures = np.empty((video.length, SIDE, SIDE, 3), np.uint8)
    same = np.zeros(video.length, bool)
    before = None
    for start in range(0, video.length, _CHUNK):
        for index, frame in enumerate(video.frames(range(start, min(start + _CHUNK, video.length))), start):
            pictures[index] = reduced(frame)
            same[index] = before is not None and cv2.norm(frame, before, cv2.NORM_L1) <= _SAME * frame.size
            before = frame
    cuts = _cuts(detector, pictures)
    grey = pictures.astype(np.uint16).sum(-1) // 3
    black = (grey <= _BLACK_LEVEL).mean((1, 2)) >= _BLACK_SHARE
    frozen = _long_runs(same, _FROZEN_SECONDS * fps)
    contrast = grey.std((1, 2))
    return [
        Scene(
            start,
            end - start,
            float(black[start:end].mean()),
            float(frozen[start:end].mean()),
            float((contrast[start:end] < _FADED * np.quantile(contrast[start:end], 0.9)).mean()),
        )
        for start, end in _between(video.length, cuts, find_transitions(pictures, cuts))
    ]


def cut_detector() -> Any:
    """A new detector of hard cuts, for one video. UserError: PySceneDetect is missing."""
    try:
        from scenedetect.detectors import AdaptiveDetector
    except ImportError as error:
        raise UserError(f"scenes are found by PySceneDetect: {places.install('data')}") from error
    return AdaptiveDetector(_RATIO, min_scene_len=1, window_width=_WINDOW, min_content_val=_LEAST_CHANGE)


def _cuts(detector: Any, pictures: np.ndarray) -> list[int]:
    """The frames that begin a scene after a hard cut."""
    # It compares a frame with two on each side: at the ends of the video with the same motion backwards.
    order = np.pad(np.arange(len(pictures)), _WINDOW, mode="reflect")
    found = []
    for number, index in enumerate(order.tolist(), -_WINDOW):
        found += detector.process_frame(number, pictures[index][..., ::-1])
    return [cut for cut in found if 0 < cut < len(pictures)]


def _between(length: int, cuts: list[int], transitions: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """[(start, end)] of the longest stretches without a cut or a frame of a transition."""
    number = np.zeros(length, np.int64)
    number[cuts] = 1
    number = np.cumsum(number)
    for start, end in transitions:
        number[start:end] = -1
    edges = np.flatnonzero(np.diff(number)) + 1
    bounds = zip([0, *edges.tolist()], [*edges.tolist(), length])
    return [(start, end) for start, end in bounds if number[start] >= 0]


def _long_runs(same: np.ndarray, least: float) -> np.ndarray:
    """Frames of stretches in which each is the same as the one before, where they are at least `least` frames long."""
    padded = np.concatenate([[False], same, [False]])
    edges = np.flatnonzero(np.diff(padded.astype(np.int8)))
    long = np.zeros(len(same), bool)
    for start, end in zip(edges[::2], edges[1::2]):
        if end - start + 1 >= least:  # and the frame that the others repeat
            long[max(0, start - 1) : end] = True
    return long
