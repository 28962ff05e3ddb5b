"""The way from initial values to a model that makes videos, with every stage as short as it can be."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from gm import interrupts
from gm.checkpoint.formats import open_checkpoint
from gm.config import load
from gm.data.images import to_signed
from gm.data.motion import bucket
from gm.data.procedural import clip, picture
from gm.diffusion.latents import SCALE_FACTOR, split_moments
from gm.errors import UserError
from gm.model import build_component, load_model_config
from gm.networks.init import initialize
from gm.pipeline import ImageToVideo
from gm.pretraining.clips import ProceduralClips
from gm.pretraining.first_stage import autoencoder_phase, pass_frames_through, scale_latents
from gm.pretraining.recipe import pretrain
from gm.pretraining.settings import Recipe
from gm.pretraining.stage import Stopped, run_stage
from svd_tools import pretrain_tiny


@pytest.fixture
def recipe_path():
    """A recipe of one or two steps for each stage."""
    return Path(__file__).resolve().parents[1] / "small_recipe" / "recipe.yaml"


def test_the_whole_recipe_makes_a_model_that_plays(recipe_path, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gm.ops.set_device", lambda: None)  # stays in PyNative
    arguments = [f"--config={recipe_path}", f"--output_dir={tmp_path / 'run'}"]
    assert pretrain_tiny.main(arguments) == 0
    output = tmp_path / "run/svd_tiny.safetensors"
    with open_checkpoint(output) as file:
        assert {str(file.dtype(name)) for name in file.names()} == {"float16"}
        first, condition = (
            f"{prefix}encoder.conv_in.weight" for prefix in ("first_stage_model.", "conditioner.embedders.3.encoder.")
        )
        assert np.array_equal(file.read(first), file.read(condition))
    pipeline = ImageToVideo(recipe_path.parent / "model.yaml", output)
    frames = pipeline(np.zeros((16, 16, 3), np.uint8), num_frames=2, sampling_steps=1)
    assert frames.shape == (2, 16, 16, 3)
    written = output.stat().st_mtime_ns, (tmp_path / "run/video/metrics.jsonl").read_text()
    capsys.readouterr()
    assert pretrain_tiny.main(arguments) == 0  # nothing is left to do
    told = capsys.readouterr()
    assert "stage" not in told.out and "warning" not in told.err
    other = tmp_path / "other.yaml"
    for name in ("model.yaml", "svd_train.yaml"):
        text = (recipe_path.parent / name).read_text()
        (tmp_path / name).write_text(text.replace("../../configs", str(recipe_path.parents[2] / "configs")))
    other.write_text(f"base: {recipe_path}\nautoencoder: {{kl_weight: 0.5}}\n")
    for _ in range(2):  # not only the first time
        assert pretrain_tiny.main([f"--config={other}", arguments[1]]) == 0
        told = capsys.readouterr().err
        assert "autoencoder.kl_weight: 0.0001 before, 0.5 now" in told and "begun with another recipe" in told
    model = tmp_path / "model.yaml"
    model.write_text(model.read_text().replace("head_width: 16", "head_width: 8"))  # which no shape of weights tells
    assert pretrain_tiny.main([f"--config={other}", arguments[1]]) == 0
    assert "model.clip.head_width: 16 before, 8 now" in capsys.readouterr().err
    weights = tmp_path / "run/video/weights/full_ema.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"of an earlier step")
    os.utime(weights, (0, 0))  # as if killed between the last checkpoint and its export
    assert pretrain_tiny.main(arguments) == 0
    assert weights.read_bytes() == whole
    assert (tmp_path / "run/video/metrics.jsonl").read_text() == written[1]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["decoder.size=15"], "decoder.size 15: must be a multiple of 2"),
        (["unet.video.size=17"], "unet.video.size 17: must be a multiple of 2"),
        (
            ["unet.image.train.max_steps=9", "unet.image.train.epochs=4"],
            "unet.image.train: max_steps 9 would never be reached, as 4 epochs of 2 clips are 8 steps of 1",
        ),
        (["autoencoder.checkpoint_every=0"], "autoencoder.checkpoint_every 0: must be at least 1"),
        (["tower.batch_size=0"], "tower.batch_size 0: must be at least 1"),
        (["seed=-1"], "seed -1: must be at least 0"),
        (["tower.optimizer.accumulate=2"], "tower.optimizer: accumulate and shard are of the stages of the UNet"),
    ],
)
def test_a_recipe_that_cannot_end_is_not_begun(recipe_path, tmp_path, wrong, words):
    with pytest.raises(UserError, match=words):
        pretrain(load(Recipe, recipe_path, wrong), tmp_path, recipe_path.parent)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.fixture
def cells(recipe_path):
    config = load_model_config(recipe_path.parent / "model.yaml")
    return {name: initialize(build_component(config, name), 0) for name in ("first_stage_encoder", "decoder")}


def settings(recipe_path, **changes):
    return replace(load(Recipe, recipe_path).autoencoder, **changes)


def test_a_stage_that_was_stopped_goes_on_as_if_nothing_had_happened(recipe_path, tmp_path, cells, monkeypatch):
    monkeypatch.setattr(interrupts, "end", lambda number: pytest.fail("nothing was to be saved"))
    config = load_model_config(recipe_path.parent / "model.yaml")
    found = {}
    for run in ("straight", "stopped"):
        fresh = {name: initialize(build_component(config, name), 0) for name in cells}
        phase = autoencoder_phase(fresh, settings(recipe_path, steps=4), 0)
        draw = phase.batch

        def batch(step, run=run, draw=draw):
            if run == "stopped" and step == 1:
                interrupts.receive(signal.SIGTERM)
            return draw(step)

        if run == "stopped":
            with pytest.raises(Stopped, match="143"):
                part = settings(recipe_path, steps=4, checkpoint_every=3)
                run_stage(tmp_path / run, phase._replace(batch=batch), part, {"seed": 0})
            fresh = {name: initialize(build_component(config, name), 0) for name in cells}
            phase = autoencoder_phase(fresh, settings(recipe_path, steps=4), 0)
        run_stage(tmp_path / run, phase, settings(recipe_path, steps=4), {"seed": 0})
        found[run] = [p.asnumpy() for cell in fresh.values() for p in cell.get_parameters()]
    assert all(np.array_equal(a, b) for a, b in zip(found["straight"], found["stopped"]))
    with pytest.raises(UserError, match="seed was 0 and is 1"):
        run_stage(tmp_path / "straight", phase, settings(recipe_path, steps=4), {"seed": 1})


def test_scaled_latents_decode_to_the_same(cells):
    random = np.random.default_rng(0)
    pixels = Tensor(random.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32))

    def through():
        mean, std = split_moments(cells["first_stage_encoder"](pixels).asnumpy())
        return mean, std, cells["decoder"](Tensor(mean), None).asnumpy()

    before = through()
    scale_latents(cells, 16, 0)
    after = through()
    factor = after[0] / before[0]
    np.testing.assert_allclose(after[1] / before[1], factor.mean((0, 2, 3), keepdims=True) + 0 * factor, rtol=1e-3)
    np.testing.assert_allclose(after[2], before[2], atol=1e-4)


def test_latents_of_drawn_pictures_have_the_deviation_that_the_scale_factor_expects(cells):
    scale_latents(cells, 16, 0)
    images = [picture(np.random.default_rng(seed), 16) for seed in range(100, 140)]
    moments = np.concatenate([cells["first_stage_encoder"](Tensor(to_signed(one))).asnumpy() for one in images])
    assert 0.7 < (SCALE_FACTOR * split_moments(moments)[0]).std() < 1.4


def test_the_temporal_decoder_begins_as_the_image_decoder(cells):
    z = Tensor(np.random.default_rng(0).standard_normal((3, 8, 4, 4)).astype(np.float32))
    pass_frames_through(cells["decoder"])
    np.testing.assert_allclose(cells["decoder"](z, 3).asnumpy(), cells["decoder"](z, None).asnumpy(), atol=1e-5)


def test_pairs_of_pictures_are_clips_of_one_frame_at_a_lower_rate():
    clips = ProceduralClips(6, 1, 16, 14.0, 205.0, 0)
    samples = [clips.at(position) for position in range(6)]
    assert all(s["pixels"].shape == s["picture"].shape == (1, 3, 16, 16) for s in samples)
    assert {round(14.0 / (s["fps_id"] + 1)) for s in samples} <= set(range(1, 14))
    again = ProceduralClips(6, 1, 16, 14.0, 205.0, 0).at(2)
    assert np.array_equal(again["pixels"], samples[2]["pixels"])


def test_clips_are_labelled_by_their_measured_motion():
    clips = ProceduralClips(3, 14, 32, 14.0, 205.0, 0)
    sample = clips.at(0)
    assert sample["pixels"].shape == (14, 3, 32, 32) and sample["fps_id"] == 13.0
    index = int(clips.order(0)[0])
    drawn = clip(np.random.default_rng((0, 1, index)), 14, 32, 14.0, 205.0)
    assert sample["motion_bucket_id"] == bucket(drawn.motion)
    assert sorted(clips.order(1)) == [0, 1, 2]


def test_a_recipe_with_faults_names_them_all(recipe_path):
    with pytest.raises(UserError) as error:
        load(Recipe, recipe_path, ["decoder.steps=many", "tower.size=big"])
    assert "decoder.steps" in str(error.value) and "tower.size" in str(error.value)
