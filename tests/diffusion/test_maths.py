"""What the recordings do not pin: edge cases, and the loop of the sampler against a closed form."""

import numpy as np
import pytest

from gm.diffusion.clip_preprocess import preprocess, resize_matrices
from gm.diffusion.conditioning import Conditioning, condition, fps_id
from gm.diffusion.guidance import SHAPES, guided, linear_scales
from gm.diffusion.latents import decode_in_chunks, kl_divergence, split_moments
from gm.diffusion.loss import lognormal_sigmas
from gm.diffusion.sampling import euler, initial_latents
from gm.diffusion.schedules import karras_sigmas
from tests.stand_ins import denoiser_of


@pytest.mark.parametrize("steps", [1, 2, 25])
def test_noise_levels_fall_from_700_to_0(steps):
    sigmas = karras_sigmas(steps)
    assert sigmas.dtype == np.float32 and len(sigmas) == steps + 1
    assert sigmas[-1] == 0 and np.all(np.diff(sigmas) < 0)
    np.testing.assert_allclose(sigmas[0], 700, rtol=1e-6)


def test_the_first_latents_have_the_variance_of_noised_unit_data():
    np.testing.assert_allclose(initial_latents(np.ones(2, np.float32), np.float32([2, 0])), np.sqrt(5.0), rtol=1e-6)


def test_euler_with_a_perfect_denoiser_ends_at_the_clean_latents():
    clean = np.random.default_rng(0).standard_normal((3, 4, 2, 2)).astype(np.float32)
    seen = []
    sigmas = karras_sigmas(5)
    steps = list(euler(lambda x, sigma: seen.append(sigma) or clean, initial_latents(clean, sigmas), sigmas))
    assert [s.index for s in steps] == [1, 2, 3, 4, 5] and steps[0].total == 5
    np.testing.assert_allclose(seen, sigmas[:-1])
    np.testing.assert_array_equal(steps[-1].latents, steps[-1].denoised)
    np.testing.assert_allclose(steps[-1].latents, clean, atol=1e-6)


def test_euler_for_gaussian_data_approaches_the_exact_solution():
    """For data N(0, 1) the flow is x(sigma) = x(s0) * sqrt((1 + sigma^2) / (1 + s0^2))."""

    def denoise(x, sigma):
        return x / (1 + sigma**2)

    noise = np.ones((1, 1, 1, 1), np.float32)
    errors = []
    for steps in (25, 50, 100):
        sigmas = karras_sigmas(steps)
        *_, last = euler(denoise, initial_latents(noise, sigmas), sigmas)
        errors.append(abs(float(last.latents.item()) - 1.0))
    assert errors[0] > 1.7 * errors[1] > 2.9 * errors[2], errors


def test_guidance_mixes_per_frame_and_keeps_the_numbers_in_both_halves():
    t = 3
    cond = Conditioning(*(np.full(shape, 2.0, np.float32) for shape in ((t, 1, 5), (t, 4, 2, 2), (t, 6))))
    calls = []

    def denoise(x, sigma, conditioning):
        calls.append(conditioning)
        return np.where(np.arange(len(x)) < t, 1.0, 3.0).reshape(-1, 1, 1, 1) * np.ones_like(x)

    x = np.zeros((t, 4, 2, 2), np.float32)
    result = guided(denoiser_of(denoise), cond, linear_scales(1.0, 2.0, t), t)(x, 5.0)
    np.testing.assert_allclose(result[:, 0, 0, 0], [3.0, 4.0, 5.0])
    context, concat, vector = calls[0]
    assert not context[:t].any() and not concat[:t].any() and (context[t:] == 2).all()
    assert (vector == 2).all() and len(vector) == 2 * t


def test_guidance_of_1_leaves_the_unconditional_half_out():
    sizes = []

    def denoise(x, sigma, conditioning):
        sizes.append(len(x))
        return x

    cond = Conditioning(*(np.zeros(shape, np.float32) for shape in ((2, 1, 5), (2, 4, 2, 2), (2, 6))))
    guided(denoiser_of(denoise), cond, linear_scales(1.0, 1.0, 2), 2)(np.zeros((2, 4, 2, 2), np.float32), 1.0)
    assert sizes == [2]


@pytest.mark.parametrize(
    ("shape", "t", "expected"),
    [
        ("linear", 5, [1, 1.5, 2, 2.5, 3]),
        ("linear", 1, [1]),
        ("triangle", 5, [1, 2, 3, 2, 1]),
        ("triangle", 4, [1, 7 / 3, 7 / 3, 1]),
        ("triangle", 1, [1]),
        ("constant", 3, [3, 3, 3]),
        ("trapezoid", 9, [3] * 9),
        ("trapezoid", 14, [1, *[3] * 12, 1]),
        ("trapezoid", 30, [1, 2, *[3] * 26, 2, 1]),
    ],
)
def test_the_scale_over_the_frames(shape, t, expected):
    """The original's formulas by hand, its trapezoid's middle set right."""
    found = SHAPES[shape](1.0, 3.0, t)
    assert found.dtype == np.float32 and found.shape == (t, 1, 1, 1)
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-6)


def test_the_network_is_told_one_frame_a_second_less():
    assert fps_id(7) == 6
    ours = condition(np.zeros((1, 5), np.float32), np.zeros((1, 4, 2, 2), np.float32), 7, 127, 0.02, 8, 3)
    assert ours.context.shape == (3, 1, 5) and ours.concat.shape == (3, 4, 2, 2) and ours.vector.shape == (3, 24)
    np.testing.assert_allclose(ours.vector[:, 0], np.cos(6.0), rtol=1e-6)
    np.testing.assert_allclose(ours.vector[:, 8], np.cos(127.0), rtol=1e-5)


def test_one_sigma_is_exp_of_the_normal():
    np.testing.assert_allclose(lognormal_sigmas([0.0, 1.0], 0.7, 1.6), np.exp([0.7, 2.3]), rtol=1e-6)


@pytest.mark.parametrize(("chunk", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (99, [5])])
def test_decoding_in_chunks_that_need_not_divide_the_frames(chunk, sizes):
    seen = []

    class Result:
        def __init__(self, array):
            self.array = array

        def asnumpy(self):
            return self.array

    def decoder(z, t):
        seen.append(t)
        return Result(z.asnumpy() * 2)

    z = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1)
    np.testing.assert_array_equal(decode_in_chunks(decoder, z, chunk), z * 2)
    assert seen == sizes


def test_moments():
    moments = np.concatenate([np.full((2, 4, 1, 1), 3.0), np.full((2, 4, 1, 1), 100.0)], 1).astype(np.float32)
    mean, std = split_moments(moments)
    assert (mean == 3).all()
    np.testing.assert_allclose(std, np.exp(10.0), rtol=1e-6)
    np.testing.assert_allclose(split_moments(-moments)[1], np.exp(-15.0), rtol=1e-6)
    assert kl_divergence(np.zeros((2, 8, 1, 1), np.float32)) == 0


@pytest.mark.parametrize(("height", "width"), [(224, 224), (100, 50), (225, 224), (1, 1), (2, 3), (600, 230)])
def test_preprocessing_of_a_flat_picture_is_flat(height, width):
    """Rows of the resizing matrices sum to 1 at every size, the smallest included."""
    for matrix in resize_matrices(height, width):
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-9)
    found = preprocess(np.zeros((1, 3, height, width), np.float32))
    assert found.shape == (1, 3, 224, 224) and found.dtype == np.float32
    np.testing.assert_allclose(found[0, 0], (0.5 - 0.48145466) / 0.26862954, atol=1e-5)
