"""From clips to the inputs of the loss, through the frozen encoders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from mindspore import Tensor

from gm.diffusion.clip_preprocess import preprocess
from gm.diffusion.conditioning import vector_embedding
from gm.diffusion.latents import SCALE_FACTOR, sample, split_moments


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
    return cell(Tensor(np.ascontiguousarray(array, np.float32))).asnumpy().astype(np.float32)


def make_example(encoders, pixels, fps_id, motion_bucket_id, draws, width):
    """Example of one clip.

    pixels (t, 3, H, W) in [-1, 1], the first frame being the conditioning picture; fps_id: as the network is told it
    (`gm.diffusion.conditioning.fps_id`); draws: `Draws`; width: of each number's embedding.
    """
    t = len(pixels)
    picture = pixels[:1]
    mean, std = split_moments(encoders.moments(pixels))
    concat = encoders.conditioning_latent(picture + draws.cond_aug * draws.pixel_noise) * np.float32(draws.keep_concat)
    context = encoders.embedding(picture)[:, None] * np.float32(draws.keep_context)
    numbers = (np.full(1, value, np.float32) for value in (fps_id, motion_bucket_id, draws.cond_aug))
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
