"""What the network is told about the video: the picture, twice, and three numbers (original: GeneralConditioner)."""

from __future__ import annotations

from typing import Callable, NamedTuple

import numpy as np
from mindspore import Tensor

from gm.diffusion.clip_preprocess import preprocess
from gm.diffusion.latents import split_moments
from gm.networks.embeddings import sinusoidal
from gm.precision import to_numpy


class Conditioning(NamedTuple):
    """One row for each frame; n = b*t.

    context (n, 1, e): CLIP embedding of the picture, for the cross-attention.
    concat (n, 4, h, w): VAE latent of the noised picture: the mean, *not* multiplied by the scale factor.
    vector (n, 3 * width): embeddings of fps, motion bucket and noise augmentation, in this order.
    """

    context: np.ndarray
    concat: np.ndarray
    vector: np.ndarray

    def null(self) -> Conditioning:
        """The unconditional branch: no picture, but the same numbers."""
        return Conditioning(np.zeros_like(self.context), np.zeros_like(self.concat), self.vector)

    def join(self, *others: Conditioning) -> Conditioning:
        """All in one batch, `self` first."""
        return Conditioning(*(np.concatenate(parts) for parts in zip(self, *others)))


def encode_picture(
    clip: Callable[[Tensor], Tensor],
    encoder: Callable[[Tensor], Tensor],
    picture: np.ndarray,
    noise: np.ndarray,
    cond_aug: float | np.floating,
    clip_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What the network sees of a picture: CLIP's embedding of the clean one, and the VAE latent of the noised one: its
    mean, not multiplied by the scale factor.

    Args:
        clip, encoder: cells, the image tower and the conditioner's VAE encoder.
        picture: float32 (1, 3, h, w) in [-1, 1]; noise: unit noise of the same shape; cond_aug: its sigma.
        clip_size: side in pixels of what the tower takes.

    Returns:
        float32 (1, e) and (1, z, h/8, w/8).
    """
    noised = picture + np.float32(cond_aug) * noise
    return run(clip, preprocess(picture, clip_size)), encode_mean(encoder, noised)


def encode_mean(encoder: Callable[[Tensor], Tensor], picture: np.ndarray) -> np.ndarray:
    """The mean float32 (1, z, h/8, w/8) of a picture's VAE latent, not scaled. Arguments as of `encode_picture`."""
    return split_moments(run(encoder, picture))[0]


def run(cell: Callable[[Tensor], Tensor], array: np.ndarray) -> np.ndarray:
    """A cell as a function of a float32 array."""
    return to_numpy(cell(Tensor(np.ascontiguousarray(array, np.float32)))).astype(np.float32)


def fps_id(fps: float) -> float:
    """The number that the network is told for frames per second: one less, as in its training."""
    return fps - 1


def vector_embedding(fps_id: np.ndarray, motion_bucket_id: np.ndarray, cond_aug: np.ndarray, width: int) -> np.ndarray:
    """Three arrays (n,) -> float32 (n, 3 * width)."""
    return np.concatenate([sinusoidal(values, width) for values in (fps_id, motion_bucket_id, cond_aug)], 1)


def condition(
    context: np.ndarray,
    concat: np.ndarray,
    fps: float,
    motion_bucket_id: float,
    cond_aug: float,
    width: int,
    t: int,
) -> Conditioning:
    """The conditioning of the t frames of one video.

    Args:
        context (1, e): CLIP embedding of the picture; concat (1, 4, h, w): its VAE latent.
        fps: frames per second; motion_bucket_id: 0 to 255; cond_aug: the sigma of the noise put on the picture.
        width: width of each number's embedding.
    """
    told = [np.full(1, value, np.float32) for value in (fps_id(fps), motion_bucket_id, cond_aug)]
    vector = vector_embedding(told[0], told[1], told[2], width)
    return Conditioning(*(np.repeat(part, t, 0) for part in (context[:, None], concat, vector)))
