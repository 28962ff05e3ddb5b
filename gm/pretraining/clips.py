"""Procedural clips as a data set for training, in place of `gm.data.clips.ClipDataset`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gm.data.images import to_signed
from gm.data.motion import bucket
from gm.data.procedural import clip
from gm.diffusion.conditioning import fps_id

_CLIP, _ORDER = 1, 2


class ProceduralClips:
    """`count` clips of `frames` frames of size x size pixels; the same arguments give the same clips.

    With frames = 1 a sample is a pair of pictures: the clip's first frame is the conditioning picture and one of the
    later ones, the k-th, is the sample. It is told to the network as the next frame of a clip at fps / k, which is what
    it is: so the image model learns how far things move in a given time.

    most_bucket: the fastest clips' motion bucket, about.
    """

    def __init__(self, count: int, frames: int, size: int, fps: float, most_bucket: float, seed: int) -> None:
        self.count, self.frames, self.size, self.fps = count, frames, size, fps
        self.most_bucket, self.seed = most_bucket, seed
        self.order = functools.lru_cache(maxsize=4)(self._draw_order)

    def __len__(self) -> int:
        return self.count

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, _ORDER, epoch)).permutation(self.count)

    def identity(self) -> dict[str, Any]:
        """{what: value} of everything that decides what the samples show."""
        return {
            "procedural clips": self.count,
            "frames": self.frames,
            "size": self.size,
            "fps": self.fps,
            "most_bucket": self.most_bucket,
            "seed": self.seed,
        }

    def at(self, position: int) -> dict[str, Any]:
        """The sample at `position` of the endless stream of epochs, as of `gm.data.clips.ClipDataset.at`."""
        epoch, index = divmod(position, self.count)
        random = np.random.default_rng((self.seed, _CLIP, int(self.order(epoch)[index])))
        last = self.frames - 1 if self.frames > 1 else int(random.integers(1, 14))
        drawn = clip(random, last + 1, self.size, self.fps, self.most_bucket)
        frames = drawn.frames if self.frames > 1 else drawn.frames[-1:]
        fps = self.fps if self.frames > 1 else self.fps / last
        return {
            "pixels": np.concatenate([to_signed(frame) for frame in frames]),
            "picture": to_signed(drawn.frames[0]),
            "fps_id": fps_id(fps),
            "motion_bucket_id": float(bucket(drawn.motion)),
            "path": "procedural",
            "start": 0,
            "failures": [],
        }
