"""Longer videos: segments, each of which goes on where the one before ended; no mindspore here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gm.data.flow import one_more, picture_flow, same_points
from gm.diffusion.seam import fade
from gm.errors import UserError
from gm.options import OVERLAP

if TYPE_CHECKING:
    from gm.options import Options, VideoSettings


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


def unshifted(picture: np.ndarray | None, frames: np.ndarray) -> np.ndarray:
    """The last of `frames`, in the colours that its points have in `picture`: uint8 (h, w, 3).

    A segment's colours are a little other than its picture's: those that the VAE gives back of what it was given, in
    the first place. Were the next one to begin with them, it would shift them once more, and so on. The mean of each
    channel is put right, over the points that both show, so that what comes into view, or nearer, keeps its colours.

    Args:
        picture: uint8 (h, w, 3) that a segment begins with; None takes its first frame. frames: uint8 (t, h, w, 3).
    """
    picture, last = frames[0] if picture is None else picture, frames[-1]
    before, to_first = picture, np.zeros((*picture.shape[:2], 2), np.float32)
    for frame in frames:
        to_first, before = one_more(to_first, picture_flow(frame, before)), frame
    colours = same_points(picture, last, to_first)
    shift = 0 if colours is None else colours[1] - colours[0]
    return np.rint(last - shift).clip(0, 255).astype(np.uint8)


class Chain:
    """What there is of a longer video.

    Args:
        image: uint8 (h, w, 3) that the first segment begins with, None where latents are given. overlap: frames that a
            segment shares with the one before.

    latents: float32 (t, z, h/8, w/8) and frames: uint8 (t, h, w, 3) so far, or None. image, known: the picture that the
    next segment begins with, and the latents of its first frames, None for the first segment.
    """

    def __init__(self, image: np.ndarray | None, overlap: int) -> None:
        self.image, self.overlap = image, overlap
        self.latents: np.ndarray | None = None
        self.frames: np.ndarray | None = None
        self.known: np.ndarray | None = None

    def sampled(self, latents: np.ndarray) -> None:
        """A segment's latents, all of its frames'."""
        self.latents = self._joined(self.latents, latents)
        self.known = latents[-self.overlap :]

    def decoded(self, frames: np.ndarray, plain: np.ndarray | None) -> None:
        """Its frames; plain: the same without a watermark, None of the last segment."""
        self.frames = self._joined(self.frames, frames)
        if plain is not None:
            self.image = unshifted(self.image, plain[: len(plain) - self.overlap + 1])

    def _joined(self, before: np.ndarray | None, more: np.ndarray) -> np.ndarray:
        """The frames that both have are faded from one to the other."""
        if before is None:
            return more
        weight, overlap = fade(self.overlap), self.overlap
        both = weight * before[-overlap:] + (1 - weight) * more[:overlap]
        both = np.rint(both).astype(np.uint8) if more.dtype == np.uint8 else both
        return np.concatenate([before[:-overlap], both, more[overlap:]])
