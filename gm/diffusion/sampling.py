"""Samplers: generators that yield the latents after every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Union

import numpy as np

Denoise = Callable[[np.ndarray, float], np.ndarray]  # (x, sigma) -> estimate of the clean latents


@dataclass(frozen=True)
class Step:
    """What a sampler yields: steps are counted from 1; `denoised` is the estimate at the step's beginning."""

    index: int
    total: int
    sigma: float
    latents: np.ndarray
    denoised: np.ndarray


class Draws:
    """Normal noise for several videos at once, each from a `numpy.random.Generator` of its own."""

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self.generators = generators

    def standard_normal(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """(n, ...): n / len(generators) rows from each generator, in their order."""
        each = shape[0] // len(self.generators), *shape[1:]
        return np.concatenate([generator.standard_normal(each, dtype) for generator in self.generators])


Random = Union[np.random.Generator, Draws]


def initial_latents(noise: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Unit noise float32 (t, 4, h, w) -> latents at the first noise level: noise * sqrt(1 + sigma_0 ** 2)."""
    return noise * np.sqrt(np.float32(1) + sigmas[0] ** 2)


def euler(denoise: Denoise, latents: np.ndarray, sigmas: np.ndarray, random: Random | None = None) -> Iterator[Step]:
    """Euler's method for the probability flow (Karras et al. 2022, the first-order step of algorithm 1).

    Args:
        denoise: function (x, sigma) -> D, estimate of the clean latents.
        latents: float32 (t, 4, h, w) at noise level sigmas[0].
        sigmas: float32 (steps + 1,), falling, the last one 0.
        random: `numpy.random.Generator` or `Draws` of the noise that a sampler draws in its steps; this one draws none.

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


def heun(denoise: Denoise, latents: np.ndarray, sigmas: np.ndarray, random: Random | None = None) -> Iterator[Step]:
    """Heun's method (Karras et al. 2022, algorithm 1): second order, two evaluations in each step but the last.
    Arguments and yields as of `euler`.

    In float64 as in the paper's own program: a step from 700 to a small level leaves a small difference of large
    numbers, which the slope there divides by that level.
    """
    x, levels = latents.astype(np.float64), [float(sigma) for sigma in sigmas]
    total = len(levels) - 1
    for i in range(total):
        denoised = denoise(x.astype(np.float32), levels[i])
        derivative = (x - denoised) / levels[i]
        length = levels[i + 1] - levels[i]
        there = x + length * derivative
        if levels[i + 1] > 0:
            derivative_there = (there - denoise(there.astype(np.float32), levels[i + 1])) / levels[i + 1]
            there = x + length * 0.5 * (derivative + derivative_there)
        x = there
        yield Step(i + 1, total, levels[i], x.astype(np.float32), denoised)


def dpmpp_2m(denoise: Denoise, latents: np.ndarray, sigmas: np.ndarray, random: Random | None = None) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2, data prediction): second order from the estimate of the step
    before, one evaluation in each step. Arguments and yields as of `euler`."""
    x, before = latents, None
    total = len(sigmas) - 1
    for i in range(total):
        denoised = denoise(x, float(sigmas[i]))
        if sigmas[i + 1] == 0:
            x = denoised
        else:
            estimate = denoised
            if before is not None:
                ratio = np.log(sigmas[i - 1] / sigmas[i]) / np.log(sigmas[i] / sigmas[i + 1])
                estimate = denoised + (denoised - before) * np.float32(0.5 / ratio)
            shrink = sigmas[i + 1] / sigmas[i]
            x = shrink * x + (1 - shrink) * estimate
        before = denoised
        yield Step(i + 1, total, float(sigmas[i]), x, denoised)


def lcm(denoise: Denoise, latents: np.ndarray, sigmas: np.ndarray, random: Random) -> Iterator[Step]:
    """Consistency sampling (Song et al. 2023, algorithm 1), for models distilled for it, such as AnimateLCM's: the
    estimate, noised anew to the next level. Arguments and yields as of `euler`."""
    x = latents
    total = len(sigmas) - 1
    for i in range(total):
        denoised = denoise(x, float(sigmas[i]))
        x = denoised
        if sigmas[i + 1] > 0:
            x = denoised + sigmas[i + 1] * random.standard_normal(x.shape, np.float32)
        yield Step(i + 1, total, float(sigmas[i]), x, denoised)


SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "lcm": lcm}
