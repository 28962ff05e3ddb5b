"""The pipeline object: the same in both modes, repeatable, from given noise, and strict about what it is given."""

from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file, save_file

from gm import ops
from gm.data.videos import to_uint8
from gm.diffusion.deepcache import DeepCache
from gm.diffusion.loss import DiffusionLoss
from gm.diffusion.sampling import SAMPLERS
from gm.errors import UserError
from gm.model import load_model_config
from gm.networks.tiles import TiledDecoder, TiledEncoder, Upper
from gm.parts import PARTS
from gm.pipeline import ImageToVideo
from gm.precision import kept_narrow
from gm.sizes import choose_size
from svd_tools.golden.limits import PRECISIONS
from tests.near import difference
from tests.untrained import CONFIG

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.fixture
def pipeline(untrained):
    return ImageToVideo(CONFIG, untrained)


def sample(pipeline, options, **given):
    return [step.latents for step in pipeline.steps(IMAGE, options, **given)]


def test_graph_mode_and_pynative_give_the_same_frames(untrained):
    found = {}
    for mode in (ops.GRAPH_MODE, ops.PYNATIVE_MODE):
        ops.set_device("CPU", mode)
        pipeline = ImageToVideo(CONFIG, untrained)
        options = pipeline.options(num_frames=3, sampling_steps=2, decode_chunk_size=2)
        latents = sample(pipeline, options)[-1]
        found[mode] = latents, pipeline.decode(latents, options)
    for ours, expected in zip(found[ops.GRAPH_MODE], found[ops.PYNATIVE_MODE]):
        assert difference(ours, expected) < 2e-5


def test_called_it_gives_the_frames_of_its_steps(pipeline):
    options = pipeline.options(num_frames=2, sampling_steps=1)
    frames = pipeline(IMAGE, num_frames=2, sampling_steps=1)
    assert frames.shape == (2, 64, 64, 3) and frames.dtype == np.uint8 and frames.std() > 1
    np.testing.assert_array_equal(frames, to_uint8(pipeline.decode(sample(pipeline, options)[-1], options)))
    assert np.any(frames != pipeline(IMAGE, options, seed=1))


def test_noise_can_be_passed_in(pipeline):
    options = pipeline.options(num_frames=2, sampling_steps=1)
    pixel_noise, noise = pipeline.noise(IMAGE, options)
    random = np.random.default_rng(options.seed)  # the picture's first: other devices and programs can draw the same
    np.testing.assert_array_equal(pixel_noise, random.standard_normal((1, 3, 64, 64), np.float32))
    np.testing.assert_array_equal(noise, random.standard_normal((2, 4, 8, 8), np.float32))
    conditioning = pipeline.condition(IMAGE, options, pixel_noise)
    for given, drawn in zip(conditioning, pipeline.condition(IMAGE, options)):
        np.testing.assert_array_equal(given, drawn)
    expected = sample(pipeline, options)
    np.testing.assert_array_equal(sample(pipeline, options, conditioning=conditioning, noise=noise), expected)
    other = sample(pipeline, options, conditioning=conditioning, noise=noise[::-1].copy())
    assert np.abs(other[0] - expected[0]).max() > 1e-3
    with pytest.raises(UserError, match=r"\(2, 4, 8, 9\)"):
        sample(pipeline, options, noise=np.zeros((2, 4, 8, 9), np.float32))


@pytest.mark.parametrize("frames", [1, 3])
def test_what_is_of_another_video_is_refused(pipeline, frames):
    options = pipeline.options(num_frames=2, sampling_steps=1)
    conditioning, other = pipeline.condition(IMAGE, options), options.changed(num_frames=frames)
    with pytest.raises(UserError, match=f"2 frames with latents of 8x8: this video has {frames} frames with"):
        sample(pipeline, other, conditioning=conditioning)
    with pytest.raises(UserError, match=f"2 frames with latents of 8x8: this video has {frames} frames with"):
        sample(pipeline, other, end=conditioning)
    for known in ((frames, 4, 8, 9), (frames + 1, 4, 8, 8), (0, 4, 8, 8)):
        with pytest.raises(UserError, match="known latents of shape"):
            sample(pipeline, other, known=np.zeros(known, np.float32))


def test_an_end_needs_a_last_frame_beside_the_first(pipeline):
    options = pipeline.options(num_frames=1, sampling_steps=1)
    conditioning = pipeline.condition(IMAGE, options)
    with pytest.raises(UserError, match="one frame has no last one beside the first"):
        sample(pipeline, options, conditioning=conditioning, end=conditioning)


def test_the_shape_of_guidance_reaches_the_frames(pipeline):
    """Where the scales of two shapes are the same so are the frames' latents after a step, and only there."""
    options = pipeline.options(num_frames=3, sampling_steps=1, min_guidance=1.0, max_guidance=3.0)
    conditioning = pipeline.condition(IMAGE, options)
    found = {
        shape: sample(pipeline, replace(options, guidance_shape=shape), conditioning=conditioning)[-1]
        for shape in ("linear", "triangle", "constant")
    }
    assert difference(found["triangle"][0], found["linear"][0]) < 1e-6
    assert difference(found["triangle"][1], found["constant"][1]) < 1e-6
    assert difference(found["linear"][2], found["constant"][2]) < 1e-6
    for first, second, frame in (("linear", "constant", 0), ("linear", "constant", 1), ("triangle", "linear", 2)):
        assert difference(found[first][frame], found[second][frame]) > 1e-4


def test_between_two_pictures_each_end_is_what_its_own_picture_makes_it(pipeline):
    """After one step: the first frame as from the first picture, the last as from the last one with time reversed."""
    options = pipeline.options(num_frames=3, sampling_steps=1, max_guidance=2.0)
    first, last = (pipeline.condition(picture, options) for picture in (IMAGE, 255 - IMAGE))
    noise = pipeline.noise(IMAGE, options)[1]
    found = sample(pipeline, options, conditioning=first, noise=noise, end=last)[-1]
    there = sample(pipeline, options, conditioning=first, noise=noise)[-1]
    back = sample(pipeline, options, conditioning=last, noise=noise[::-1].copy())[-1][::-1]
    assert difference(found[0], there[0]) < 1e-6 and difference(found[2], back[2]) < 1e-6
    # Euler's one step takes the estimate as a difference of numbers of about 700, which float32 rounds to 6e-5.
    assert difference(found[1], (there[1] + back[1]) / 2) < 3e-4
    assert difference(there[1], back[1]) > 1e-2 and difference(there[2], back[2]) > 1e-2


def test_every_condition_reaches_the_conditioning(pipeline):
    options = pipeline.options(num_frames=2)
    base = pipeline.condition(IMAGE, options)
    for change in ({"fps": 12}, {"motion_bucket_id": 20}, {"noise_aug_strength": 0.5}):
        assert np.abs(pipeline.condition(IMAGE, replace(options, **change)).vector - base.vector).max() > 0.1
    brighter = pipeline.condition(255 - IMAGE, options)
    assert np.abs(brighter.context - base.context).max() > 1e-3
    assert np.abs(brighter.concat - base.concat).max() > 1e-3


def test_what_is_not_finite_is_not_handed_out(pipeline):
    options = pipeline.options(num_frames=2, sampling_steps=2)
    latents = sample(pipeline, options)[-1]
    latents[1, 2, 3, 4] = np.nan
    with pytest.raises(UserError, match="the decoded frames: .* are not finite"):
        pipeline.decode(latents, options)
    bias = pipeline.denoiser.unet.out[2].bias
    bias.set_data(Tensor(np.full(bias.shape, np.inf, np.float32)))
    with pytest.raises(UserError, match="the latents after step 1 of 2: 512 of 512 values are not finite"):
        sample(pipeline, options)


@pytest.mark.parametrize("side", [6_400_000, 10**30])
def test_absurd_sizes(pipeline, side):
    with pytest.raises(UserError, match="height .*0: must be 16384 or less"):
        choose_size(pipeline.config, (64, 64), side, None)


def test_float16_is_near_float32(untrained, pipeline):
    half = ImageToVideo(CONFIG, untrained, amp_level="O2")
    random = np.random.default_rng(0)
    shapes = (2, 4, 8, 8), (2,), (2, 4, 8, 8), (2, 1, 32), (2, 96)
    arguments = [Tensor(random.uniform(0.5, 1.5, shape).astype(np.float32)) for shape in shapes]
    found, expected = (one.denoiser(*arguments, 2).asnumpy() for one in (half, pipeline))
    assert str(half.denoiser.unet.out[2].weight.dtype) == "Float16"
    assert str(half.denoiser.unet.out[0].weight.dtype) == "Float32"
    assert all(str(p.dtype) == "Float32" for p in half.decoder.get_parameters())
    # Of one call of the network: a sampler's steps magnify rounding by as much as the weights will. The limit is that
    # of the recorded networks in float16 (`svd_tools.golden.limits`); below 1e-5 it would have been float32.
    assert 1e-5 < difference(found, expected) < PRECISIONS["float16"].limits["forward"]


def test_progress_of_loading_counts_every_value(untrained):
    pipeline = ImageToVideo(CONFIG, untrained)
    for name in ("decoder", "clip"):
        told = list(pipeline.load(name))
        assert told[0][0] == 0 and told == sorted(told) and name in pipeline.components
        assert {total for _, total in told} == {sum(p.size for p in getattr(pipeline, name).get_parameters())}
        assert told[-1][0] == told[-1][1] > 0
        assert list(pipeline.load(name)) == []


def test_picture_that_is_no_multiple(pipeline):
    with pytest.raises(UserError, match="64x65"):
        pipeline(np.zeros((64, 65, 3), np.uint8))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"num_frames": 0}, "num_frames 0"),
        ({"sampling_steps": 2.5}, "sampling_steps: expected int, found 2.5"),
        ({"seed": -1}, "seed -1"),
        ({"fps": float("inf")}, "fps inf"),
        ({"min_guidance": float("nan")}, "min_guidance nan"),
        ({"guidance_sigma_min": 10.0, "guidance_sigma_max": 1.0}, "guidance_sigma_min 10 is above"),
        ({"motion_bucket_id": -1}, "motion_bucket_id -1"),
        ({"decode_chunk_size": 0}, "decode_chunk_size 0"),
    ],
)
def test_options_that_cannot_be(pipeline, change, word):
    with pytest.raises(UserError, match=word):
        pipeline.options(**change)


def test_any_seed_will_do(pipeline):
    assert pipeline.noise(np.zeros((64, 64, 3), np.uint8), pipeline.options(seed=2**63 - 1))[0].std() > 0.9


def test_a_released_component_takes_with_it_what_holds_it(untrained):
    pipeline = ImageToVideo(CONFIG, untrained)
    image, options = np.zeros((64, 64, 3), np.uint8), pipeline.options(num_frames=1, sampling_steps=1, cache_interval=2)
    pipeline(image, options, decode_tile=64)
    pipeline.release("denoiser", "decoder")
    assert pipeline.components.keys() == {"clip", "condition_encoder"} and not pipeline._made


def test_parameters_keep_their_checkpoints_names_in_whatever_holds_their_component(untrained):
    pipeline = ImageToVideo(CONFIG, untrained)
    held = [
        DiffusionLoss(pipeline.denoiser),
        DeepCache(pipeline.denoiser, 2).denoiser,
        TiledEncoder(pipeline.condition_encoder, 8).lower,
        TiledDecoder(pipeline.decoder, 8).lower,
        pipeline.clip,
    ]
    Upper(pipeline.decoder.decoder, (4, 4), 1)
    names = {p.name for cell in held for p in cell.get_parameters()}
    assert names == {
        name
        for name in load_file(untrained)
        if not name.startswith("first_stage_model.encoder") and not name.startswith("first_stage_model.quant")
    }


def test_deep_cache_with_low_memory_needs_no_guidance(untrained):
    pipeline = ImageToVideo(CONFIG, untrained, low_memory=True)
    with pytest.raises(UserError, match="one of low_memory and cache_interval"):
        pipeline.options(cache_interval=2, max_guidance=2.0)
    assert pipeline.options(cache_interval=2, min_guidance=1.0, max_guidance=1.0).cache_interval == 2


def test_amp_level_that_does_not_exist(untrained):
    with pytest.raises(UserError, match="O3"):
        ImageToVideo(CONFIG, untrained, amp_level="O3")


@pytest.mark.parametrize(
    ("size", "height", "width", "expected"),
    [
        ((576, 1024), None, None, (576, 1024)),
        ((600, 1100), None, None, (576, 1088)),
        ((100, 64), 128, 192, (128, 192)),
        ((300, 400), 192, None, (192, 256)),
        ((300, 400), None, 256, (192, 256)),
        ((3000, 4000), None, None, (640, 832)),
        ((2988, 5312), None, None, (576, 1024)),
        ((2340, 4160), None, None, (576, 1024)),
        ((1250, 1250), None, None, (768, 768)),
        ((2990, 5312), None, None, (576, 1024)),
        ((1152, 1024), None, None, (1152, 1024)),
    ],
)
def test_size_of_the_video(size, height, width, expected):
    config = load_model_config(CONFIG.parent / "svd.yaml")
    assert choose_size(config, size, height, width) == expected


@pytest.mark.parametrize(
    ("size", "height", "word"),
    [
        ((63, 640), None, "640x63"),
        ((640, 640), 100, "100"),
        ((640, 640), -64, "-64"),
        ((100, 20000), None, "20000x100"),
    ],
)
def test_size_that_cannot_be(size, height, word):
    with pytest.raises(UserError, match=word):
        choose_size(load_model_config(CONFIG.parent / "svd.yaml"), size, height)


def test_low_memory_gives_the_same_frames_and_keeps_nothing(untrained, pipeline):
    options = pipeline.options(num_frames=2, sampling_steps=2)
    low = ImageToVideo(CONFIG, untrained, low_memory=True)
    expected, found = (one(IMAGE, options).astype(int) for one in (pipeline, low))
    assert np.abs(found - expected).max() <= 1
    assert not low.components and pipeline.components.keys() == PARTS.keys()
    with pytest.raises(UserError, match="cache_interval"):
        low(IMAGE, options, cache_interval=2)


def test_the_noise_that_lcm_draws_is_the_seeds_and_none_that_was_drawn_before(pipeline, monkeypatch):
    options = pipeline.options(num_frames=2, sampling_steps=2, sampler="lcm", seed=7)
    drawn = []

    def sampler(denoise, latents, sigmas, random):
        drawn.append(random.standard_normal(latents.shape, np.float32))
        return ()

    monkeypatch.setitem(SAMPLERS, "lcm", sampler)
    conditioning = pipeline.condition(IMAGE, options)
    for each in (options, options, replace(options, seed=8)):
        sample(pipeline, each, conditioning=conditioning)
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    pixels, latents = pipeline.noise(IMAGE, options)
    for used in (latents, pixels):
        assert abs(np.corrcoef(drawn[0].ravel(), used.ravel()[: drawn[0].size])[0, 1]) < 0.3


@pytest.mark.parametrize("mode", [pytest.param(ops.GRAPH_MODE, marks=pytest.mark.slow), ops.PYNATIVE_MODE])
def test_deep_cache_with_what_it_would_compute_anew_is_the_whole_network(untrained, mode):
    ops.set_device("CPU", mode)
    denoiser = ImageToVideo(CONFIG, untrained).denoiser
    random = np.random.default_rng(0)
    shapes = (4, 4, 8, 8), (4,), (4, 4, 8, 8), (4, 1, 32), (4, 96)
    arguments = [Tensor(random.uniform(0.5, 1.5, shape).astype(np.float32)) for shape in shapes]
    cache = DeepCache(denoiser, 2)
    whole = denoiser(*arguments, 4).asnumpy()
    for _ in range(2):  # the second one is shallow, of the same input
        assert difference(cache(*arguments, 4).asnumpy(), whole) < 1e-5
    assert cache.evaluations == 2
    other = [2 * arguments[0], *arguments[1:]]
    third = cache(*other, 4).asnumpy()  # a full one again
    assert difference(third, denoiser(*other, 4).asnumpy()) < 1e-5


def test_deep_cache_computes_all_anew_where_guidance_begins_or_ends():
    """What is kept is of as many frames as there were then."""
    calls = []

    def denoiser(x, sigma, concat, context, vector, t, image_only=None, deep=None, keep_deep=False):
        calls.append("shallow" if deep is not None else "full")
        return (x, x) if keep_deep else deep

    cache = DeepCache(denoiser, 3)
    for frames in (2, 2, 4, 4, 4, 4, 2):
        assert len(cache(np.zeros(frames), None, None, None, None, 2)) == frames
    assert calls == ["full", "shallow", "full", "shallow", "shallow", "full", "full"]


def test_deep_cache_saves_evaluations_and_stays_near(pipeline, monkeypatch):
    whole = sample(pipeline, pipeline.options(sampling_steps=6, num_frames=2))[-1]
    calls = []
    inner = type(pipeline.denoiser.unet).inner
    monkeypatch.setattr(
        type(pipeline.denoiser.unet), "inner", lambda self, *arguments: calls.append(1) or inner(self, *arguments)
    )
    options = pipeline.options(sampling_steps=6, num_frames=2, cache_interval=3)
    cached = sample(pipeline, options)[-1]
    assert len(calls) == 2  # the deep blocks, in 6 steps
    assert 0 < np.abs(cached - whole).mean() < 0.5 * np.abs(whole).mean()


def test_deep_cache_keeps_of_each_film_what_is_its_own(pipeline):
    """Of two videos that are made in turn, and of the two halves of one between two pictures."""
    options = pipeline.options(sampling_steps=2, num_frames=2, cache_interval=2, max_guidance=1.0)
    conditionings = [pipeline.condition(image, options) for image in (IMAGE, 255 - IMAGE)]
    alone = [sample(pipeline, options, conditioning=each)[-1] for each in conditionings]
    in_turn = list(zip(*(pipeline.steps(IMAGE, options, each) for each in conditionings)))[-1]
    for found, expected in zip(in_turn, alone):
        np.testing.assert_array_equal(found.latents, expected)
    # Every film's first evaluation is a whole one.
    first, last = conditionings
    found, expected = (
        sample(pipeline, options.changed(cache_interval=k, sampling_steps=1), conditioning=first, end=last)
        for k in (2, 1)
    )
    assert difference(found[-1], expected[-1]) < 1e-5


@pytest.mark.parametrize("mode", [pytest.param(ops.GRAPH_MODE, marks=pytest.mark.slow), ops.PYNATIVE_MODE])
def test_low_memory_leaves_float16_weights_so_and_computes_the_same_bits(untrained, tmp_path, mode):
    ops.set_device("CPU", mode)
    half, delta = tmp_path / "half.safetensors", tmp_path / "delta.safetensors"
    save_file({name: array.astype(np.float16) for name, array in load_file(untrained).items()}, half)
    changed = "model.diffusion_model.out.2.weight"
    save_file({changed: np.full((4, 32, 3, 3), 1 / 3, np.float32)}, delta)
    usual, low = (ImageToVideo(CONFIG, half, delta, low_memory=low_memory) for low_memory in (False, True))
    random = np.random.default_rng(0)
    shapes = (4, 4, 8, 8), (4,), (4, 4, 8, 8), (4, 1, 32), (4, 96)
    arguments = [Tensor(random.uniform(0.5, 1.5, shape).astype(np.float32)) for shape in shapes]
    picture, z = (Tensor(random.standard_normal(shape).astype(np.float32)) for shape in ((1, 3, 32, 32), (2, 4, 4, 4)))
    side = low.config.model.clip.image_size
    seen = Tensor(random.standard_normal((1, 3, side, side)).astype(np.float32))
    parts = {"denoiser": (*arguments, 4), "clip": (seen,), "condition_encoder": (picture,), "decoder": (z, 2)}
    for name, given in list(parts.items())[: 1 if mode == ops.GRAPH_MODE else None]:  # the others compile for long
        assert np.array_equal(getattr(low, name)(*given).asnumpy(), getattr(usual, name)(*given).asnumpy())
    for part in (low.denoiser, low.clip, low.condition_encoder, low.decoder):
        narrow = {p.name for p in part.get_parameters() if p.dtype == ms.float16}
        expected = {p.name for p in part.get_parameters() if kept_narrow(p.name, p.shape)}
        assert narrow == {name for name in expected if not name.endswith(".out.2.weight")}
    assert not any(p.dtype == ms.float16 for p in usual.denoiser.get_parameters())
