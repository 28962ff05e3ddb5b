"""From clips to the inputs of the loss, through the frozen encoders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from mindspore import Tensor

from gm.diffusion.clip_preprocess import preprocess
from gm.diffusion.conditioning import vector_embedding
from gm.diffusion.latents import SCALE_FACTOR, sample, split_moments
from gm.precision import to_numpy


class Example(NamedTuple):
    """The inputs of `DiffusionLoss` for one clip or a batch, n = b*t frames, float32.

    latents, noise, concat (n, z, h, w); sigma (n,); context (n, 1, e); vector (n, 3 * width).
    """

    latents: np.ndarray
    noise: np.ndarray
    sigma: np.ndarray
    concat: np.ndarray
    context: np.ndarray
    vector: np.ndarray


class Encoded(NamedTuple):
    """What the frozen encoders make of one clip, float32; a cache holds it (`gm.training.cache`).

    moments (t, 2z, h, w): of the first stage. concat (1, z, h, w): the conditioning latent, of the picture noised by
    cond_aug. context (1, e): CLIP embedding of the clean picture. fps_id: as the network is told it
    (`gm.diffusion.conditioning.fps_id`).
    """

    moments: np.ndarray
    concat: np.ndarray
    context: np.ndarray
    cond_aug: np.float32
    fps_id: np.float32
    motion_bucket_id: np.float32


class Encoders:
    """The parts that are never trained: first stage, the conditioner's VAE encoder and CLIP."""

    def __init__(self, config, base, amp_level):
        self.first_stage = base.load("first_stage_encoder", amp_level)
        self.condition = base.load("condition_encoder", amp_level)
        self.clip = base.load("clip", amp_level)
        self.image_size = config.model.clip.image_size

    def moments(self, pixels):
        """(t, 3, H, W) -> moments of the first stage (t, 2z, h, w), frame by frame: it has no sense of time."""
        return np.concatenate([_run(self.first_stage, frame[None]) for frame in pixels])

    def embedding(self, picture):
        """CLIP embedding (1, e) of a picture (1, 3, H, W) without noise."""
        return _run(self.clip, preprocess(picture, self.image_size))

    def conditioning_latent(self, picture):
        """(1, 3, H, W), noised -> (1, z, h, w): the mean, not multiplied by the scale factor."""
        return split_moments(_run(self.condition, picture))[0]


def _run(cell, array):
    return to_numpy(cell(Tensor(np.ascontiguousarray(array, np.float32)))).astype(np.float32)


def encode(encoders, sample, draws):
    """`Encoded` of one clip: a sample of `gm.data.clips.ClipDataset` and its `Draws`."""
    picture = sample["picture"] if "picture" in sample else sample["pixels"][:1]
    noised = picture + draws.cond_aug * draws.pixel_noise
    return Encoded(
        encoders.moments(sample["pixels"]), encoders.conditioning_latent(noised), encoders.embedding(picture),
        draws.cond_aug, np.float32(sample["fps_id"]), np.float32(sample["motion_bucket_id"]),
    )


def make_example(encoded, draws, width):
    """Example of one clip.

    draws: `Draws`, of which cond_aug and pixel_noise went into `encoded`; width: of each number's embedding.
    """
    t = len(encoded.moments)
    mean, std = split_moments(encoded.moments)
    concat = encoded.concat * np.float32(draws.keep_concat)
    context = encoded.context[:, None] * np.float32(draws.keep_context)
    numbers = (np.full(1, value, np.float32)
               for value in (encoded.fps_id, encoded.motion_bucket_id, encoded.cond_aug))
    return Example(
        np.float32(SCALE_FACTOR) * sample(mean, std, draws.posterior),
        draws.noise,
        np.full(t, draws.sigma, np.float32),
        *(np.repeat(part, t, 0) for part in (concat, context, vector_embedding(*numbers, width))),
    )


def join(examples):
    """Examples of single clips -> one of a batch."""
    return Example(*(np.concatenate(parts) for parts in zip(*examples)))


def tensors(example):
    return tuple(Tensor(np.ascontiguousarray(part, np.float32)) for part in example)
