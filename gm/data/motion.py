"""How much a clip moves: a score from optical flow, and this project's own mapping from it to `motion_bucket_id`.

The SVD paper (Appendix C) takes dense Farnebäck flow at 2 frames per second, shrinks the flow maps until their shortest
side is 16 pixels, and averages them over time and space. It names neither the unit of the score nor how a bucket
follows from it. The following are therefore ours and **not Stability's**:

- Unit: per cent of the picture's shortest side per second. A camera that pans by a tenth of the shortest side each
  second scores 10. It depends neither on the resolution nor on the frame rate.
- Flow is computed on pictures scaled to a shortest side of 256 pixels, and it is the *vectors* that are averaged when
  the map is shrunk, so that noise cancels; their lengths are averaged after that.
- Grey values are multiplied by 16 first: on 0..255 OpenCV's regularisation pulls the flow of faint texture to zero.
- bucket = 50 · log2(1 + score), rounded and limited to 0..255: 0 for a still picture, 50 for 1 % per second, 127 for
  4.8 %, 200 for 15 %, 255 from 33.1 % on. Logarithmic, because slow motion is where the eye sees differences; and it
  ends where the measured score can still be trusted:

Measured: pans of photographs score within 10 % of the truth up to about 40 % per second; beyond, the flow loses track
and the score stops rising. Sensor noise of 3/255 on a still picture scores 0.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from gm.data.flow import WORK_SIDE, dense_flow, working_copy

_RATE = 2.0  # frames per second at which flow is measured
_MAP_SIDE = 16  # shortest side of the flow map that is averaged
_BUCKETS_PER_DOUBLING = 50.0


def sample_indices(length: int, fps: float, times: Sequence[float] | None = None) -> list[int]:
    """Indices of the frames of a clip (`length` frames at `fps`) between which motion is measured: two each second.

    times: seconds at which the frames are shown, where the frame rate may vary. Shorter clips than half a second give
    the first and the last frame, slower ones than 2 fps every frame. ValueError for less than two frames.
    """
    if length < 2:
        raise ValueError(f"motion needs at least 2 frames, got {length}")
    if times is not None and times[-1] > times[0]:
        return _nearest(np.asarray(times) - times[0])
    interval = max(1.0, fps / _RATE)
    count = int((length - 1) / interval) + 1
    indices = [int(index * interval + 0.5) for index in range(count)]
    indices = [index for index in indices if index < length]
    return indices if len(indices) > 1 else [0, length - 1]


def _nearest(times: np.ndarray) -> list[int]:
    """Indices of the frames nearest to every half second, each one later than the one before."""
    halves = np.arange(int(times[-1] * _RATE + 1e-6) + 1) / _RATE
    after = np.searchsorted(times, halves).clip(1, len(times) - 1)
    nearest = np.where(halves - times[after - 1] < times[after] - halves - 1e-6, after - 1, after)
    later = np.diff(times[nearest], prepend=-1) > 0
    return nearest[later].tolist() if later.sum() > 1 else [0, len(times) - 1]


def motion_score(frames: np.ndarray | Sequence[np.ndarray], fps: float) -> float:
    """Score of a clip, uint8 (t, h, w, 3) RGB at `fps` frames per second: mean motion in % of the shortest side per
    second. ValueError for less than two frames."""
    indices = sample_indices(len(frames), fps)
    return sampled_motion_score((frames[index] for index in indices), indices, fps)


def sampled_motion_score(
    pictures: Iterable[np.ndarray], indices: Sequence[int], fps: float, times: Sequence[float] | None = None
) -> float:
    """As `motion_score`, from the pictures, each uint8 (h, w, 3), at `indices` of the clip alone. Holds two at once.
    times: as in `sample_indices`."""
    pictures = iter(pictures)
    before = working_copy(next(pictures))
    total = 0.0
    for start, end in zip(indices, indices[1:]):
        after = working_copy(next(pictures))
        seconds = (times[end] - times[start] if times else 0) or (end - start) / fps
        total += _mean_flow(before, after) / seconds
        before = after
    return 100.0 * total / (len(indices) - 1)


def _mean_flow(before: np.ndarray, after: np.ndarray) -> float:
    """Mean length of the flow between two working copies, as a fraction of the shortest side."""
    flow = dense_flow(before, after)
    height, width = before.shape
    scale = _MAP_SIDE / min(height, width)
    shrunk = cv2.resize(flow, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    return float(np.linalg.norm(shrunk, axis=-1).mean()) / WORK_SIDE


def bucket(score: float) -> int:
    """motion_bucket_id, 0..255, of a motion score (see the top of this file: our mapping, not Stability's)."""
    if not score >= 0:
        raise ValueError(f"a motion score is 0 or more, got {score}")
    return min(255, round(_BUCKETS_PER_DOUBLING * math.log2(1.0 + score)))


def score(bucket_id: float) -> float:
    """The motion score in the middle of a bucket: the inverse of `bucket`."""
    return 2.0 ** (bucket_id / _BUCKETS_PER_DOUBLING) - 1.0
