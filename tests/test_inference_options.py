"""The original's and the older MindSpore port's commands as their users type them, and answers to foreign options."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import image_to_video
from gm import ops, pipeline, places
from gm.checkpoint.published import VERSIONS, checkpoints_folder, find_checkpoint
from gm.diffusion.conditioning import vector_embedding
from gm.errors import UserError
from gm.inference_options import GROUPS, OPTIONS, Command, make_parser
from gm.option_names import _HERE
from gm.options import ModelSettings, Options, VideoSettings
from gm.settings import about, options_of
from tests.untrained import CONFIG


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "test_image.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(path)
    return path


@pytest.fixture
def small_svd_xt(tmp_path, untrained, monkeypatch):
    """svd_xt is the untrained model here, its weights where they are looked for, and nothing is compiled."""
    (tmp_path / "configs").mkdir()
    text = f"base: {CONFIG}\nsampling: {{num_frames: 25, sampling_steps: 1, min_guidance: 1.5, max_guidance: 3.0}}\n"
    (tmp_path / "configs/svd_xt.yaml").write_text(text)
    monkeypatch.setattr(places, "CONFIGS", tmp_path / "configs")
    monkeypatch.setenv("SVD_CHECKPOINTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/svd_xt.safetensors").symlink_to(untrained)
    set_device = ops.set_device
    monkeypatch.setattr(ops, "set_device", lambda device, mode, *more: set_device(device, ops.PYNATIVE_MODE, *more))


def test_the_originals_command(tmp_path, picture, small_svd_xt, monkeypatch):
    told = []
    condition = pipeline.condition
    monkeypatch.setattr(pipeline, "condition", lambda *a, **k: told.append(condition(*a, **k)) or told[-1])
    command = (
        f"--input_path={picture} --num_frames=20 --version=svd_xt --fps_id=5 --motion_bucket_id=100 "
        f"--cond_aug=0.01 --seed=42 --decoding_t=10 --device=cpu --output_folder={tmp_path / 'out'}"
    )
    assert image_to_video.main(command.split()) == 0
    about = json.loads((tmp_path / "out/test_image_000.json").read_text())
    expected = {
        "num_frames": 20,
        "fps": 6.0,
        "motion_bucket_id": 100.0,
        "noise_aug_strength": 0.01,
        "seed": 42,
        "decode_chunk_size": 10,
        "device_target": "CPU",
        "max_guidance": 3.0,
        "sampling_steps": 1,
    }
    assert {name: about[name] for name in expected} == expected
    assert about["config"].endswith("svd_xt.yaml") and about["checkpoint"].endswith("untrained.safetensors")
    width = told[0].vector.shape[1] // 3
    numbers = (np.full(20, value, np.float32) for value in (5, 100, 0.01))  # 5, as the original passes it on
    np.testing.assert_array_equal(told[0].vector, vector_embedding(*numbers, width))


def test_the_older_ports_command(tmp_path, picture, untrained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = (
        f"--mode=1 --SVD.config={CONFIG} --SVD.checkpoint={untrained} --SVD.num_frames=2 --SVD.fps=7 "
        f"--SVD.motion_bucket_id=160 --SVD.sampling_steps=1 --image={picture}"
    )
    assert image_to_video.main(command.split()) == 0
    about = json.loads((tmp_path / "outputs/test_image_000.json").read_text())
    assert (about["num_frames"], about["fps"], about["motion_bucket_id"], about["mode"]) == (2, 7.0, 160.0, 1)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("input_path", "image"),
        ("num_frames", "num_frames"),
        ("num_steps", "sampling_steps"),
        ("version", "version"),
        ("motion_bucket_id", "motion_bucket_id"),
        ("cond_aug", "noise_aug_strength"),
        ("seed", "seed"),
        ("decoding_t", "decode_chunk_size"),
        ("output_folder", "output_dir"),
    ],
)
def test_every_option_of_the_original_is_a_second_name_of_ours(theirs, ours):
    value = {"version": "svd_xt"}.get(theirs, "3")
    given = make_parser("").parse_args(["--image=a", f"--{theirs}={value}"])
    without = make_parser("").parse_args(["--image=a"])
    changed = {name for name in vars(given) if getattr(given, name) != getattr(without, name)}
    assert changed == {ours} and str(getattr(given, ours)).rstrip("0").rstrip(".") == value


@pytest.mark.parametrize(("text", "expected"), [("cuda", "GPU"), ("cpu", "CPU"), ("CPU", "CPU"), ("npu", "Ascend")])
def test_device_names(text, expected):
    assert make_parser("").parse_args(["--image=a", f"--device={text}"]).device_target == expected


def test_fps_twice(picture):
    with pytest.raises(UserError, match=r"--fps_id=5 is --SVD.fps=6"):
        image_to_video.main([f"--image={picture}", "--fps_id=5", "--SVD.fps=5"])


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("--prompt=a cat", "no text"),
        ("--num_inference_steps=5", "called --SVD.sampling_steps "),
        ("--min_guidance_scale=1", "called --SVD.min_guidance "),
        ("--max-guidance-scale=1", "called --SVD.max_guidance "),
        ("--augmentation_level=0", "called --SVD.noise_aug_strength "),
        ("--cfg=2", "called --SVD.max_guidance "),
        ("--last_image=b.png", "called --end_image "),
        ("--video_frames=9", "called --SVD.num_frames "),
        ("--noise_aug_strength=0", "called --SVD.noise_aug_strength "),
        ("--fps=7", "--SVD.fps "),
        ("--svd.FPS=7", "--SVD.fps "),
        ("--fsp=7", "--SVD.fps?"),
        ("--sede=7", "--seed?"),
        ("--num-frames=7", "--num_frames "),
        ("--SVD.motion_buckt_id=7", "--SVD.motion_bucket_id?"),
        ("--SVD.amp_level=O0", "--amp_level "),
        ("--elevations_deg=1", "SV3D"),
        ("--xyzzy", "--help lists"),
        ("--sampling_steps=3", "called --SVD.sampling_steps "),
        ("photo.jpg", "'photo.jpg' belongs to no option: write --name=value, a picture as --image=photo.jpg"),
    ],
)
def test_a_foreign_or_mistyped_option_is_answered_with_its_name_here(given, answer):
    with pytest.raises(UserError) as error:
        make_parser("").parse_args(["--image=a", given])
    assert answer in str(error.value)


def test_all_unknown_options_are_answered_at_once():
    with pytest.raises(UserError) as error:
        make_parser("").parse_args(["--cfg", "2", "--image=a", "--video_frames", "3"])
    assert str(error.value).splitlines() == [
        "--cfg: is called --SVD.max_guidance here; see --help",
        "  --video_frames: is called --SVD.num_frames here; see --help",
    ]


def test_the_answers_are_options_that_exist():
    names = {name for options in GROUPS.values() for option in options for name in option.names}
    assert {ours for answer in _HERE for ours in answer.split(" and ")} <= names


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--device=tpu", "argument --device_target/--device: 'tpu'.*cuda"),
        ("--memory_budget=much", "argument --memory_budget: memory size 'much': write for instance 8GB"),
        ("--SVD.num_frames=2.5", "num_frames.*2.5"),
        ("--watermark=maybe", "watermark.*true or false"),
        ("--version=sdv", "version.*'sdv'.*svd_xt"),
        ("--SVD.fps", "fps.*one argument"),
        ("--SVD.delta=", "--SVD.delta is empty, as by a variable of the shell that is not set"),
        ("--input_path=", "--image is empty"),
    ],
)
def test_values_that_cannot_be(option, words):
    with pytest.raises(UserError, match=words):
        make_parser("").parse_args(["--image=a", option])


@pytest.mark.parametrize("name", ["watermark", "low_memory", "loop", "skip_done", "dry_run", "SVD.use_ema"])
def test_switches_work_with_and_without_a_value(name):
    def parsed(*given):
        return getattr(make_parser("").parse_args(["--image=a", *given]), name.rpartition(".")[2])

    assert [parsed(*given) for given in ([], [f"--{name}"], [f"--{name}=true"], [f"--{name}", "no"])] == [
        False,
        True,
        True,
        False,
    ]


def test_every_field_is_an_option_with_its_limits_and_choices():
    of = [(kind, name, field) for kind in (Options, VideoSettings, ModelSettings) for name, field in options_of(kind)]
    assert {name for _, name, _ in of} - {"sampling"} == set(OPTIONS) - {name for name, _ in options_of(Command)}
    for kind, name, field in of[:17]:
        assert OPTIONS[name].choices == (about(field).choices or None) and OPTIONS[name].default is None, kind


def test_help_fits_80_columns_and_says_the_defaults(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = make_parser(image_to_video.__doc__).format_help()
    assert max(map(len, text.splitlines())) <= 80
    assert list(GROUPS) == [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    for option in (option for options in GROUPS.values() for option in options):
        assert all(name in text for name in option.names)
        if option.shown not in (None, False):
            assert f"({option.shown})" in text
        elif option.type in (int, float):
            words = ("(", "by default", "no guidance", "the same", "of the square tiles")
            assert any(word in option.help for word in words), f"{option.names[0]}: no default"


def test_weights_are_looked_for_where_people_put_them(tmp_path, monkeypatch):
    monkeypatch.delenv("SVD_CHECKPOINTS", raising=False)
    assert checkpoints_folder().name == "checkpoints"
    monkeypatch.setenv("SVD_CHECKPOINTS", str(tmp_path))
    assert checkpoints_folder() == tmp_path and checkpoints_folder("other").name == "other"
    with pytest.raises(UserError, match=r"\n  python svd_tools/download.py svd_xt\n"):
        find_checkpoint("svd_xt", tmp_path)
    with pytest.raises(UserError, match=r"python svd_tools/download.py svd --checkpoints_dir='/a b'\n"):
        find_checkpoint("svd", "/a b")
    with pytest.raises(UserError, match="SVD.checkpoint") as error:
        find_checkpoint("mine", tmp_path)
    assert "download" not in str(error.value)
    for kind in ("_fp16", ""):  # the whole one comes first
        (tmp_path / f"svd_xt{kind}.safetensors").write_bytes(b"")
        assert find_checkpoint("svd_xt", tmp_path).name == f"svd_xt{kind}.safetensors"
    assert find_checkpoint("svd_tiny", tmp_path).is_file()


def test_every_version_has_a_config():
    assert all((CONFIG.parent / f"{version}.yaml").is_file() for version in VERSIONS)


def test_the_message_without_weights_names_a_command_that_there_is(picture, tmp_path):
    with pytest.raises(UserError) as error:
        image_to_video.main([f"--image={picture}", "--version=svd_xt_1_1", f"--checkpoints_dir={tmp_path}"])
    (line,) = (line for line in str(error.value).splitlines() if line.startswith("  python"))
    command = [sys.executable, *shlex.split(line)[1:], "--help"]
    assert subprocess.run(command, cwd=CONFIG.parent.parent, capture_output=True).returncode == 0
