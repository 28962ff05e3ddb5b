"""Noise levels of the sampler."""

import numpy as np


def karras_sigmas(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    """float32 (steps + 1,): falling noise levels and a final 0 (Karras et al. 2022, equation 5).

    The defaults are SVD's. A single step is sigma_max, 0.
    """
    ramp = np.linspace(0.0, 1.0, steps) if steps > 1 else np.zeros(1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.append((high + ramp * (low - high)) ** rho, 0.0).astype(np.float32)
