"""The estimate of memory against peaks that were measured, and what is refused because of it."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from mindspore import Tensor

from gm import activations, estimate, memory
from gm.activations import Setting, Size
from gm.errors import UserError
from gm.estimate import Held, Need
from gm.model import COMPONENTS, build_component, load_model_config
from gm.networks.unet import VideoUNet
from gm.training.step import is_temporal
from tests.untrained import CONFIG

CONFIGS = CONFIG.parent
# benchmarks/compare.py's medium width.
MEDIUM = ("model.unet.model_channels=64", "model.vae.ch=32", "model.clip.width=160", "model.clip.layers=8")
GRAPH, PYNATIVE, PLAIN = Setting(True), Setting(False), Setting(True, False)


@pytest.fixture(scope="module")
def models():
    """{name: (section model, {component: number of values}, values of the temporal layers)}."""
    found = {}
    for name, config in (("tiny", ("svd_tiny.yaml",)), ("medium", ("svd.yaml", MEDIUM)), ("full", ("svd.yaml",))):
        config = load_model_config(CONFIGS / config[0], *config[1:])
        cells = {part: list(build_component(config, part).get_parameters()) for part in COMPONENTS}
        values = {part: sum(math.prod(p.shape) for p in parameters) for part, parameters in cells.items()}
        found[name] = config.model, values, sum(math.prod(p.shape) for p in cells["unet"] if is_temporal(p.name))
    return found


def weights(values, own=0, mapped=0):
    """`Held` with so many bytes for each value."""
    return {part: Held(own * count, mapped * count) for part, count in values.items()}


# (model, bytes of a value of its own and in the file's pages, size, chunk, setting, low_memory, {stage: measured GB}).
# tiny and medium: benchmarks/memory.py, 26 November 2026. full: benchmarks/results/README.md, 21 and 22
# November.
VIDEOS = {
    "tiny": (
        "tiny",
        4,
        0,
        Size(128, 128, 14, 14),
        14,
        GRAPH,
        False,
        {"conditioning": 0.536, "sampling": 1.102, "decoding": 1.410},
    ),
    "tiny in PyNative": (
        "tiny",
        4,
        0,
        Size(128, 128, 14, 14),
        14,
        PYNATIVE,
        False,
        {"conditioning": 0.490, "sampling": 0.601, "decoding": 1.084},
    ),
    "tiny, larger": (
        "tiny",
        4,
        0,
        Size(256, 256, 14, 14),
        14,
        GRAPH,
        False,
        {"conditioning": 0.583, "sampling": 1.302, "decoding": 2.292},
    ),
    "tiny, larger, in PyNative": (
        "tiny",
        4,
        0,
        Size(256, 256, 14, 14),
        14,
        PYNATIVE,
        False,
        {"conditioning": 0.559, "sampling": 0.787, "decoding": 2.666},
    ),
    "tiny without kernels": (
        "tiny",
        4,
        0,
        Size(256, 256, 14, 14),
        14,
        PLAIN,
        False,
        {"conditioning": 0.699, "sampling": 1.597, "decoding": 2.835},
    ),
    "medium": (
        "medium",
        0,
        4,
        Size(256, 256, 4, 8),
        14,
        GRAPH,
        False,
        {"conditioning": 0.632, "sampling": 1.843, "decoding": 2.143},
    ),
    "medium in PyNative": (
        "medium",
        0,
        4,
        Size(256, 256, 4, 8),
        14,
        PYNATIVE,
        False,
        {"conditioning": 0.563, "sampling": 0.909, "decoding": 1.208},
    ),
    "medium, larger": (
        "medium",
        0,
        4,
        Size(512, 320, 4, 8),
        14,
        GRAPH,
        False,
        {"conditioning": 0.676, "sampling": 2.003, "decoding": 2.476},
    ),
    "full, float16 file": ("full", 4, 0, Size(256, 256, 4, 8), 14, GRAPH, False, {"decoding": 12.0}),
    "full, float32 file": ("full", 0, 4, Size(256, 256, 4, 8), 14, GRAPH, False, {"decoding": 11.8}),
    "full, low memory": ("full", 0, 2, Size(256, 256, 14, 14), 14, GRAPH, True, {"sampling": 6.7, "decoding": 8.5}),
    "full, low memory, at its own size": ("full", 0, 2, Size(576, 1024, 14, 14), 14, GRAPH, True, {"sampling": 14.5}),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video_takes_what_was_measured(models, name):
    model, own, mapped, size, chunk, setting, low_memory, measured = VIDEOS[name]
    section, values, _ = models[model]
    stages = estimate.generation(section, weights(values, own, mapped), size, chunk, setting, low_memory)
    assert {stage: stages[stage].total / 1e9 for stage in measured} == pytest.approx(measured, rel=0.25)


def test_the_peak_has_room_for_a_unet_that_is_read_while_the_picture_is_encoded(models):
    for model, own, mapped, size, chunk, setting, low_memory, _ in VIDEOS.values():
        section, values, _ = models[model]
        stages = estimate.generation(section, weights(values, own, mapped), size, chunk, setting, low_memory)
        ahead = 0 if low_memory else own * values["unet"]
        assert stages["conditioning"].own + ahead < memory.peak(stages)


# (model, bytes of a value as above, (side, frames), setting, recomputed, measured GB): a cache is used, batch 1.
# medium and full: benchmarks/results/README.md.
RUNS = [
    ("tiny", 4, 0, (128, 14), PYNATIVE, False, 1.405),
    ("tiny", 4, 0, (256, 14), PYNATIVE, False, 4.329),
    ("tiny", 4, 0, (256, 14), GRAPH, False, 3.939),
    ("tiny", 4, 0, (256, 14), PYNATIVE, True, 1.659),
    ("tiny", 4, 0, (128, 14), GRAPH, True, 2.291),
    ("medium", 0, 4, (128, 4), GRAPH, False, 2.8),
    ("medium", 0, 4, (128, 4), GRAPH, True, 4.1),
    ("medium", 0, 4, (256, 4), GRAPH, False, 3.5),
    ("medium", 0, 4, (256, 4), GRAPH, True, 4.5),
    ("medium", 0, 4, (256, 14), GRAPH, False, 5.2),
    ("medium", 0, 4, (256, 14), GRAPH, True, 5.1),
    ("full", 4, 0, (128, 4), GRAPH, True, 23.5),
]


@pytest.mark.parametrize("model, own, mapped, clip, setting, recompute, measured", RUNS)
def test_training_takes_what_was_measured(models, model, own, mapped, clip, setting, recompute, measured):
    section, values, temporal = models[model]
    side, frames = clip
    size = Size(side, side, frames, frames)
    stages = estimate.training(
        section, weights(values, own, mapped), size, setting, temporal, recompute=recompute, encoders=False
    )
    assert stages["training"].total / 1e9 == pytest.approx(measured, rel=0.25)


SVD = Size(576, 1024, 14, 28)


def video(models, size=SVD, chunk=14, setting=GRAPH, **options):
    section, values, _ = models["full"]
    return estimate.generation(section, weights(values, 4), size, chunk, setting, **options)


def test_what_makes_a_video_smaller_makes_its_estimate_smaller(models):
    whole = video(models)
    assert whole["decoding"].own > video(models, chunk=4)["decoding"].own > video(models, chunk=1)["decoding"].own
    assert whole["sampling"].own > video(models, Size(576, 1024, 14, 14))["sampling"].own
    assert whole["sampling"].own - video(models, low_memory=True)["sampling"].own == pytest.approx(4 * 666_240_464)
    tiled = video(models, tiles=(128, 128))
    assert tiled["conditioning"].own < whole["conditioning"].own
    assert tiled["decoding"].own < whole["decoding"].own - 10e9
    assert list(video(models, decoded=False)) == ["conditioning", "sampling"]
    assert video(models, setting=PLAIN, scores=2**28)["sampling"].own > video(models, setting=PLAIN)["sampling"].own


@pytest.mark.parametrize(("channel_mult", "blocks"), [((1, 2), 1), ((1, 2), 2), ((2,), 1)])
def test_deep_cache_keeps_what_the_network_hands_out_for_it(channel_mult, blocks):
    config = load_model_config(CONFIG).model
    changed = replace(config.unet, channel_mult=channel_mult, num_res_blocks=blocks, attention_resolutions=())
    shapes = (6, 8, 8, 16), (6,), (6, 1, 32), (6, 96)
    _, deep = VideoUNet(**vars(changed))(*(Tensor(np.ones(shape, np.float32)) for shape in shapes), 3)
    kept = activations.deep_kept(replace(config, unet=changed), Size(64, 128, 3, 6))
    assert kept == deep.asnumpy().nbytes


def test_what_training_holds(models):
    section, values, temporal = models["full"]
    run = partial(estimate.training, section, weights(values, 4), Size(128, 128, 4, 4), GRAPH, temporal)
    parts = run(ema=True, half=True, encoders=False)["training"].parts
    for what in ("sums of gradients", "gradients of one batch", "running mean of the weights", "float32 weights"):
        assert parts[what] == 4 * temporal
    assert parts["two moments"] == 8 * temporal and "encoders" not in parts
    assert run(devices=8)["training"].parts["two moments"] == temporal
    with_encoders = run(clips=2)["training"].parts
    assert with_encoders["encoders"] == 4 * sum(values[p] for p in ("clip", "condition_encoder", "first_stage_encoder"))
    assert with_encoders["clips read ahead"] == 2 * 4 * 3 * 128 * 128 * 4
    assert run(sample=True)["sample video"].own > run()["training"].own


def test_weights_of_the_files_own_type_are_its_pages():
    assert estimate.held(iter([(10, 4, 4), (5, 2, 4), (3, 2, 2), (7, 4, 2)])) == Held(5 * 4 + 7 * 2, 10 * 4 + 3 * 2)


def stages(**sizes):
    return {name: Need({"activations": size}, 7e9) for name, size in sizes.items()}


def test_enough_memory_is_a_sentence_with_both_numbers():
    said = memory.check(stages(sampling=2e9, decoding=3e9), available=2.5e9, resident=0.5e9)
    assert said == "needs 3.0 GB of memory in decoding, 3.0 GB are there"


def test_too_little_is_refused_with_both_numbers_and_the_first_remedy_that_fits():
    remedies = [
        ("--a", lambda: stages(decoding=3.1e9)),
        ("--b", lambda: stages(decoding=2.9e9)),
        ("--c", lambda: stages(decoding=1e9)),
    ]
    with pytest.raises(UserError) as refused:
        memory.check(stages(sampling=2e9, decoding=4e9), remedies, available=2.5e9, resident=0.5e9)
    message = str(refused.value)
    assert "decoding needs about 4.0 GB, and 3.0 GB are free" in message
    assert "; --b would fit" in message and "--memory_check=off" in message
    with pytest.raises(UserError, match="nothing that could be changed here would fit"):
        memory.check(stages(decoding=4e9), remedies[:1], available=0, resident=0)


def test_a_system_that_does_not_say_is_not_checked(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert memory.check(stages(decoding=1e15)) == "needs 1000000.0 GB of memory"


def test_report_names_the_largest_parts_first():
    need = Need({"program": 0.2e9, "activations": 1e9, "tiny": 1e6}, 0.25e9)
    assert memory.report({"decoding": need}) == (
        "      decoding    1.45 GB: activations 1.00, program 0.20, pages of files 0.25"
    )
