"""Every layout in which SVD's weights are handed around gives the same tensors under the original names."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from gm.checkpoint.diffusers_names import PARTS, Table, change_of, structure_of
from gm.checkpoint.match import match
from gm.checkpoint.model_file import open_model
from gm.checkpoint.rules import unused_reason
from gm.errors import UserError
from tests.checkpoint.layouts import key_map, manifest, original, to_diffusers, write_folder, write_shards

UNET = "model.diffusion_model."
TWIN = "first_stage_model.encoder."  # training's encoder, which diffusers does not have


@pytest.fixture(scope="module")
def arrays():
    return original()


@pytest.fixture(scope="module")
def whole(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "svd.safetensors"
    save_file(arrays, path)
    return path


@pytest.fixture
def expected(arrays):
    return {name: array.shape for name, array in arrays.items() if unused_reason(name) is None}


def tensors(view, names=None):
    return {name: np.array(view.read(name)) for name in (names or view.names())}


def assert_same(view, arrays, expected, but=()):
    """Every expected tensor is there, by `match`, with the same bytes; shape and dtype are told before it is read."""
    sources = match(view, expected)
    for name, source in sources.items():
        found = view.read(source)
        assert view.shape(source) == found.shape and view.dtype(source) == found.dtype
        assert found.flags.c_contiguous and found.flags.writeable
        if not name.startswith(but or ("-",)):
            assert found.tobytes() == arrays[name].tobytes(), name
        if "1" in name:  # a part of them, as it takes long
            copied = np.zeros(found.shape, np.float32)
            view.copy_to(source, copied, np.copyto)
            assert np.array_equal(copied, found)


def refusal(*arguments, **options):
    with pytest.raises(UserError) as caught:
        open_model(*arguments, **options)
    return str(caught.value)


def test_the_names_of_diffusers_are_those_of_the_verified_table_in_both_directions():
    names, frame_wise = manifest(), manifest("manifest_image_decoder")
    table = Table(structure_of(names))
    assert structure_of(f"{part}.{name}" for part in PARTS for name in key_map()[part]) == structure_of(names)
    counted = 0
    for part in PARTS:
        for name, (source, change) in key_map()[part].items():
            row = int(change[5]) if change and change.startswith("rows") else None
            assert table.original(f"{part}.{name}") == (source, row)
            assert (f"{part}.{name}", row) in table.diffusers(source)
            kinds = {None: None, "transpose": "transposed", "reshape [C,C] <-> [C,C,1,1]": "matrix"}
            assert row is not None or change_of(source) == kinds[change]
            counted += 1
    assert counted == 1428 + 374 + 520
    assert sum(not table.diffusers(name) for name in names) == 252
    frame_wise = Table(structure_of(frame_wise))
    for name in manifest("manifest_image_decoder"):
        trained = name.startswith((TWIN, "first_stage_model.quant_conv."))
        used = name.replace("first_stage_model.", "conditioner.embedders.3.encoder.") if trained else name
        assert len(frame_wise.diffusers(used)) == 1 and (used == name or not frame_wise.diffusers(name))


def test_the_original_file(whole, arrays, expected):
    with open_model(whole) as view:
        assert_same(view, arrays, expected)
        assert view.description == "original naming (UNet, VAE, image encoder), float32"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_forward_module.module."])
def test_prefixes_of_wrappers_are_not_part_of_names(tmp_path, arrays, expected, prefix):
    save_file({prefix + name: array for name, array in arrays.items()}, tmp_path / "x.safetensors")
    assert_same(open_model(tmp_path / "x.safetensors"), arrays, expected)
    inside = {name.replace(UNET, f"{UNET}_orig_mod."): array for name, array in arrays.items()}
    save_file(inside, tmp_path / "y.safetensors")
    assert_same(open_model(tmp_path / "y.safetensors"), arrays, expected)


@pytest.mark.parametrize("variant, dtype", [("", np.float32), (".fp16", np.float16)])
def test_a_diffusers_folder(tmp_path, expected, variant, dtype):
    arrays = original(dtype=dtype)
    folder = write_folder(tmp_path / "svd", arrays, variant)
    with open_model(folder) as view:
        assert_same(view, arrays, expected, but=(TWIN,))
        assert view.description.startswith("diffusers folder (UNet, VAE, image encoder), float")
        assert view.size() == sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def test_full_precision_comes_before_half(tmp_path, arrays, expected):
    write_folder(tmp_path / "svd", arrays)
    for path in list((tmp_path / "svd").rglob("*.safetensors")):
        path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")).write_bytes(b"not looked at")
    assert_same(open_model(tmp_path / "svd"), arrays, expected, but=(TWIN,))


def test_trainings_encoder_is_made_of_the_one_in_diffusers_and_its_quant_conv(tmp_path, arrays):
    """first_stage_model.encoder ends in one convolution that does what diffusers' conv_out and quant_conv do."""
    view = open_model(write_folder(tmp_path / "svd", arrays))
    sampling = "conditioner.embedders.3.encoder."
    for name in arrays:
        if name.startswith(TWIN) and ".conv_out." not in name:
            twin = sampling + name[len("first_stage_model.") :]
            assert np.array_equal(view.read(name), arrays[twin])
    weight, bias = (arrays[f"{sampling}encoder.conv_out.{kind}"] for kind in ("weight", "bias"))
    quant, behind = (arrays[f"{sampling}quant_conv.{kind}"] for kind in ("weight", "bias"))
    pixels = np.random.default_rng(0).standard_normal(weight.shape[1:])
    wanted = quant[:, :, 0, 0] @ (np.einsum("oihw,ihw->o", weight, pixels) + bias) + behind
    found = np.einsum("oihw,ihw->o", view.read(TWIN + "conv_out.weight"), pixels) + view.read(TWIN + "conv_out.bias")
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_shards_in_a_folder_and_an_index_by_itself(tmp_path, arrays, expected, whole):
    folder = write_folder(tmp_path / "svd", arrays)
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    index = write_shards(folder / "unet", "diffusion_pytorch_model", to_diffusers(arrays)["unet"])
    assert_same(open_model(folder), arrays, expected, but=(TWIN,))
    index.rename(index.with_name("diffusion_pytorch_model.safetensors.index.fp16.json"))
    assert_same(open_model(folder), arrays, expected, but=(TWIN,))
    assert {*open_model(folder).files()} == {*folder.glob("*/*.safetensors")}
    index = write_shards(tmp_path / "original", "svd", arrays)
    assert_same(open_model(index), arrays, expected)
    assert {*open_model(index).files()} == {*index.parent.glob("*.safetensors")}


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda places: {**places, "x": "../secret.safetensors"}, "points to '../secret.safetensors', which"),
        (lambda places: {**places, "x": "/etc/passwd"}, "points to '/etc/passwd'"),
        (lambda places: {**places, "x": ".."}, "points to '..'"),
        (lambda places: {**places, "x": r"..\secret"}, "which is no file beside it"),
        (lambda places: {**places, "x": "more.safetensors"}, "more.safetensors is missing"),
        (lambda places: {**places, "x": next(iter(places.values()))}, "lacks x"),
        (lambda places: dict(list(places.items())[1:]), "files of different models are mixed"),
        (lambda places: list(places), "is not an index of shards"),
        (lambda places: {"a": 1}, "is not an index of shards"),
        (lambda places: {**places, "x": "loop.safetensors.index.json"}, "which is no file beside it"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, arrays, change, words):
    index = write_shards(tmp_path / "svd", "svd", {name: arrays[name] for name in list(arrays)[:9]})
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "secret.safetensors")
    content = json.loads(index.read_text())
    content["weight_map"] = change(content["weight_map"])
    index.write_text(json.dumps(content))
    assert words in refusal(index)


@pytest.mark.parametrize("text", ["", "[]", "{}", "<html>", '{"weight_map": null}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "svd.safetensors.index.json").write_text(text)
    assert "is not an index of shards" in refusal(tmp_path / "svd.safetensors.index.json")


def unet_files(tmp_path, arrays):
    """The same UNet in every layout that has it alone: {words: path}."""
    unet = {name: array for name, array in arrays.items() if name.startswith(UNET)}
    theirs = to_diffusers(arrays)["unet"]
    run = tmp_path / "checkpoint-1000"  # as SVD_Xtend's training leaves it
    for name in ("unet", "unet_ema"):
        (run / name).mkdir(parents=True)
        save_file(
            theirs if name == "unet" else {key: -value for key, value in theirs.items()},
            run / name / "diffusion_pytorch_model.safetensors",
        )
        (run / name / "config.json").write_text("{}")
    (run / "optimizer.bin").write_bytes(b"x")
    save_file(unet, tmp_path / "original.safetensors")
    save_file({name[len(UNET) :]: array for name, array in unet.items()}, tmp_path / "bare.safetensors")
    save_file({name[len("model.") :]: array for name, array in unet.items()}, tmp_path / "comfy.safetensors")
    save_file({f"unet.{name}": array for name, array in theirs.items()}, tmp_path / "pipeline.safetensors")
    shutil.copy(run / "unet/diffusion_pytorch_model.safetensors", tmp_path / "AnimateLCM-SVD-xt.safetensors")
    return {
        "a run": run,
        "its folder": run / "unet",
        "its file": run / "unet/diffusion_pytorch_model.safetensors",
        **{path.stem: path for path in tmp_path.glob("*.safetensors")},
    }


def test_a_unet_alone_is_completed_by_its_base(tmp_path, whole, expected):
    arrays, trained = original(0), original(1)
    wanted = {name: (trained if name.startswith(UNET) else arrays)[name] for name in arrays}
    paths = unet_files(tmp_path, trained)
    assert len(paths) == 8
    for path in paths.values():
        view = open_model(path, whole)
        assert_same(view, wanted, expected)
        assert "(UNet), float32; completed by" in view.description and "original naming" in view.description
        with pytest.raises(UserError, match=r"holds the UNet without the VAE and image encoder.*--SVD\.base"):
            match(open_model(path), expected)
    folder = write_folder(tmp_path / "base", arrays)
    assert_same(open_model(paths["a run"], folder), wanted, expected, but=(TWIN,))
    assert_same(open_model(folder / "vae", whole), arrays, expected, but=(TWIN,))
    assert "is a whole model: leave out the base" in refusal(whole, folder)


def test_the_running_mean_in_folders(tmp_path, whole, arrays):
    name = UNET + "out.2.weight"
    paths = unet_files(tmp_path, arrays)
    for path in (paths["a run"] / "unet_ema", paths["a run"]):
        view = open_model(path, whole, use_ema=path == paths["a run"])
        np.testing.assert_array_equal(view.read(name), -arrays[name])
    shutil.rmtree(paths["a run"] / "unet")
    assert "name " + str(paths["a run"] / "unet_ema") in refusal(paths["a run"])
    assert "no running mean (EMA)" in refusal(whole, use_ema=True)
    assert "no folder unet_ema" in refusal(write_folder(tmp_path / "whole", arrays), use_ema=True)


@pytest.mark.parametrize("form", ["LitEma", "plain", "inner"])
def test_the_running_mean_beside_the_weights_is_chosen_by_a_flag(tmp_path, arrays, expected, form):
    def averaged(name):
        inner = name[len("model.") :]
        return "model_ema." + {"LitEma": inner.replace(".", ""), "plain": name, "inner": inner}[form]

    unet = [name for name in arrays if name.startswith(UNET)]
    means = {averaged(name): -arrays[name] for name in unet}
    assert len(means) == len(unet)
    save_file({**arrays, **means, "model_ema.decay": np.float32([0.9])}, tmp_path / "x.safetensors")
    view = open_model(tmp_path / "x.safetensors")
    assert_same(view, arrays, expected)
    assert f"running mean (EMA) of {len(unet) + 1} left aside" in view.description
    wanted = {name: -array if name in unet else array for name, array in arrays.items()}
    view = open_model(tmp_path / "x.safetensors", use_ema=True)
    assert_same(view, wanted, expected)
    assert f"running mean (EMA) of {len(unet)} weights" in view.description
    assert "model_ema.decay" in view.ignored
    save_file(means, tmp_path / "means.safetensors")
    assert "say that you want it (image_to_video.py --SVD.use_ema" in refusal(tmp_path / "means.safetensors")


def test_what_is_there_twice_and_what_is_unknown_is_told(tmp_path, arrays, expected):
    name = UNET + "out.2.weight"
    save_file({**arrays, "module." + name: arrays[name], "surprise": arrays[name]}, tmp_path / "x.safetensors")
    with pytest.raises(UserError) as caught:
        match(open_model(tmp_path / "x.safetensors"), expected)
    message = str(caught.value)
    assert f"{name} and module.{name}" in message and "1 key unexpected:\n  surprise" in message
    theirs = to_diffusers(arrays)
    for part in PARTS:
        (tmp_path / "d" / part).mkdir(parents=True)
    theirs["image_encoder"].pop("vision_model.encoder.layers.0.self_attn.k_proj.weight")
    theirs["image_encoder"]["vision_model.embeddings.position_ids"] = np.arange(3)
    theirs["unet"]["down_blocks.7.strange"] = np.zeros(1, np.float32)
    for part in PARTS:
        stem = "model" if part == "image_encoder" else "diffusion_pytorch_model"
        save_file(theirs[part], tmp_path / "d" / part / f"{stem}.safetensors")
    with pytest.raises(UserError) as caught:
        match(open_model(tmp_path / "d"), expected)
    message = str(caught.value)
    assert "1 key missing" in message and "resblocks.0.attn.in_proj_weight" in message
    assert "unet.down_blocks.7.strange" in message and "q_proj.weight" in message and "position_ids" not in message


def test_one_tensor_under_the_names_of_two_layouts_is_refused(tmp_path, arrays):
    """One of the two would have been dropped, and nobody can tell which one is meant."""
    name, path = UNET + "out.2.weight", tmp_path / "x.safetensors"
    for other in ("out.2.weight", "diffusion_model.out.2.weight"):
        save_file({**arrays, other: arrays[name] + 1}, path)
        assert f"{other} are both {name}" in refusal(path) or f"and {name} are both {name}" in refusal(path)
    theirs = {f"unet.{key}": array for key, array in to_diffusers(arrays)["unet"].items()}
    save_file({**{key: -array for key, array in theirs.items()}, **arrays}, path)
    assert "holds two models, or parts of them" in refusal(path) and "unet." in refusal(path)


def test_weights_that_lie_twice_in_a_folder_are_refused(tmp_path, arrays, expected):
    """As diffusers leaves them that saves in one file, then in shards; it reads the shards, transformers the file."""
    tensors, folder = to_diffusers(arrays), write_folder(tmp_path / "svd", arrays)
    index = write_shards(folder / "unet", "diffusion_pytorch_model", tensors["unet"])
    single = folder / "unet/diffusion_pytorch_model.safetensors"
    for path in (folder, folder / "unet"):
        assert f"{folder / 'unet'} holds weights twice: {single.name}, and 3 shards of {index.name}" in refusal(path)
    open_model(single)
    open_model(index)
    index.rename(index.with_name("diffusion_pytorch_model.safetensors.index.fp16.json"))  # another precision
    assert_same(open_model(folder), arrays, expected, but=(TWIN,))
    index.with_name("diffusion_pytorch_model.safetensors.index.fp16.json").rename(index)
    next(index.parent.glob("*-00002-*")).unlink()  # as diffusers leaves it the other way round
    assert_same(open_model(folder), arrays, expected, but=(TWIN,))
    index.write_text("{")
    assert_same(open_model(folder), arrays, expected, but=(TWIN,))


def test_how_much_of_a_part_is_the_bases_is_told(tmp_path, arrays, whole):
    unet = {name: array for name, array in arrays.items() if name.startswith(UNET)}
    save_file(unet, tmp_path / "unet.safetensors")
    assert f"completed by {whole}: original" in open_model(tmp_path / "unet.safetensors", whole).description
    lacking = {name: array for name, array in unet.items() if ".output_blocks.11.1." not in name}
    save_file(lacking, tmp_path / "less.safetensors")
    words = f"completed by {whole} ({len(unet) - len(lacking)} tensors of the UNet itself): original"
    assert words in open_model(tmp_path / "less.safetensors", whole).description


def test_folders_without_weights(tmp_path, arrays):
    (tmp_path / "empty").mkdir()
    assert "is a folder: name the checkpoint file itself" in refusal(tmp_path / "empty")
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "empty/mine.safetensors")
    assert str(tmp_path / "empty/mine.safetensors") in refusal(tmp_path / "empty")
    folder = write_folder(tmp_path / "svd", arrays)
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    assert f"{folder / 'vae'} holds no weights" in refusal(folder)
    cut = folder / "unet/diffusion_pytorch_model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-5])
    (folder / "vae").rmdir()
    assert "is truncated" in refusal(folder)
