"""Longer videos: segments, each of which goes on where the one before ended; no mindspore here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from gm.data.flow import one_more, picture_flow, same_points
from gm.diffusion.seam import fade
from gm.errors import UserError
from gm.options import OVERLAP

if TYPE_CHECKING:
    from gm.options import Options, VideoSettings

GRAIN = 2.0  # of 255: a deviation of colours that is none of the picture's, but noise


def numbers(text: str | None, count: int, name: str) -> list[float] | None:
    """A float for each of `count` segments from "160,60,160,60", or None for no text.

    Raises:
        UserError: what is no number, or not as many as there are segments.
    """
    if text is None:
        return None
    try:
        found = [float(word) for word in str(text).split(",")]
    except ValueError as error:
        raise UserError(f"--{name}={text}: give numbers with commas between them, such as 160,60") from error
    if len(found) != count:
        raise UserError(f"--{name}={text}: {len(found)} numbers for {count} segments (--segments)")
    return found


def options_of(options: Options, settings: VideoSettings) -> list[Options]:
    """The `Options` of every segment: seeds of their own, and motion and frame rate as `settings` tell.

    Args:
        options: `gm.options.Options` of the first one. settings: `gm.options.VideoSettings`.
    """
    found = []
    for k in range(settings.segments):
        changes: dict[str, Any] = {}
        if k > 0:
            changes["seed"] = int(np.random.SeedSequence([options.seed, k]).generate_state(1)[0])
        for field, text in (("motion_bucket_id", settings.segment_motion), ("fps", settings.segment_fps)):
            values = numbers(text, settings.segments, "segment_" + field.split("_")[0])
            changes.update({field: values[k]} if values else {})
        found.append(replace(options, **changes))
    return found


def overlap_of(options: Options, settings: VideoSettings) -> int:
    """Frames that a segment shares with the one before. Arguments as of `options_of`.

    Raises:
        UserError: as many as a segment has, or more.
    """
    overlap = OVERLAP if settings.overlap is None else settings.overlap
    if settings.segments > 1 and overlap >= options.num_frames:
        raise UserError(f"overlap {overlap}: must be less than the {options.num_frames} frames of a segment")
    return overlap


def length(options: Options, settings: VideoSettings, given: int | None = None) -> int:
    """Frames of the whole video. given: of latents that are its first segment."""
    each = options.num_frames
    return (given or each) + (settings.segments - 1) * (each - overlap_of(options, settings))


def unshifted(frames: np.ndarray, shared: int) -> np.ndarray:
    """The last `shared` of `frames` uint8 (t, h, w, 3), in the colours that the points of the first of these have in
    frames[0].

    The network moves colours a little from a segment's first frame to its last. Were the next one to begin with them,
    it would move them once more, and so on. `transport` puts them right, by the points that both frames show, so that
    what comes into view, or nearer, keeps its colours.
    """
    last, before, to_first = frames[-shared:], frames[0], np.zeros((*frames[0].shape[:2], 2), np.float32)
    for frame in frames[1 : len(frames) - shared + 1]:
        to_first, before = one_more(to_first, picture_flow(frame, before)), frame
    points = same_points(frames[0], last[0], to_first)
    if points is None:
        return last
    matrix, offset = transport(points[1], points[0])
    return np.rint(last @ matrix + offset).clip(0, 255).astype(np.uint8)


def transport(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, v), float64 (3, 3) and (3,): of all linear maps c @ M + v of colours that give `source` the mean and the
    covariance of `target`, the one that moves them least (Pitié and Kokaram, The linear Monge-Kantorovitch linear
    colour mapping, 2007). Colours are uint8 (n, 3).

    The covariance tells more than each channel's deviation: red and green that part while grey stays are a growth of
    saturation, which the deviations hardly show.
    """
    means = [colours.mean(0, dtype=np.float64) for colours in (source, target)]
    # With GRAIN's variance in both, a picture of one colour is not stretched to give its grain a deviation.
    own, wanted = (np.cov(c, rowvar=False, bias=True) + GRAIN**2 * np.eye(3) for c in (source, target))
    root = _root(own)
    back = np.linalg.inv(root)
    matrix = back @ _root(root @ wanted @ root) @ back
    return matrix, means[1] - means[0] @ matrix


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a symmetric matrix (n, n) without negative eigenvalues."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


class Chain:
    """What there is of a longer video.

    Args:
        image: uint8 (h, w, 3) that the first segment begins with, None where latents are given. overlap: frames that a
            segment shares with the one before.

    latents: float32 (t, z, h/8, w/8) and frames: uint8 (t, h, w, 3) so far, or None. image: the picture that the next
    segment begins with, see also `known`.
    """

    def __init__(self, image: np.ndarray | None, overlap: int) -> None:
        self.image, self.overlap = image, overlap
        self.latents: np.ndarray | None = None
        self.frames: np.ndarray | None = None
        self._own = np.zeros(0, np.float32)  # latents of the last segment's last frames
        self._shared: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # latents, frames, these `unshifted`

    def sampled(self, latents: np.ndarray) -> None:
        """A segment's latents, all of its frames'."""
        self.latents = self._joined(self.latents, latents)
        self._own = latents[-self.overlap :]

    def decoded(self, frames: np.ndarray, plain: np.ndarray | None) -> None:
        """Its frames; plain: the same without a watermark, None of the last segment."""
        self.frames = self._joined(self.frames, frames)
        if plain is not None:
            right = unshifted(plain, self.overlap)
            self.image, self._shared = right[0], (self._own, plain[-self.overlap :].copy(), right)

    def known(self, encode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
        """The latents float32 (overlap, z, h/8, w/8) of the next segment's first frames, None for the first segment.

        They are those of the segment before, moved by what the change of colours is to the encoder. The frames encoded
        anew would not do: what was decoded and is encoded again comes back with stronger colours, each time.

        Args:
            encode: picture uint8 (h, w, 3) -> its latents float32 (z, h/8, w/8), scaled.
        """
        if self._shared is None:
            return None
        changes = (encode(right) - encode(plain) for _, plain, right in zip(*self._shared))
        return np.stack([latents + change for latents, change in zip(self._shared[0], changes)])

    def _joined(self, before: np.ndarray | None, more: np.ndarray) -> np.ndarray:
        """The frames that both have are faded from one to the other."""
        if before is None:
            return more
        weight, overlap = fade(self.overlap), self.overlap
        both = weight * before[-overlap:] + (1 - weight) * more[:overlap]
        both = np.rint(both).astype(np.uint8) if more.dtype == np.uint8 else both
        return np.concatenate([before[:-overlap], both, more[overlap:]])
