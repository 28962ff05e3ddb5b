"""Gradual transitions between scenes: dissolves, and fades to and from a plain colour such as black.

A plain measure of this project's own: PySceneDetect finds hard cuts and the place of a fade to black, but neither
dissolves nor where a fade begins and ends. While one scene dissolves into another, every frame is a mixture of the two,
so on a much reduced picture the frames lie on the straight line between the first and the last one. Motion bends that
line: something that moves far enough to look different has left the line by an eighth of its length and more.

A window of frames t-w … t+w is (a part of) a transition where, with d the difference of its ends,

- |d| is at least 0.7 of the ends' contrast (the deviation of their pixels), so that there is something to see;
- the ends do not resemble each other (correlation below 0.5), or one is plain beside the other (a fade): a lamp that is
  switched on or a camera that adapts changes the brightness and not the picture;
- the frames at a quarter, half and three quarters are at most 0.12 |d| away from the line, in this order, and not
  all at one end as around a hard cut.

What it misses: transitions shorter than 5 or longer than about 100 frames, wipes and other effects with an edge, and
dissolves during which the camera moves fast. docs/datasets.md has figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

SIDE = 24  # pixels of the reduced pictures' side, whatever the shape of the video
_HALF_WIDTHS = (2, 3, 4, 5, 7, 9, 12, 16, 21, 28, 38, 50)
_CHANGE, _PLAIN, _ALIKE, _OFF_LINE = 0.7, 0.25, 0.5, 0.12
_LEAST_CONTRAST = 8.0  # of 255: below, grain and compression are all there is
_STILL = 0.25  # of the mean step: where the frames no longer go on along the line the transition has ended
_CHUNK = 2048


def reduced(frame: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) → uint8 (SIDE, SIDE, 3), which `find_transitions` compares."""
    return cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def find_transitions(pictures: np.ndarray | Sequence[np.ndarray], cuts: Iterable[int] = ()) -> list[tuple[int, int]]:
    """[(first frame, frame after the last)] of the gradual transitions, in order, apart from each other.

    pictures: uint8 (t, SIDE, SIDE, 3), the reduced frames of a video. cuts: the frames that hard cuts begin; no
    transition reaches over one.
    """
    flat = np.asarray(pictures).reshape(len(pictures), -1)
    scene = np.zeros(len(flat), np.int64)
    scene[list(cuts)] = 1
    scene = np.cumsum(scene)
    spans = []
    for half in _HALF_WIDTHS:
        for start in range(half, len(flat) - half, _CHUNK):
            centres = np.arange(start, min(start + _CHUNK, len(flat) - half))
            centres = centres[scene[centres - half] == scene[centres + half]]
            mixed = centres[_is_mixed(flat, centres, half)]
            spans += [_extent(flat, scene, centre - half, centre + half) for centre in mixed.tolist()]
    return _merged(spans)


def _is_mixed(flat: np.ndarray, centres: np.ndarray, half: int) -> np.ndarray:
    """For each centre whether the window of that half width around it is a part of a transition."""
    first, last = (flat[centres + side].astype(np.float32) for side in (-half, half))
    direction = last - first
    length = _rms(direction)
    contrasts = first.std(1), last.std(1)
    contrast = np.maximum(np.maximum(*contrasts), _LEAST_CONTRAST)
    plain = np.minimum(*contrasts) < _PLAIN * contrast
    middled = [end - end.mean(1, keepdims=True) for end in (first, last)]
    alike = (middled[0] * middled[1]).mean(1) / np.maximum(contrasts[0] * contrasts[1], 1e-6)
    mixed = (length >= _CHANGE * contrast) & (plain | (alike < _ALIKE))
    before = np.full(len(centres), 0.05)
    for offset in (-(half // 2), 0, half // 2):
        way = flat[centres + offset].astype(np.float32) - first
        place = (way * direction).mean(1) / np.maximum(length**2, 1e-6)
        off_line = _rms(way - place[:, None] * direction)
        mixed &= (off_line <= _OFF_LINE * length) & (place > before)
        before = place + 0.05
    return mixed & (before < 1.0)


def _rms(differences: np.ndarray) -> np.ndarray:
    return np.sqrt((differences**2).mean(1))


def _extent(flat: np.ndarray, scene: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """(first, after the last) of the transition that the window of frames start … end shows: without the frames at its
    ends that stand still on the line, or up to half a window more, as far as they go on along it."""
    origin, direction = flat[start].astype(np.float32), flat[end].astype(np.float32) - flat[start]
    length, reach = direction @ direction, (end - start) // 2
    first, last = max(0, start - reach), min(len(flat) - 1, end + reach)
    places = (flat[first : last + 1].astype(np.float32) - origin) @ direction / length
    steps = np.diff(places) > _STILL / (end - start)
    steps &= scene[first:last] == scene[first + 1 : last + 1]
    middle = int(np.argmin(np.abs(places[start - first : end - first] - 0.5))) + start - first
    before, after = np.flatnonzero(~steps[:middle]), np.flatnonzero(~steps[middle:])
    return first + (before[-1] + 1 if len(before) else 0), first + (middle + after[0] if len(after) else len(steps)) + 1


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[list[int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(end, merged[-1][1])
        else:
            merged.append([start, end])
    return [(start, end) for start, end in merged]
