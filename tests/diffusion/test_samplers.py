"""Samplers beside SVD's own, the schedule for few steps, and guidance at some noise levels only."""

import numpy as np
import pytest

from gm.diffusion.conditioning import Conditioning
from gm.diffusion.guidance import guided, linear_scales
from gm.diffusion.sampling import SAMPLERS, dpmpp_2m, euler, heun, initial_latents, lcm
from gm.diffusion.schedules import SCHEDULES, ays_sigmas, karras_sigmas
from gm.errors import UserError
from gm.options import ModelSettings, Options, VideoSettings
from tests.stand_ins import denoiser_of


def normal_data(x, sigma):
    """The best denoiser of data N(0, 1); the flow is x(sigma) = x(s0) * sqrt((1 + sigma^2) / (1 + s0^2))."""
    return x / (1 + sigma**2)


def error(sampler, steps):
    sigmas = karras_sigmas(steps)
    *_, last = sampler(normal_data, initial_latents(np.ones((1, 1, 1, 1), np.float32), sigmas), sigmas)
    return abs(float(last.latents.item()) - 1.0)


@pytest.mark.parametrize("sampler", [heun, dpmpp_2m])
def test_second_order_samplers_are_nearer_and_gain_four_times_from_twice_the_steps(sampler):
    assert error(sampler, 25) < 0.4 * error(euler, 25)
    assert error(sampler, 20) > 2.8 * error(sampler, 40)


@pytest.mark.parametrize(("schedule", "steps"), [("karras", 3), ("ays", 2), ("ays", 4), ("karras", 12)])
def test_heun_of_few_steps_is_the_papers_formula_in_float64(schedule, steps):
    """Of an estimate in float32, as a network gives it. The first steps go from noise of 700 to much less: in float32
    what is left of it would be rounded by the spacing of numbers of 700, and the slope is divided by the level."""

    def denoise(x, sigma):  # the best one of data that are near -1 or 1
        x, variance = np.asarray(x, np.float64), 0.09 + sigma * sigma
        mean = np.tanh(x / variance)
        return (mean + 0.09 / variance * (x - mean)).astype(np.float32)

    sigmas = SCHEDULES[schedule](steps)
    noise = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    x = initial_latents(noise, sigmas)
    *_, last = heun(denoise, x, sigmas)
    x = x.astype(np.float64)
    for here, there in zip(sigmas[:-1].astype(np.float64), sigmas[1:].astype(np.float64)):
        slope = (x - denoise(x.astype(np.float32), here)) / here
        ahead = x + (there - here) * slope
        if there > 0:
            slope = (slope + (ahead - denoise(ahead.astype(np.float32), there)) / there) / 2
        x = x + (there - here) * slope
    assert np.abs(last.latents - x).max() < 2e-6 * np.abs(x).max()


def test_heun_evaluates_twice_in_all_steps_but_the_last():
    seen = []
    sigmas = karras_sigmas(4)
    x = np.zeros((1, 1, 1, 1), np.float32)
    steps = list(heun(lambda x, sigma: seen.append(sigma) or x, x, sigmas))
    np.testing.assert_allclose(seen, np.repeat(sigmas[:-1], 2)[1:])
    assert [step.index for step in steps] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_with_a_perfect_denoiser_every_sampler_ends_at_the_clean_latents(name):
    clean = np.random.default_rng(0).standard_normal((3, 4, 2, 2)).astype(np.float32)
    sigmas = karras_sigmas(5)
    random = np.random.default_rng(1)
    steps = list(SAMPLERS[name](lambda x, sigma: clean, initial_latents(clean, sigmas), sigmas, random))
    np.testing.assert_allclose(steps[-1].latents, clean, atol=1e-5)
    assert steps[-1].latents.dtype == np.float32 and [s.index for s in steps] == [1, 2, 3, 4, 5]


def test_lcm_draws_fresh_noise_of_the_next_level_from_its_generator():
    sigmas = karras_sigmas(3)
    x, clean = np.zeros((1, 4, 8, 8), np.float32), np.ones((1, 4, 8, 8), np.float32)
    first, again, other = (
        next(lcm(lambda x, sigma: clean, x, sigmas, np.random.default_rng(seed))).latents for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.std(first - clean) == pytest.approx(sigmas[1], rel=0.1)


@pytest.mark.parametrize(
    "steps, expected",
    [
        (10, [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0]),
        (6, [700, 23.9594, 6.4658, 1.789, 0.5421, 0.1006, 0]),
        (8, [700, 40.0453, 11.2571, 4.9728, 1.789, 0.7854, 0.264, 0.0511, 0]),
        (25, [700, 252.1259, 90.8107, 42.5912, 26.0116, 15.886]),
    ],
)
def test_align_your_steps(steps, expected):
    found = ays_sigmas(steps)
    assert found.dtype == np.float32 and len(found) == steps + 1 and found[-1] == 0
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-3, atol=1e-6)


def test_no_guidance_outside_its_noise_levels():
    t, batches = 2, []
    cond = Conditioning(*(np.ones(shape, np.float32) for shape in ((t, 1, 5), (t, 4, 2, 2), (t, 6))))

    def halves(x, sigma, conditioning):
        batches.append(len(x))
        return np.where(np.arange(len(x)) < len(x) - t, 0.0, 1.0).reshape(-1, 1, 1, 1) * np.ones_like(x)

    denoise = guided(denoiser_of(halves), cond, linear_scales(3.0, 3.0, t), t, 1.0, 10.0)
    x = np.zeros((t, 4, 2, 2), np.float32)
    assert [float(denoise(x, sigma).max()) for sigma in (0.5, 1.0, 10.0, 11.0)] == [1.0, 3.0, 3.0, 1.0]
    assert batches == [t, 2 * t, 2 * t, t]


@pytest.mark.parametrize("steps", [1, 10, 25, 1000])
@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_a_limit_of_guidance_that_is_a_noise_level_is_within(schedule, steps):
    """The levels are float32, and told with six digits, as the program tells them: a rounding must not decide."""
    t, sigmas = 1, SCHEDULES[schedule](steps)[:-1]
    cond = Conditioning(*(np.ones(shape, np.float32) for shape in ((t, 1, 5), (t, 4, 1, 1), (t, 6))))
    halves = denoiser_of(lambda x, sigma, _: np.arange(len(x)).reshape(-1, 1, 1, 1) + np.zeros_like(x))
    x = np.zeros((t, 4, 1, 1), np.float32)
    for k in {0, steps // 3, steps // 2, steps - 1}:
        level = float(f"{sigmas[k]:.6g}")
        denoise = guided(halves, cond, linear_scales(3.0, 3.0, t), t, level, level)
        near = range(max(k - 1, 0), min(k + 2, steps))
        assert [j for j in near if denoise(x, float(sigmas[j])).max() == 3] == [k]


def options(**changes):
    return Options(
        **{
            "num_frames": 2,
            "sampling_steps": 2,
            "min_guidance": 1.0,
            "max_guidance": 2.0,
            "fps": 7.0,
            "motion_bucket_id": 127.0,
            "noise_aug_strength": 0.02,
            "decode_chunk_size": 2,
            **changes,
        }
    )


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"schedule": "linear"}, "schedule 'linear': must be one of karras, ays"),
        ({"sampler": "ddim"}, "sampler 'ddim': must be one of euler"),
        ({"guidance_shape": "square"}, "guidance_shape 'square': must be one of linear, triangle, trapezoid, constant"),
        ({"cache_interval": 0}, "cache_interval 0: must be at least 1"),
        ({"cache_interval": 1.5}, "cache_interval: expected int, found 1.5"),
        ({"guidance_sigma_max": float("nan")}, "guidance_sigma_max nan"),
        ({"num_frames": 10**9}, "num_frames 1000000000: must be 1000 or less"),
        ({"sampling_steps": 10**30}, "sampling_steps 10{30}: must be 1000 or less"),
        ({"seed": 2**63}, "seed 9223372036854775808: must be 9223372036854775807 or less"),
        ({"fps": 1e308}, "fps 1e.308: must be 1000 or less"),
        ({"max_guidance": 1e30}, "max_guidance 1e.30: must be 1000 or less"),
        ({"noise_aug_strength": 1e30, "num_frames": 0}, "num_frames 0(.|\\n)*noise_aug_strength 1e.30"),
    ],
)
def test_options_that_cannot_be(changes, words):
    with pytest.raises(UserError, match=words):
        options(**changes)


@pytest.mark.parametrize(
    "kind, beyond",
    [
        (
            Options,
            {
                "num_frames": 0,
                "sampling_steps": 0,
                "decode_chunk_size": 0,
                "seed": -1,
                "cache_interval": 0,
                "decode_tile": 63,
                "encode_tile": 63,
                "motion_bucket_id": -1,
                "noise_aug_strength": -0.1,
                "fps": 0,
                "min_guidance": -1001,
                "max_guidance": -1001,
            },
        ),
        (
            Options,
            {
                "num_frames": 1001,
                "sampling_steps": 1001,
                "decode_chunk_size": 10**6 + 1,
                "seed": 2**63,
                "cache_interval": 1001,
                "decode_tile": 10**6 + 1,
                "encode_tile": 10**6 + 1,
                "motion_bucket_id": 10001,
                "noise_aug_strength": 1001,
                "fps": 1001,
                "min_guidance": 1001,
                "max_guidance": 1001,
            },
        ),
        (
            VideoSettings,
            {
                "num_videos": 0,
                "output_fps": 0.009,
                "segments": 0,
                "overlap": 0,
                "batch": 0,
                "output_type": "avi",
                "memory_check": "no",
            },
        ),
        (VideoSettings, {"num_videos": 10**6 + 1, "output_fps": 1001, "segments": 1001, "batch": 1001}),
        (ModelSettings, {"device_target": "TPU", "mode": 2, "amp_level": "O1", "dtype": "int8", "guidance_devices": 3}),
    ],
)
def test_every_limit_is_told(kind, beyond):
    with pytest.raises(UserError) as caught:
        options(**beyond) if kind is Options else kind(
            **{"config": "a", "checkpoint": "b", **beyond}
        ) if kind is ModelSettings else kind(**beyond)
    assert {line.split()[0] for line in str(caught.value).splitlines()[1:] if "must be" in line} == set(beyond)


@pytest.mark.parametrize(
    "changes, guided",
    [
        ({}, True),
        ({"max_guidance": 1.0}, False),
        ({"min_guidance": 0.5, "max_guidance": 1.0}, True),
        ({"min_guidance": 0.5, "max_guidance": 1.0, "guidance_shape": "constant"}, False),
        ({"num_frames": 1}, False),
    ],
)
def test_whether_there_is_guidance_at_all(changes, guided):
    assert options(**changes).guided() == guided


def test_numpys_numbers_are_pythons_then():
    """MindSpore takes no others, and a seed of 8 bits could not be counted on from."""
    given = options(num_frames=np.int64(3), sampling_steps=np.int32(2), seed=np.uint8(255), fps=np.float32(24))
    assert given == options(num_frames=3, sampling_steps=2, seed=255, fps=24.0)
    assert {type(getattr(given, name)) for name in ("num_frames", "sampling_steps", "seed")} == {int}
    assert type(given.fps) is float and given.changed(seed=given.seed + np.uint8(1)).seed == 256


def test_the_usual_options():
    usual = options(guidance_sigma_min=None)
    assert (usual.sampler, usual.schedule, usual.cache_interval) == ("euler", "karras", 1)
