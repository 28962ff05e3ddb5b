"""The random numbers of training.

Each sample has a generator of its own, from the seed and the sample's position in the endless stream of clips. So a run
that was interrupted, other numbers of workers, devices or clips in a batch all draw the same numbers for it, and a
checkpoint needs no generator's state.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gm.diffusion.loss import lognormal_sigmas
from gm.training.settings import Loss

# The second number of each key; gm/data/clips.py uses 1 to 3 for what it draws.
_SPLIT, _TRAINING, _VALIDATION, _PICTURE = 4, 5, 6, 7


class Draws(NamedTuple):
    """Everything random about one sample, apart from which frames it shows.

    sigma: noise level of the video, the same for all its frames. cond_aug: noise level of the conditioning picture.
    keep_context, keep_concat: whether the CLIP embedding and the conditioning latent are there (not dropped).
    posterior, noise (t, z, h, w): unit normal, for the first stage's sample and for the noised latents.
    pixel_noise (1, 3, H, W): unit normal.
    """

    sigma: np.float32
    cond_aug: np.float32
    keep_context: bool
    keep_concat: bool
    posterior: np.ndarray
    noise: np.ndarray
    pixel_noise: np.ndarray


def training_draws(
    seed: int, position: int, loss: Loss, latent_shape: tuple[int, ...], pixel_shape: tuple[int, ...], stream: int = 0
) -> Draws:
    """Draws of the sample at `position` of the stream number `stream`.

    loss: the section train.loss; latent_shape (t, z, h, w); pixel_shape (1, 3, H, W).
    """
    random = np.random.default_rng((seed, _TRAINING, position, *_more(stream)))
    sigma = lognormal_sigmas(random.standard_normal(), loss.p_mean, loss.p_std)
    cond_aug = lognormal_sigmas(random.standard_normal(), loss.cond_aug_mean, loss.cond_aug_std)
    keep_context, keep_concat = kept(random.random(), loss.dropout)
    return Draws(
        np.float32(sigma),
        np.float32(cond_aug),
        keep_context,
        keep_concat,
        *(random.standard_normal(shape, np.float32) for shape in (latent_shape, latent_shape, pixel_shape)),
    )


def _more(stream: int) -> tuple[int, ...]:
    """The end of a key: nothing for the first stream, which so draws what a run of one stream does."""
    return (stream,) if stream else ()


def kept(u: float, dropout: float) -> tuple[bool, bool]:
    """(context kept, conditioning latent kept) for a uniform number u in [0, 1).

    Three events that exclude one another, each with probability p = dropout: u in [0, p) drops the CLIP embedding,
    [p, 2p) both, [2p, 3p) the latent (InstructPix2Pix's scheme, which SVD trainers use). Dropped means zeros, as in
    guidance.
    """
    return u >= 2 * dropout, not dropout <= u < 3 * dropout


def validation_draws(
    seed: int,
    clip: int,
    index: int,
    sigma: float,
    loss: Loss,
    latent_shape: tuple[int, ...],
    pixel_shape: tuple[int, ...],
    stream: int = 0,
) -> Draws:
    """Draws of held-out clip number `clip` of data set number `stream` at the `index`-th noise level `sigma`: nothing
    dropped, the noise of the conditioning picture at its median and the same at all levels."""
    random = np.random.default_rng((seed, _VALIDATION, clip, index, *_more(stream)))
    cond_aug = np.float32(np.exp(loss.cond_aug_mean))
    posterior, noise = (random.standard_normal(latent_shape, np.float32) for _ in range(2))
    of_picture = np.random.default_rng((seed, _PICTURE, clip, *_more(stream)))
    picture_noise = of_picture.standard_normal(pixel_shape, np.float32)
    return Draws(np.float32(sigma), cond_aug, True, True, posterior, noise, picture_noise)


def held_out(seed: int, files: int, share: float) -> list[int]:
    """Sorted positions of the `share` of `files` files that validation gets: at least one, and one is left to train."""
    count = min(max(1, round(share * files)), files - 1) if share else 0
    return sorted(np.random.default_rng((seed, _SPLIT)).permutation(files)[:count].tolist())
