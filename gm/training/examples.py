"""From clips to the inputs of the loss, through the frozen encoders."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from mindspore import Tensor

from gm.diffusion.conditioning import encode_picture, run, vector_embedding
from gm.diffusion.latents import SCALE_FACTOR, sample, split_moments
from gm.model_config import ModelConfig
from gm.training.draws import Draws
from gm.weights import ModelWeights


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

    def __init__(self, config: ModelConfig, base: ModelWeights, amp_level: str) -> None:
        self.first_stage = base.load("first_stage_encoder", amp_level)
        self.condition = base.load("condition_encoder", amp_level)
        self.clip = base.load("clip", amp_level)
        self.image_size = config.model.clip.image_size

    def moments(self, pixels: np.ndarray) -> np.ndarray:
        """(t, 3, H, W) -> moments of the first stage (t, 2z, h, w), frame by frame: it has no sense of time."""
        return np.concatenate([run(self.first_stage, frame[None]) for frame in pixels])

    def picture(self, picture: np.ndarray, noise: np.ndarray, cond_aug: np.float32) -> tuple[np.ndarray, np.ndarray]:
        """Picture and unit noise (1, 3, H, W) -> (1, e), (1, z, h, w): `gm.diffusion.conditioning.encode_picture`."""
        return encode_picture(self.clip, self.condition, picture, noise, cond_aug, self.image_size)


def encode(encoders: Encoders, sample: dict[str, Any], draws: Draws) -> Encoded:
    """`Encoded` of one clip: a sample of `gm.data.clips.ClipDataset` and its `Draws`."""
    picture = sample["picture"] if "picture" in sample else sample["pixels"][:1]
    context, concat = encoders.picture(picture, draws.pixel_noise, draws.cond_aug)
    return Encoded(
        encoders.moments(sample["pixels"]),
        concat,
        context,
        draws.cond_aug,
        np.float32(sample["fps_id"]),
        np.float32(sample["motion_bucket_id"]),
    )


def make_example(encoded: Encoded, draws: Draws, width: int) -> Example:
    """Example of one clip.

    draws: `Draws`, of which cond_aug and pixel_noise went into `encoded`; width: of each number's embedding.
    """
    t = len(encoded.moments)
    mean, std = split_moments(encoded.moments)
    concat = encoded.concat * np.float32(draws.keep_concat)
    context = encoded.context[:, None] * np.float32(draws.keep_context)
    fps, motion, cond_aug = (
        np.full(1, value, np.float32) for value in (encoded.fps_id, encoded.motion_bucket_id, encoded.cond_aug)
    )
    return Example(
        np.float32(SCALE_FACTOR) * sample(mean, std, draws.posterior),
        draws.noise,
        np.full(t, draws.sigma, np.float32),
        *(np.repeat(part, t, 0) for part in (concat, context, vector_embedding(fps, motion, cond_aug, width))),
    )


def join(examples: list[Example]) -> Example:
    """Examples of single clips -> one of a batch."""
    return Example(*(np.concatenate(parts) for parts in zip(*examples)))


def tensors(example: Example) -> tuple[Tensor, ...]:
    return tuple(Tensor(np.ascontiguousarray(part, np.float32)) for part in example)
