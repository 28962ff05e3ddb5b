"""The inputs of the loss, from a clip, with encoders that show what they were given."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor

from gm.diffusion.clip_preprocess import preprocess
from gm.diffusion.conditioning import vector_embedding
from gm.diffusion.latents import SCALE_FACTOR
from gm.training import examples
from gm.training.draws import Draws
from gm.training.examples import encode, join, make_example

T, Z = 3, 4


class Encoders(examples.Encoders):
    """Latents are the pixels' first values; everything that was asked is kept."""

    def __init__(self):
        self.image_size = 14

    def first_stage(self, pixels):
        mean = np.repeat(pixels.asnumpy()[:, :1, ::8, ::8], Z, 1)
        return Tensor(np.concatenate([mean, np.full_like(mean, 2 * np.log(3.0))], 1))  # standard deviation 3

    def condition(self, picture):
        self.noised = picture.asnumpy()
        return self.first_stage(picture)

    def clip(self, picture):
        self.seen = picture.asnumpy()
        return Tensor(np.full((1, 6), self.seen.mean(), np.float32))


def make(keep_context=True, keep_concat=True):
    random = np.random.default_rng(0)
    pixels = random.uniform(-1, 1, (T, 3, 16, 16)).astype(np.float32)
    posterior, noise = random.standard_normal((2, T, Z, 2, 2)).astype(np.float32)
    pixel_noise = random.standard_normal((1, 3, 16, 16)).astype(np.float32)
    draws = Draws(np.float32(5), np.float32(0.25), keep_context, keep_concat, posterior, noise, pixel_noise)
    encoders = Encoders()
    sample = {"pixels": pixels, "fps_id": 2.5, "motion_bucket_id": 77.0}
    return pixels, draws, encoders, make_example(encode(encoders, sample, draws), draws, 8)


def test_targets_are_a_scaled_sample_of_the_posterior():
    pixels, draws, _, example = make()
    mean = np.repeat(pixels[:, :1, ::8, ::8], Z, 1)
    assert np.allclose(example.latents, SCALE_FACTOR * (mean + 3 * draws.posterior), atol=1e-6)
    assert np.array_equal(example.noise, draws.noise)
    assert np.array_equal(example.sigma, np.full(T, 5, np.float32))


def test_the_picture_is_noised_for_the_latent_and_clean_for_clip():
    pixels, draws, encoders, example = make()
    assert np.array_equal(encoders.seen, preprocess(pixels[:1], 14))
    assert np.allclose(encoders.noised, pixels[:1] + 0.25 * draws.pixel_noise)
    assert np.allclose(example.concat, np.repeat(np.repeat(encoders.noised[:, :1, ::8, ::8], Z, 1), T, 0))  # not scaled
    assert example.context.shape == (T, 1, 6) and np.allclose(example.context, encoders.seen.mean())


def test_the_vector_holds_fps_bucket_and_noise_level_in_this_order():
    example = make()[3]
    expected = vector_embedding(*(np.full(T, value, np.float32) for value in (2.5, 77.0, 0.25)), 8)
    assert np.array_equal(example.vector, expected)


def test_what_is_dropped_is_zero_and_the_rest_unchanged():
    full, no_context, no_concat = make()[3], make(keep_context=False)[3], make(keep_concat=False)[3]
    assert not no_context.context.any() and np.array_equal(no_context.concat, full.concat)
    assert not no_concat.concat.any() and np.array_equal(no_concat.context, full.context)
    for other in (no_context, no_concat):
        assert np.array_equal(other.latents, full.latents) and np.array_equal(other.vector, full.vector)


def test_a_batch_holds_the_clips_one_after_the_other():
    example = make()[3]
    other = example._replace(sigma=example.sigma + 1)
    batch = join([example, other])
    assert batch.sigma.tolist() == [5, 5, 5, 6, 6, 6]
    assert batch.latents.shape == (2 * T, Z, 2, 2) and np.array_equal(batch.latents[T:], example.latents)
