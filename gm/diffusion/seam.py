"""Where one segment of a longer video goes on from the one before: the frames that both have."""

from __future__ import annotations

import numpy as np

from gm.diffusion.sampling import Denoise


def fade(overlap: int) -> np.ndarray:
    """float32 (overlap, 1, 1, 1): how much the earlier segment counts in the frames of both, all in the first."""
    return (1 - np.arange(overlap, dtype=np.float32) / overlap).reshape(-1, 1, 1, 1)


def continued(denoise: Denoise, known: np.ndarray) -> Denoise:
    """A denoiser of one video, (x, sigma) -> D, that is told how the segment before ended.

    In every step its estimate of these frames is faded from what they are to its own: so that the noisy video holds
    them at each level's noise, and the network continues their motion, colours and sharpness.

    Args:
        denoise: denoiser of one video. known: clean latents float32 (o, z, h/8, w/8) of its first frames, scaled.
    """
    weight = fade(len(known))

    def denoise_continued(x: np.ndarray, sigma: float) -> np.ndarray:
        found = denoise(x, sigma)
        both = weight * known + (1 - weight) * found[: len(known)]
        return np.concatenate([both, found[len(known) :]])

    return denoise_continued
