"""Samplers: generators that yield the latents after every step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Step(NamedTuple):
    """What a sampler yields: steps are counted from 1; `denoised` is the estimate that the step used."""

    index: int
    total: int
    sigma: float
    latents: np.ndarray
    denoised: np.ndarray


def initial_latents(noise, sigmas):
    """Unit noise float32 (t, 4, h, w) -> latents at the first noise level: noise * sqrt(1 + sigma_0 ** 2)."""
    return noise * np.sqrt(np.float32(1) + sigmas[0] ** 2)


def euler(denoise, latents, sigmas):
    """Euler's method for the probability flow (Karras et al. 2022, algorithm 1 without the second order and the churn).

    Args:
        denoise: function (x, sigma) -> D, estimate of the clean latents.
        latents: float32 (t, 4, h, w) at noise level sigmas[0].
        sigmas: float32 (steps + 1,), falling, the last one 0.

    Yields:
        `Step` after each of the steps; the last one holds the sample.
    """
    x = latents
    total = len(sigmas) - 1
    for i in range(total):
        denoised = denoise(x, float(sigmas[i]))
        derivative = (x - denoised) / sigmas[i]
        x = x + (sigmas[i + 1] - sigmas[i]) * derivative
        yield Step(i + 1, total, float(sigmas[i]), x, denoised)
