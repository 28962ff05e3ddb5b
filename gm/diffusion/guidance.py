"""Classifier-free guidance whose scale grows along the frames (original: LinearPredictionGuider)."""

from __future__ import annotations

import numpy as np


def linear_scales(min_guidance, max_guidance, t):
    """float32 (t, 1, 1, 1): from min_guidance at the first frame to max_guidance at the last."""
    return np.linspace(min_guidance, max_guidance, t, dtype=np.float32).reshape(t, 1, 1, 1)


def guided(denoise, conditioning, scales, sigma_min=None, sigma_max=None):
    """A denoiser of one video, D = D_null + scale * (D_cond - D_null), with the signature (x, sigma) -> D.

    Args:
        denoise: function (x, sigma, conditioning) -> D on n = b*t frames, all float32 arrays.
        conditioning: `Conditioning` of the t frames of one video.
        scales (t, 1, 1, 1): guidance scale of every frame.
        sigma_min, sigma_max: guidance at these noise levels alone (Kynkäänniemi et al. 2024); None: no limit.

    Both halves run as one batch, the unconditional one first. Where every scale is 1, or outside the limits, the result
    is D_cond and the unconditional half is left out.
    """
    low = 0.0 if sigma_min is None else sigma_min
    high = np.inf if sigma_max is None else sigma_max
    none = np.all(scales == 1)
    both = None if none else conditioning.null().join(conditioning)

    def denoise_guided(x, sigma):
        if none or not low <= sigma <= high:
            return denoise(x, np.full(len(x), sigma, np.float32), conditioning)
        result = denoise(np.concatenate([x, x]), np.full(2 * len(x), sigma, np.float32), both)
        null, cond = np.split(result, 2)
        return null + scales * (cond - null)

    return denoise_guided
