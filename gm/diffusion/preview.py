"""Small pictures of latents at once, without the decoder: colours are nearly linear in the VAE's latents."""

from __future__ import annotations

import numpy as np
from PIL import Image

from gm.diffusion.latents import SCALE_FACTOR

_RIDGE = 1e-3  # of the latents' variance: a picture of one colour says nothing about the others


class Preview:
    """Latents to small pictures by the linear map that fits one known picture best.

    Args:
        image: uint8 (h, w, 3). latent: float32 (z, h/f, w/f), the mean of its encoding, not scaled.
    """

    def __init__(self, image: np.ndarray, latent: np.ndarray) -> None:
        height, width = latent.shape[1:]
        small = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
        colours = np.asarray(small, np.float64).reshape(-1, 3)
        rows = latent.astype(np.float64).reshape(len(latent), -1).T
        self._mean, self._colour = rows.mean(0), colours.mean(0)
        rows, colours = rows - self._mean, colours - self._colour
        gram = rows.T @ rows
        gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)) + 1e-12 * np.eye(len(gram))
        self._map = np.linalg.solve(gram, rows.T @ colours)

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """Scaled latents float32 (t, z, h/f, w/f), as samplers hold them -> uint8 (t, h/f, w/f, 3)."""
        rows = np.moveaxis(latents, 1, -1) / SCALE_FACTOR - self._mean
        return np.clip(np.rint(rows @ self._map + self._colour), 0, 255).astype(np.uint8)
