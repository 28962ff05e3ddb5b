"""Noise levels of the sampler."""

from __future__ import annotations

from typing import Callable

import numpy as np

# Sabour, Fidler, Kreis 2024 (arXiv 2404.14507), appendix B.3: optimised for Stable Video Diffusion, 10 steps. The last
# one is 0 in use; between the others the logarithm is interpolated.
_AYS = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)


def karras_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0) -> np.ndarray:
    """float32 (steps + 1,): falling noise levels and a final 0 (Karras et al. 2022, equation 5).

    The defaults are SVD's. A single step is sigma_max, 0.
    """
    ramp = np.linspace(0.0, 1.0, steps) if steps > 1 else np.zeros(1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.append((high + ramp * (low - high)) ** rho, 0.0).astype(np.float32)


def ays_sigmas(steps: int) -> np.ndarray:
    """float32 (steps + 1,): NVIDIA's Align Your Steps schedule, made for few steps, and a final 0."""
    positions = np.linspace(0.0, 1.0, steps + 1)
    logs = np.interp(positions, np.linspace(0.0, 1.0, len(_AYS)), np.log(_AYS))
    return np.append(np.exp(logs[:-1]), 0.0).astype(np.float32)


SCHEDULES: dict[str, Callable[..., np.ndarray]] = {"karras": karras_sigmas, "ays": ays_sigmas}
