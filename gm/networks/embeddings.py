"""Sinusoidal embeddings (original: sgm.modules.diffusionmodules.util.timestep_embedding)."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor

from gm import ops

MAX_PERIOD = 10000.0


def frequencies(width: int) -> np.ndarray:
    """float32 (width // 2,): exp(-ln(10000) * j / half)."""
    half = width // 2
    return np.exp(-np.log(MAX_PERIOD) * np.arange(half, dtype=np.float64) / half).astype(np.float32)


def sinusoidal(values: np.ndarray, width: int) -> np.ndarray:
    """float32 values (n,) -> float32 (n, width): cosines first, then sines, and a zero where width is odd."""
    values = np.asarray(values, np.float32)
    angles = values[:, None] * frequencies(width)[None]
    zero = np.zeros((len(values), width % 2), np.float32)
    return np.concatenate([np.cos(angles), np.sin(angles), zero], 1)


def sinusoidal_tensor(values: Tensor, table: Tensor, width: int) -> Tensor:
    """`sinusoidal` inside a network: values (n,) float32, table = `frequencies(width)` as a tensor."""
    angles = values.astype(ms.float32).reshape(-1, 1) * table.reshape(1, -1)
    cosines, sines = ops.cos(angles), ops.sin(angles)
    if width % 2:
        return ops.cat((cosines, sines, ops.zeros_like(angles[:, :1])), 1)
    return ops.cat((cosines, sines), 1)
