"""Between pixels and latents: the posterior of the VAE encoder and decoding in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable

import numpy as np
from mindspore import Tensor

# The first stage's latents times this have about unit variance; the UNet works on the product. The conditioning latent
# is not multiplied by it.
SCALE_FACTOR = 0.18215


def split_moments(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encoder output float32 (n, 2z, h, w) -> mean and standard deviation, each (n, z, h, w)."""
    mean, log_variance = np.split(moments, 2, axis=1)
    return mean, np.exp(0.5 * np.clip(log_variance, -30.0, 20.0))


def sample(mean: np.ndarray, std: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """A draw from the posterior, all (n, z, h, w); noise is unit normal."""
    return mean + std * noise


def kl_divergence(moments: np.ndarray) -> float:
    """KL(posterior || unit normal), summed over everything but the batch and averaged over it."""
    mean, std = (part.astype(np.float64) for part in split_moments(moments))
    return 0.5 * np.sum(mean**2 + std**2 - 1.0 - 2.0 * np.log(std)) / len(moments)


def decoded_chunks(decoder: Callable[[Tensor, int], Tensor], z: np.ndarray, chunk: int) -> Iterator[np.ndarray]:
    """Latents float32 (t, z, h, w), not scaled -> pixels float32 (n, 3, 8h, 8w), about [-1, 1], not clamped, in turn.

    Consecutive chunks of `chunk` frames (the last may be shorter) are decoded one by one; the temporal decoder sees
    only the frames of a chunk, so the result depends on `chunk`, here as in the original.
    """
    for start in range(0, len(z), chunk):
        part = np.ascontiguousarray(z[start : start + chunk])
        yield decoder(Tensor(part), len(part)).asnumpy()


def decode_in_chunks(decoder: Callable[[Tensor, int], Tensor], z: np.ndarray, chunk: int) -> np.ndarray:
    """All of `decoded_chunks` in one array float32 (t, 3, 8h, 8w)."""
    return np.concatenate(list(decoded_chunks(decoder, z, chunk)))
