"""The trained model that comes with the program: what it makes, and that it makes it again."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import image_to_video
from gm import ops, places
from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.published import camera_moves
from gm.data.flow import camera_flow
from gm.data.images import fit_image, load_image
from gm.data.metrics import evaluate
from gm.data.procedural import picture
from gm.data.video_reader import open_video
from gm.model import load_model_config
from gm.pipeline import ImageToVideo

ROOT = places.ROOT
CONFIG, WEIGHTS, DEMO = ROOT / "configs/svd_tiny.yaml", ROOT / "assets/svd_tiny.safetensors", ROOT / "assets/demo.png"
FPS = load_model_config(CONFIG).sampling.fps


@pytest.fixture(scope="module")
def demo():
    return fit_image(load_image(DEMO), 128, 128)


def test_the_default_command_makes_a_video_of_the_picture(tmp_path, demo, capsys):
    assert image_to_video.main([f"--image={DEMO}", f"--output_dir={tmp_path}", "--SVD.sampling_steps=8"]) == 0
    assert "svd_tiny" in capsys.readouterr().out
    (path,) = tmp_path.glob("*.mp4")
    with open_video(path) as video:
        frames = video.frames(range(video.length))
        assert frames.shape == (14, 128, 128, 3) and video.fps == pytest.approx(FPS)
    found = evaluate(frames, FPS, demo)
    assert found["first_frame_psnr"] > 20  # an untrained model has 9
    assert found["motion_score"] > 1 and abs(found["sharpness_drift"]) < 1.5


@pytest.mark.slow
def test_more_motion_is_asked_for_and_made(demo):
    pipeline = ImageToVideo(CONFIG, WEIGHTS)
    slow, fast = (
        evaluate(pipeline(demo, motion_bucket_id=b, sampling_steps=6), FPS)["motion_score"] for b in (16, 200)
    )
    assert fast > 2 * slow


@pytest.mark.slow
def test_a_seed_repeats_the_frames_and_both_modes_agree(demo):
    found = []
    for mode in (ops.PYNATIVE_MODE, ops.PYNATIVE_MODE, ops.GRAPH_MODE):
        ops.set_device("CPU", mode)
        found.append(ImageToVideo(CONFIG, WEIGHTS)(demo, sampling_steps=3, seed=5).astype(int))
    assert np.array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() <= 2


def test_other_sizes_and_lengths_work():
    image = np.random.default_rng(0).integers(0, 256, (96, 144, 3), np.uint8)
    assert ImageToVideo(CONFIG, WEIGHTS)(image, num_frames=5, sampling_steps=1).shape == (5, 96, 144, 3)


def test_the_file_is_small_and_half_precision():
    assert WEIGHTS.stat().st_size <= 25e6
    with open_checkpoint(WEIGHTS) as file:
        assert {str(file.dtype(name)) for name in file.names()} == {"float16"}


def camera(picture, move, **options):
    """{axis: % of the side per second} of a video with a camera move, or without one."""
    delta = move and camera_moves("svd_tiny")[move]
    frames = ImageToVideo(CONFIG, WEIGHTS, delta)(picture, seed=1, **options)
    return dict(zip(("right", "down", "growth"), 100 * FPS * camera_flow(frames)))


# What is seen: of a camera that turns left it moves to the right.
MOVES = {"pan_left": ("right", 1), "pan_right": ("right", -1), "tilt_up": ("down", 1), "draw_back": ("growth", -1)}


def test_the_camera_moves_are_small_loras_for_these_weights():
    found = camera_moves("svd_tiny")
    assert set(found) == set(MOVES) and all(path.stat().st_size < 2e6 for path in found.values())
    pipeline = ImageToVideo(CONFIG, WEIGHTS, [str(path) for path in found.values()])
    assert pipeline.warnings == [] and sum("LoRA" in line for line in pipeline.sources()) == len(MOVES)


def test_a_camera_move_turns_the_demo_picture_its_way():
    small = fit_image(load_image(DEMO), 64, 64)  # as they were trained, and quick
    plain, panned = (camera(small, move, sampling_steps=2)["right"] for move in (None, "pan_left"))
    assert panned > 0.5 and panned > plain + 0.5  # without it pictures stray by 0.2


@pytest.mark.slow
@pytest.mark.parametrize("move", MOVES)
def test_every_camera_move_goes_its_way(demo, move):
    axis, sign = MOVES[move]
    pictures = [demo, *(picture(np.random.default_rng(seed), 128) for seed in (1, 2))]
    for shown in pictures:
        plain, moved = (sign * camera(shown, which, sampling_steps=6)[axis] for which in (None, move))
        assert moved > 0 and moved > plain + 0.5


@pytest.mark.slow
def test_fine_tuning_on_clips_that_pan_makes_pictures_pan(tmp_path):
    """benchmarks/tiny_finetune.py in short: label, train.py with temporal_only, image_to_video with the delta."""
    subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks/tiny_finetune.py",
            f"--output_dir={tmp_path}",
            "--clips=8",
            "--drawn=3",
            "--steps=60",
            "--sampling_steps=6",
        ],
        check=True,
        cwd=ROOT,
    )
    summary = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert summary["after"]["share that pans right"] == 1
    assert summary["after"]["mean motion_right"] < summary["before"]["mean motion_right"] - 1
