"""There and back again between the layouts: every tensor with the same bytes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from gm.checkpoint.conversion import convert
from gm.checkpoint.delta import Deltas
from gm.checkpoint.diffusers_configs import check_configs, model_configs
from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.rules import unused_reason
from gm.errors import UserError
from gm.model import expected_parameters, load_model_config
from gm.weights import Weights
from svd_tools.convert import main as convert_main
from tests.checkpoint.layouts import ROOT, key_map, manifest, original, small, to_diffusers, write_folder
from tests.checkpoint.test_lora import LAYERS, SHAPES, changed, diffusers, halves, kohya, ours, peft, write  # noqa: F401
from tests.untrained import CONFIG

UNET = "model.diffusion_model."
TWIN = "first_stage_model.encoder."


@pytest.fixture(scope="module")
def arrays():
    """float16 and float32 mixed, as some published files are."""
    found = original(3)
    return {name: array.astype(np.float16) if i % 3 == 0 else array for i, (name, array) in enumerate(found.items())}


@pytest.fixture
def expected(arrays):
    return {name: array.shape for name, array in arrays.items() if unused_reason(name) is None}


@pytest.fixture
def svd(arrays, tmp_path):
    (tmp_path / "in").mkdir()
    save_file(arrays, tmp_path / "in/svd.safetensors")
    return tmp_path / "in/svd.safetensors"


def assert_equal(found, wanted):
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes(), name


def folder_content(folder):
    return {
        part.name: load_file(next(part.glob("*.safetensors")))
        for part in folder.iterdir()
        if part.is_dir() and list(part.glob("*.safetensors"))
    }


def test_original_to_ours_and_back(svd, arrays, expected, tmp_path):
    mine = convert(svd, expected, tmp_path / "mine")
    used = {name: array for name, array in arrays.items() if name in expected}
    assert_equal(load_file(mine), used)
    assert_equal(load_file(convert(mine, expected, tmp_path / "back", to="original")), used)
    # what SVD never uses is there again where the original is at hand
    assert_equal(load_file(convert(svd, expected, tmp_path / "whole", to="original")), arrays)
    assert_equal(load_file(convert(mine, expected, tmp_path / "completed", to="original", base=svd)), arrays)


def test_diffusers_to_ours_and_back(arrays, expected, tmp_path):
    folder = write_folder(tmp_path / "svd", arrays)
    mine = convert(folder, expected, tmp_path / "mine")
    assert set(load_file(mine)) == set(expected)
    back = convert(mine, expected, tmp_path / "back", to="diffusers")
    assert back == tmp_path / "back/svd"
    theirs, found = to_diffusers(arrays), folder_content(back)
    assert set(found) == set(theirs)
    for part in theirs:
        assert_equal(found[part], theirs[part])
        with safe_open(next((back / part).glob("*.safetensors")), "np") as file:
            assert file.metadata() == {"format": "pt"}  # without it transformers does not load a file


def test_original_to_diffusers_and_back(svd, arrays, expected, tmp_path, capsys):
    folder = convert(svd, expected, tmp_path / "theirs", to="diffusers")
    assert "106 keys have no place in a diffusers folder" in capsys.readouterr().out
    back = load_file(convert(folder, expected, tmp_path / "back", to="original"))
    kept = {name: array for name, array in arrays.items() if name in expected and not name.startswith(TWIN)}
    assert_equal({name: back[name] for name in kept}, kept)
    assert set(back) == set(expected)


def test_a_folder_with_the_frame_wise_decoder_encodes_as_the_model_does(arrays, tmp_path):
    """The picture goes through the conditioner's encoder; first_stage_model's is training's, and may be another one."""
    random, first = np.random.default_rng(5), manifest("manifest_image_decoder")
    kept = {name: array for name, array in arrays.items() if not name.startswith("first_stage_model.")}
    model = {**kept, **{name: random.standard_normal(small(shape), np.float32) for name, shape in first.items()}}
    save_file(model, tmp_path / "frames.safetensors")
    expected = {name: array.shape for name, array in model.items() if unused_reason(name) is None}
    folder = convert(tmp_path / "frames.safetensors", expected, tmp_path / "theirs", to="diffusers")
    back = load_file(convert(folder, expected, tmp_path / "back"))
    assert set(back) == set(expected)
    trained = (TWIN, "first_stage_model.quant_conv.")
    wanted = {name: array for name, array in model.items() if name in expected and not name.startswith(trained)}
    assert_equal({name: back[name] for name in wanted}, wanted)
    for name in back:
        if name.startswith(trained):
            sampling = "conditioner.embedders.3.encoder." + name[len("first_stage_model.") :]
            assert back[name].tobytes() == back[sampling].tobytes()


def test_a_unet_alone_stays_alone_and_with_a_base_does_not(svd, arrays, expected, tmp_path, capsys):
    trained = {name: -array for name, array in arrays.items() if name.startswith(UNET)}
    theirs = to_diffusers(trained)["unet"]
    (tmp_path / "run/unet").mkdir(parents=True)
    save_file(theirs, tmp_path / "run/unet/diffusion_pytorch_model.safetensors")
    alone = convert(tmp_path / "run", expected, tmp_path / "alone", to="original")
    assert "diffusers folder (UNet)" in capsys.readouterr().out
    assert_equal(load_file(alone), trained)
    back = convert(alone, expected, tmp_path / "back", to="diffusers")
    assert_equal(load_file(back / "unet/diffusion_pytorch_model.safetensors"), theirs)
    assert [path.name for path in back.iterdir()] == ["unet"]
    whole = convert(tmp_path / "run", expected, tmp_path / "whole", to="original", base=svd)
    assert_equal(load_file(whole), {**arrays, **trained})


@pytest.mark.parametrize("to", ["mindspore", "original", "diffusers"])
@pytest.mark.parametrize("naming", [ours, kohya, diffusers])
def test_a_lora_in_every_layout(halves, tmp_path, to, naming):  # noqa: F811
    source = write(tmp_path / "x.safetensors", halves, naming, alpha=2.0)
    output = convert(source, SHAPES, tmp_path / "out", to=to)
    found, wanted = changed(output), changed(source)
    assert set(found) == set(wanted) and len(found) == len(LAYERS)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])
    tensors = load_file(output)
    bytes_of = {array.tobytes() for array in tensors.values()}
    assert all(array.tobytes() in bytes_of for pair in halves.values() for array in pair)
    starts = {"mindspore": UNET, "original": "lora_unet_input_blocks_1_1_", "diffusers": "unet.down_blocks.0."}
    assert any(name.startswith(starts[to]) for name in tensors)
    (delta,) = Deltas(output, SHAPES)
    assert all(change.scale == 0.5 for change in delta.low_rank.values())


def test_a_lora_that_does_not_say_how_strong_it_is(halves, tmp_path, capsys):  # noqa: F811
    """What is written says it then, and nobody can see any more that it was a guess."""
    source = write(tmp_path / "adapter_model.safetensors", halves, peft)
    convert(source, SHAPES, tmp_path / "out", to="original")
    assert "adapter_config.json is not beside it" in capsys.readouterr().err


def test_outputs_that_are_there_and_options_that_contradict(svd, expected, tmp_path):
    convert(svd, expected, tmp_path / "out", to="diffusers")
    with pytest.raises(UserError, match="is already there: delete it or choose another"):
        convert(svd, expected, tmp_path / "out", to="diffusers", overwrite=True)
    with pytest.raises(UserError, match="--format=ckpt is MindSpore's own"):
        convert(svd, expected, tmp_path / "out", file_format="ckpt", to="original")
    assert not [path for path in (tmp_path / "out").iterdir() if path.name != "svd"]


def test_nothing_is_left_of_a_folder_that_could_not_be_written(svd, arrays, expected, tmp_path):
    arrays[next(name for name in arrays if name.startswith("first_stage_model.decoder"))].flat[0] = np.inf
    save_file(arrays, svd)
    with pytest.raises(UserError, match="beyond the largest float16"):
        convert(svd, expected, tmp_path / "out", dtype="float16", to="diffusers")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_configs_are_the_published_folders():
    found = model_configs(load_model_config(ROOT / "configs/svd_xt.yaml"), ["unet", "vae", "image_encoder"])
    assert set(found) == {
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "image_encoder/config.json",
        "scheduler/scheduler_config.json",
        "feature_extractor/preprocessor_config.json",
    }
    unet, vae, scheduler = (
        found[f"{name}.json"] for name in ("unet/config", "vae/config", "scheduler/scheduler_config")
    )
    assert unet["num_attention_heads"] == [5, 10, 20, 20] and unet["block_out_channels"] == [320, 640, 1280, 1280]
    assert unet["num_frames"] == 25 and unet["down_block_types"][-1] == "DownBlockSpatioTemporal"
    assert vae["block_out_channels"] == [128, 256, 512, 512] and vae["scaling_factor"] == 0.18215
    assert (scheduler["sigma_min"], scheduler["sigma_max"]) == (0.002, 700.0)
    assert found["image_encoder/config.json"]["num_attention_heads"] == 16
    json.dumps(found)


def test_configs_of_another_model_are_refused(tmp_path):
    """Heads, say, are in no shape: the published folder's values pass, others would be computed wrongly."""
    config = load_model_config(ROOT / "configs/svd.yaml")
    for name, content in model_configs(config, ["unet", "vae", "image_encoder"]).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    places = (tmp_path, tmp_path / "unet", tmp_path / "unet/diffusion_pytorch_model.safetensors")
    for place in places:
        check_configs(place, config)
    for name, changes, words in (
        ("unet/config.json", {"num_attention_heads": [8, 16, 32, 32]}, "heads is .8, 16, 32, 32., .* .5, 10, 20, 20."),
        ("unet/config.json", {"num_attention_heads": 8}, "heads is 8, the model is computed with .5, 10, 20, 20."),
        ("vae/config.json", {"scaling_factor": 1.0}, "scaling_factor is 1.0, .* 0.18215"),
        ("image_encoder/config.json", {"hidden_act": "quick_gelu"}, "hidden_act is quick_gelu"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "prediction_type is epsilon"),
    ):
        old = (tmp_path / name).read_text()
        (tmp_path / name).write_text(json.dumps({**json.loads(old), **changes}))
        for place in places if "unet" in name else places[:1]:
            with pytest.raises(UserError, match=f"{name}: .*{words}"):
                check_configs(place, config)
        (tmp_path / name).write_text(old)
    (tmp_path / "unet").rename(tmp_path / "unet_ema")  # the running mean has its own
    path = tmp_path / "unet_ema/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_attention_heads": 8}))
    check_configs(tmp_path, config)
    with pytest.raises(UserError, match=r"unet_ema/config\.json: num_attention_heads is 8"):
        check_configs(tmp_path, config, use_ema=True)
    path.write_text("{")
    check_configs(tmp_path, config, use_ema=True)


def test_models_that_diffusers_cannot_compute_are_told(tmp_path, capsys):
    """diffusers 0.42.1 loads svd_tiny's folder without a block of the decoder; the pipeline stops at its encoder."""
    arguments = [f"--pt_weights_file={ROOT / 'assets/svd_tiny.safetensors'}", f"--out_dir={tmp_path}"]
    convert_main([*arguments, f"--config={ROOT / 'configs/svd_tiny.yaml'}", "--to=diffusers"])
    error = capsys.readouterr().err
    assert "warning: this video VAE has num_res_blocks 1" in error
    assert "warning: this image encoder takes pictures of 96 pixels" in error


def test_a_folder_of_another_model_is_not_loaded(tmp_path, untrained):
    config = load_model_config(CONFIG)
    more = {"to": "diffusers", "configs": lambda parts: model_configs(config, parts)}
    folder = convert(untrained, expected_parameters(CONFIG), tmp_path / "out", **more)
    Weights(config, folder)
    path = folder / "unet/config.json"
    right = path.read_text()
    path.write_text(json.dumps({**json.loads(right), "num_attention_heads": [2, 2]}))
    with pytest.raises(UserError, match=r"unet/config.json: num_attention_heads is \[2, 2\]"):
        Weights(config, folder)
    path.write_text(right)
    save_file({f"{UNET}out.2.bias": np.zeros(4, np.float32)}, tmp_path / "part.safetensors")
    Weights(config, tmp_path / "part.safetensors", folder)
    path = folder / "image_encoder/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_act": "quick_gelu"}))
    arguments = [f"--config={CONFIG}", f"--out_dir={tmp_path}", f"--pt_weights_file={tmp_path / 'part.safetensors'}"]
    for read in (
        lambda: Weights(config, tmp_path / "part.safetensors", folder),
        lambda: convert_main([*arguments, f"--base={folder}"]),
    ):
        with pytest.raises(UserError, match="image_encoder/config.json: hidden_act is quick_gelu"):
            read()


@pytest.mark.slow
def test_round_trips_of_the_whole_model(tmp_path):
    """All of SVD in float16, 4.8 GB: original → ours → original, original → diffusers → ours → diffusers."""
    from benchmarks.make_random_checkpoint import write as write_random

    source = tmp_path / "svd.safetensors"
    write_random(source, "svd", "float16", 0)
    expected = expected_parameters(ROOT / "configs/svd.yaml")
    mine = convert(source, expected, tmp_path / "mine")
    back = convert(mine, expected, tmp_path / "back", to="original", base=source)
    assert compare(source, back, manifest()) == 2446
    mine.unlink()
    back.unlink()
    theirs = convert(source, expected, tmp_path / "theirs", to="diffusers")
    source.unlink()
    mine = convert(theirs, expected, tmp_path / "mine")
    again = convert(mine, expected, tmp_path / "again", to="diffusers")
    counted = 0
    for part, names in key_map().items():
        path = next((again / part).glob("*.safetensors"))
        counted += compare(theirs / path.relative_to(again), path, names)
    assert counted == 1428 + 374 + 520


def compare(first, second, names):
    """How many of these tensors are the same, byte by byte, in two files; an assertion fails where one is not."""
    with open_checkpoint(first) as one, open_checkpoint(second) as two:
        for name in names:
            a, b = one.read(name), two.read(name)
            assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), name
            assert name not in manifest() or a.size == math.prod(manifest()[name])
            del a, b
            one.release()
            two.release()
    return len(names)
