"""The command line as a user meets it: what it writes, and one clear message for everything that can be wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import image_to_video
from gm.data.calibration import Calibration
from gm.errors import UserError
from gm.inference_options import make_parser
from tests.untrained import CONFIG

ROOT = CONFIG.parent.parent
SMALL = ["--SVD.num_frames=3", "--SVD.sampling_steps=2", "--SVD.decode_chunk_size=2", "--mode=1", "--device_target=CPU"]


def photo(path, height=64, width=128, seed=0):
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns + seed) % 256], -1)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def run(checkpoint, image, output, *extra):
    """main() with the small model."""
    options = [f"--SVD.config={CONFIG}", f"--SVD.checkpoint={checkpoint}", f"--image={image}", f"--output_dir={output}"]
    return image_to_video.main([*options, *SMALL, *extra])


def test_the_motion_bucket_is_said_by_the_scale_of_the_training(tmp_path, untrained, capsys):
    weights = tmp_path / "run/weights/full.safetensors"
    weights.parent.mkdir(parents=True)
    weights.symlink_to(untrained)
    Calibration(tuple(n / 10 for n in range(255)), 300).save(tmp_path / "run/calibration.json")
    image = photo(tmp_path / "photo.png")
    assert run(weights, image, tmp_path / "out", "--dry_run") == 0
    assert "motion bucket 127: the median motion of the 300 clips" in capsys.readouterr().out
    (tmp_path / "run/calibration.json").write_text("{")
    assert run(weights, image, tmp_path / "out", "--dry_run") == 0
    assert "calibration.json is no motion calibration" in capsys.readouterr().err


def read_mp4(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    frames = [np.frombuffer(frame, np.uint8) for frame in reader]
    return meta, frames


def test_a_picture_becomes_a_video_and_what_belongs_to_it(tmp_path, untrained, capsys):
    out = tmp_path / "out"
    assert run(untrained, photo(tmp_path / "photo.png"), out, "--SVD.fps=9", "--num_videos=2") == 0
    names = ["photo_000.json", "photo_000.mp4", "photo_000_image.png", "photo_000_sheet.png"]
    assert sorted(p.name for p in out.glob("photo_000*")) == names
    meta, frames = read_mp4(out / "photo_000.mp4")
    assert (meta["size"], meta["fps"], meta["codec"], len(frames)) == ((128, 64), 9.0, "h264", 3)
    assert meta["pix_fmt"].startswith("yuv420p")
    about = json.loads((out / "photo_000.json").read_text())
    again = json.loads((out / "photo_001.json").read_text())
    assert (about["seed"], again["seed"], about["num_frames"], about["fps"]) == (23, 24, 3, 9.0)
    assert {"conditioning", "sampling", "decoding"} <= set(about["seconds"])
    assert about["versions"]["mindspore"] and about["peak_memory_bytes"] > 1e8
    printed = capsys.readouterr()
    assert "trained at 192x320" in printed.err
    assert "peak memory" in printed.out
    assert not [p for p in out.iterdir() if p.name.startswith(".") and "claim" not in p.name], "a temporary file stayed"


def test_the_same_seed_gives_the_same_latents_and_another_seed_others(tmp_path, untrained):
    image, out = photo(tmp_path / "a.png"), tmp_path / "out"
    for seed in (5, 5, 6):
        run(untrained, image, out, f"--seed={seed}", "--output_type=latents")
    first, second, third = (np.load(out / f"a_00{i}.npy") for i in range(3))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - third).max() > 1e-2


def test_a_folder_is_done_in_order_and_one_bad_picture_does_not_stop_it(tmp_path, untrained, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    photo(folder / "b.PNG")
    photo(folder / "c.png", seed=9)
    (folder / "a.jpg").write_text("not a picture")
    with pytest.raises(UserError, match=r"1 of 3 pictures failed:\n.*a\.jpg"):
        run(untrained, folder, tmp_path / "out", "--output_type=frames")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.json")) == ["b_000.json", "c_000.json"]
    assert len(list((tmp_path / "out" / "c_000_frames").iterdir())) == 3
    assert "2 of 3 pictures done" in capsys.readouterr().out


def test_sizes(tmp_path, untrained, capsys):
    image = photo(tmp_path / "odd.png", 100, 150)
    run(untrained, image, tmp_path / "out", "--output_type=gif")
    assert "100x150 scaled and cropped around the centre to 64x128" in capsys.readouterr().out
    assert Image.open(tmp_path / "out" / "odd_000.gif").size == (128, 64)
    run(untrained, image, tmp_path / "out", "--height=128", "--width=64", "--output_type=latents")
    assert np.load(tmp_path / "out" / "odd_001.npy").shape == (3, 4, 16, 8)


def test_dry_run_writes_nothing(tmp_path, untrained, capsys):
    out = tmp_path / "out"
    assert run(untrained, photo(tmp_path / "p.png"), out, "--dry_run") == 0
    printed = capsys.readouterr().out
    assert '"sampling_steps": 2' in printed and "p.png: 64x128" in printed
    assert all(f"{stage} " in printed for stage in ("conditioning", "sampling", "decoding"))
    assert "GB of memory in decoding" in printed and list(out.iterdir()) == []


def test_dry_run_goes_over_all_pictures_and_fails_where_the_run_would(tmp_path, untrained, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    whole = photo(tmp_path / "p.png").read_bytes()
    (folder / "a.png").write_bytes(whole[: len(whole) // 2])
    photo(folder / "b.png")
    with pytest.raises(UserError, match="1 of 2 pictures failed") as failed:
        run(untrained, folder, tmp_path / "out", "--dry_run")
    assert str(failed.value).count("a.png") == 1
    assert "b.png: 64x128" in capsys.readouterr().out
    with pytest.raises(UserError, match="not enough memory: decoding needs about"):
        run(untrained, folder / "b.png", tmp_path / "out", "--dry_run", "--height=16384", "--width=16384")


@pytest.mark.parametrize(
    ("option", "warning"),
    [("--SVD.fps=3", "fps 3"), ("--SVD.fps=31", "fps 31"), ("--SVD.motion_bucket_id=256", "motion_bucket_id 256")],
)
def test_warnings_of_the_original(tmp_path, untrained, capsys, option, warning):
    run(untrained, photo(tmp_path / "p.png"), tmp_path / "out", "--dry_run", option)
    assert warning in capsys.readouterr().err


def missing_key(tmp_path, checkpoint):
    tensors = load_file(checkpoint)
    del tensors["model.diffusion_model.out.2.weight"]
    save_file(tensors, tmp_path / "broken.safetensors")
    return tmp_path / "broken.safetensors"


def truncated(tmp_path, checkpoint):
    (tmp_path / "short.safetensors").write_bytes(Path(checkpoint).read_bytes()[:-1000])
    return tmp_path / "short.safetensors"


def misspelt_config(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(f"base: {CONFIG}\nmodel:\n  unet:\n    chanel_mult: [1, 2]\n")
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda t, c: {"image": t / "no.png"}, ["no.png"]),
        (lambda t, c: {"image": text_file(t)}, ["text.png"]),
        (lambda t, c: {"image": empty_folder(t)}, ["empty"]),
        (lambda t, c: {"image": photo(t / "dot.png", 1, 1)}, ["dot.png", "1x1"]),
        (lambda t, c: {"SVD.checkpoint": missing_key(t, c)}, ["missing", "model.diffusion_model.out.2.weight"]),
        (lambda t, c: {"SVD.checkpoint": truncated(t, c)}, ["short.safetensors", "truncated"]),
        (lambda t, c: {"SVD.checkpoint": t / "no.safetensors"}, ["no.safetensors"]),
        (lambda t, c: {"SVD.config": misspelt_config(t)}, ["model.unet.chanel_mult", "channel_mult"]),
        (lambda t, c: {"SVD.config": t / "no.yaml"}, ["no.yaml"]),
        (lambda t, c: {"SVD.config": t / "no.yaml", "SVD.checkpoint": None}, ["no config at", "no.yaml", "svd_xt"]),
        (lambda t, c: {"SVD.sampling_steps": -3}, ["sampling_steps -3"]),
        (lambda t, c: {"SVD.num_frames": 0}, ["num_frames 0"]),
        (lambda t, c: {"SVD.num_frames": 10**9}, ["num_frames 1000000000: must be 1000 or less"]),
        (lambda t, c: {"num_videos": 10**9}, ["num_videos 1000000000", "must be 1000000 or less"]),
        (lambda t, c: {"height": 6_400_000}, ["height 6400000", "16384"]),
        (lambda t, c: {"SVD.fps": "1e308", "output_type": "latents"}, ["fps 1e+308: must be 1000 or less"]),
        (lambda t, c: {"output_fps": 1e-9}, ["output_fps 1e-09", "0.01"]),
        (lambda t, c: {"memory_check": "perhaps"}, ["memory_check", "perhaps"]),
        (lambda t, c: {"SVD.config": "/dev/zero"}, ["/dev/zero is a device"]),
        (lambda t, c: {"SVD.checkpoint": "/dev/zero"}, ["/dev/zero", "device"]),
        (lambda t, c: {"SVD.decode_chunk_size": 0}, ["decode_chunk_size 0"]),
        (lambda t, c: {"SVD.fps": 0}, ["fps 0"]),
        (lambda t, c: {"height": 100}, ["height 100", "multiple of 64"]),
        (lambda t, c: {"num_videos": 0}, ["num_videos 0"]),
        (lambda t, c: {"watermark": "true"}, ["watermark", "65536 pixels"]),
        (lambda t, c: {"output_fps": -1}, ["output_fps -1"]),
        (lambda t, c: {"memory_budget": "8XB"}, ["memory size '8XB'", "8GB"]),
        (lambda t, c: {"compile_cache": t / "cache"}, ["compile_cache", "mode=1"]),
        (lambda t, c: {"output_dir": photo(t / "file.png") / "below"}, ["file.png"]),
        (lambda t, c: {"output_dir": "/proc/none"}, ["/proc/none"]),
        (lambda t, c: {"latents_in": "a.npy", "num_videos": 2}, ["--latents_in", "--image and --num_videos"]),
        (lambda t, c: {"latents_in": t / "no.npy", "image": None}, ["no.npy", "No such file"]),
    ],
)
def test_bad_input_gives_one_clear_message_and_no_file(tmp_path, untrained, make, words):
    options = {
        "SVD.config": CONFIG,
        "SVD.checkpoint": untrained,
        "image": photo(tmp_path / "good.png"),
        "output_dir": tmp_path / "out",
        **make(tmp_path, untrained),
    }
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        given = [f"--{name}={value}" for name, value in options.items() if value is not None]
        image_to_video.main([*given, "--mode=1"])
    assert all(word in str(error.value) for word in words), error.value
    new = [p for p in tmp_path.rglob("*") if p not in before and p.name != "out" and "claim" not in p.name]
    assert new == []


def text_file(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    return tmp_path / "text.png"


def empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


@pytest.mark.parametrize(
    "options", [["--image=nowhere.png", "--version=svd", "--SVD.checkpoint=none"], ["--no_such_option"], []]
)
def test_as_a_program_it_exits_non_zero_without_a_traceback(tmp_path, options):
    command = [sys.executable, str(ROOT / "image_to_video.py"), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode != 0
    assert "error" in done.stderr and "Traceback" not in done.stderr + done.stdout


def test_a_name_that_is_not_utf8(tmp_path, untrained):
    (tmp_path / "in").mkdir()
    photo(tmp_path / "in/x.png").rename(os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.png"))
    photo(tmp_path / "in/z.png")
    command = [
        sys.executable,
        str(ROOT / "image_to_video.py"),
        f"--SVD.config={CONFIG}",
        f"--SVD.checkpoint={untrained}",
        *SMALL,
        f"--image={tmp_path / 'in'}",
        f"--output_dir={tmp_path / 'out'}",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 pictures done" in done.stdout and r"caf\udce9.png: 64x128" in done.stdout
    names = sorted(os.listdir(tmp_path / "out"))
    assert len(names) == 8 and names[-1] == "z_000_sheet.png"
    (found,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob("caf*.json"))
    assert found["image"] == str(tmp_path / "in/caf\udce9.png") and found["video"] == "caf\udce9_000.mp4"


def test_help_explains_every_option_without_loading_mindspore():
    code = (
        "import sys, image_to_video\n"
        "try:\n    image_to_video.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'mindspore' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for action in make_parser("")._actions:
        assert action.help, f"{action.dest} is not explained"
