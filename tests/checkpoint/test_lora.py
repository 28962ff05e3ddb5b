"""LoRA files in every naming, several at once, and those that do not fit."""

from __future__ import annotations

import json
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from safetensors.numpy import load_file, save_file

from gm.checkpoint.delta import Deltas, apply_delta, write_delta
from gm.checkpoint.delta_file import parse_deltas
from gm.checkpoint.lora import Names
from gm.errors import UserError
from gm.parts import Parts
from tests.checkpoint.layouts import key_map, manifest, small
from tests.checkpoint.test_formats import safetensors_bytes
from tests.untrained import CONFIG, untrained  # noqa: F401

UNET = "model.diffusion_model."
# (in the original, in diffusers): a spatial, a temporal attention, a projection's output, a convolution.
LAYERS = {
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q": (
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    ),
    f"{UNET}output_blocks.3.1.time_stack.0.attn2.to_out.0": (
        "up_blocks.1.attentions.0.temporal_transformer_blocks.0.attn2.to_out.0"
    ),
    f"{UNET}middle_block.1.proj_in": "mid_block.attentions.0.proj_in",
    f"{UNET}input_blocks.3.0.op": "down_blocks.0.downsamplers.0.conv",
}
ATTENTIONS = list(LAYERS)[:2]
SHAPES = {
    name: (16, 16) if len(shape) == 2 else (12, 8, 3, 3) if len(shape) == 4 else small(shape)
    for name, shape in manifest().items()
    if name.startswith(UNET)
}
RANK = 4


@pytest.fixture(scope="module")
def halves():
    """{original layer: (down, up)}, with what one convolution needs."""
    random, found = np.random.default_rng(0), {}
    for layer in LAYERS:
        out, *rest = SHAPES[layer + ".weight"]
        up = (out, RANK, 1, 1) if len(rest) > 1 else (out, RANK)
        found[layer] = tuple(random.standard_normal(shape).astype(np.float32) for shape in ((RANK, *rest), up))
    return found


def ours(layer):
    return layer, ".lora_down.weight", ".lora_up.weight"


def kohya(layer):
    return "lora_unet_" + LAYERS[layer].replace(".", "_"), ".lora_down.weight", ".lora_up.weight"


def kohya_original(layer):
    return "lora_unet_" + layer[len(UNET) :].replace(".", "_"), ".lora_down.weight", ".lora_up.weight"


def comfy(layer):
    return layer[len("model.") :], ".lora_A.weight", ".lora_B.weight"


def diffusers(layer):
    return f"unet.{LAYERS[layer]}", ".lora_A.weight", ".lora_B.weight"


def peft(layer):
    return f"base_model.model.{LAYERS[layer]}", ".lora_A.weight", ".lora_B.weight"


def peft_adapter(layer):
    return LAYERS[layer], ".lora_A.default.weight", ".lora_B.default.weight"


def older_diffusers(layer):
    return f"unet.{LAYERS[layer]}", ".lora.down.weight", ".lora.up.weight"


def processors(layer):
    """diffusers before 0.17: the change belongs to the attention's processor."""
    block, _, name = LAYERS[layer].removesuffix(".0").rpartition(".")
    return f"{block}.processor.{name}_lora", ".down.weight", ".up.weight"


def write(path, halves, naming, layers=tuple(LAYERS), alpha=None, metadata=None, more=None):
    tensors = dict(more or {})
    for layer in layers:
        name, down, up = naming(layer)
        tensors[name + down], tensors[name + up] = halves[layer]
        if alpha is not None:
            tensors[name + ".alpha"] = np.array(alpha, np.float32)
    save_file(tensors, path, metadata)
    return path


def wanted(halves, layer, scale, value=0.5):
    down, up = halves[layer]
    return value + scale * np.tensordot(up.reshape(len(up), -1), down, axes=1)


def changed(deltas, value=0.5):
    """{name: new value} of what deltas change in a model full of `value`."""
    deltas = Deltas(deltas, SHAPES)
    return {
        name: deltas.changed(name, lambda: np.full(SHAPES[name], value, np.float32))  # noqa: B023
        for name in deltas.names()
    }


def assert_changes(halves, path, scale, layers=tuple(LAYERS)):
    found = changed(path)
    assert set(found) == {layer + ".weight" for layer in layers}
    for layer in layers:
        np.testing.assert_allclose(found[layer + ".weight"], wanted(halves, layer, scale), rtol=1e-4, atol=1e-5)


def refusal(path):
    with pytest.raises(UserError) as caught:
        Deltas(path, SHAPES)
    return str(caught.value)


@pytest.mark.parametrize("naming", [ours, kohya, kohya_original, comfy, diffusers, peft, peft_adapter, older_diffusers])
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_every_naming_changes_the_same_weights(tmp_path, halves, naming, alpha):
    path = write(tmp_path / "x.safetensors", halves, naming, alpha=alpha)
    assert_changes(halves, path, 1 if alpha is None else alpha / RANK)
    (delta,) = Deltas(path, SHAPES)
    assert "LoRA in" in delta.description and f"4 layers, rank {RANK}" in delta.description


def test_the_naming_of_attention_processors(tmp_path, halves):
    path = write(tmp_path / "x.safetensors", halves, processors, ATTENTIONS)
    assert_changes(halves, path, 1, ATTENTIONS)


def test_all_layers_of_svd_have_a_name_of_their_own_in_every_naming():
    names = [name for name in manifest() if name.startswith(UNET)]
    known, seen = Names(names), set()
    for name, (original, _) in key_map()["unet"].items():
        assert known.parameter(f"unet.{name}") == known.parameter(name) == known.parameter(original) == original
        if name.endswith(".weight"):
            layer = name[: -len(".weight")]
            for spelled in (
                layer,
                f"unet.{layer}",
                "lora_unet_" + layer.replace(".", "_"),
                original[: -len(".weight")],
                "lora_unet_" + original[len(UNET) : -len(".weight")].replace(".", "_"),
            ):
                assert known.weight(spelled) == original
            seen.add(original)
    assert len(seen) > 700


@pytest.mark.parametrize(
    "metadata, scale",
    [
        ({"lora_alpha": "8"}, 2.0),
        ({"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 6})}, 1.5),
        ({"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 6, "use_rslora": True})}, 3.0),
        ({"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 6, "unet.alpha_pattern": {"attn1.to_q": 8}})}, None),
        ({"format": "pt"}, 1.0),
    ],
)
def test_alpha_in_the_metadata(tmp_path, halves, metadata, scale):
    layer = ATTENTIONS[0]
    path = write(tmp_path / "x.safetensors", halves, diffusers, [layer], metadata=metadata)
    assert_changes(halves, path, scale or 2.0, [layer])


def test_a_folder_as_diffusers_and_peft_write_it(tmp_path, halves):
    for name in ("pytorch_lora_weights.safetensors", "adapter_model.safetensors"):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        write(folder / name, halves, diffusers)
        assert_changes(halves, folder, 1)


def test_alpha_of_peft_lies_in_a_file_beside(tmp_path, halves):
    """PEFT 0.21's LoraModel.save_pretrained: adapter_config.json; the layers of alpha_pattern by get_pattern_key."""
    folder, layers = tmp_path / "adapter", ATTENTIONS
    folder.mkdir()
    path = write(folder / "adapter_model.safetensors", halves, peft, layers, metadata={"format": "pt"})
    (told, _) = Deltas(path, SHAPES).warnings()
    assert "adapter_config.json is not beside it" in told
    settings = {"r": RANK, "lora_alpha": 12, "use_rslora": False, "alpha_pattern": {}, "init_lora_weights": True}
    for changes, scales in (
        ({}, (3, 3)),
        ({"use_rslora": True}, (6, 6)),
        ({"alpha_pattern": {"attn1.to_q": 8}}, (2, 3)),
        ({"alpha_pattern": {"^" + LAYERS[layers[0]]: 8}}, (2, 3)),
        ({"alpha_pattern": {"tn1.to_q": 8, "^attn1.to_q": 8}}, (3, 3)),  # no whole name, and not at the beginning
    ):
        (folder / "adapter_config.json").write_text(json.dumps({**settings, **changes}))
        for given in (folder, path):
            found = changed(given)
            for layer, scale in zip(layers, scales):
                right = wanted(halves, layer, scale)
                np.testing.assert_allclose(found[layer + ".weight"], right, rtol=1e-4, atol=1e-5)
    for changes, words in (
        ({"alpha_pattern": {".*to_q": 8}}, "told by the pattern '.*to_q'"),
        ({"init_lora_weights": "pissa_niter_4"}, "it belongs on weights that pissa_niter_4 changed"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps({**settings, **changes}))
        assert words in refusal(folder)
    (folder / "adapter_config.json").write_bytes(b"\xff")
    assert "cannot read" in refusal(folder)
    assert_changes(halves, write(folder / "kohya.safetensors", halves, kohya, alpha=2.0), 0.5)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"use_dora": True}, "its settings say use_dora: DoRA is not read here"),
        ({"r": 16}, "the settings are of rank 16, the layer has 4: they belong to another file"),
        ({"r": 16, "rank_pattern": {"attn1.to_q": 4}}, None),  # says what differs, perhaps by a pattern
    ],
)
def test_settings_that_are_not_those_of_a_plain_lora_of_this_file(tmp_path, halves, changes, words):
    settings = {"r": RANK, "lora_alpha": 12, "use_dora": False, **changes}
    path = write(tmp_path / "adapter_model.safetensors", halves, peft, ATTENTIONS[:1])
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    inside = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in settings.items()})}
    for given in (path, write(tmp_path / "x.safetensors", halves, diffusers, ATTENTIONS[:1], metadata=inside)):
        if words:
            assert words in refusal(given)
        else:
            assert_changes(halves, given, 3, ATTENTIONS[:1])


def test_several_adapters_in_one_file_are_not_taken_as_one(tmp_path, halves):
    path, (first, second) = tmp_path / "x.safetensors", ATTENTIONS
    words = "several of PEFT's adapters are in it (default, other)"
    name, down, up = peft_adapter(first)
    half = {name + down: halves[first][0], name + up.replace("default", "other"): halves[first][1]}
    save_file(half, path)
    assert words in refusal(path)
    more = {peft_adapter(second)[0] + end.replace("default", "other"): x for end, x in zip((down, up), halves[second])}
    assert words in refusal(write(path, halves, peft_adapter, [first], more=more))
    assert "(one without a name, other)" in refusal(write(path, halves, diffusers, [first], more=more))


def test_several_with_strengths_add_up_in_any_order(tmp_path, halves):
    first, second = list(LAYERS)[:2]
    a = write(tmp_path / "a.safetensors", halves, kohya, [first])
    b = write(tmp_path / "b.safetensors", halves, ours, [first, second])
    write_delta(tmp_path / "c.safetensors", {second + ".weight": np.full((16, 16), 2.5, np.float32)}, {})
    order = [f"{a}:0.5", f"{b}:-2", str(tmp_path / "c.safetensors")]
    for given in (order, order[::-1]):
        text = "[" + ", ".join(given) + "]"
        found = changed(text)
        for layer, expected in ((first, wanted(halves, first, -1.5)), (second, wanted(halves, second, -2, 2.5))):
            np.testing.assert_allclose(found[layer + ".weight"], expected, rtol=1e-4, atol=1e-5)
    record = Deltas(text, SHAPES).record()
    assert [item["strength"] for item in record] == [1.0, -2.0, 0.5] and record[2]["path"] == str(a.resolve())


def test_half_of_a_trained_tensor_lies_half_way(tmp_path):
    name = ATTENTIONS[0] + ".weight"
    write_delta(tmp_path / "d.safetensors", {name: np.full(SHAPES[name], 2.5, np.float32)}, {})
    assert (changed(f"{tmp_path / 'd.safetensors'}:0.5")[name] == 1.5).all()


def test_how_files_and_strengths_are_written(tmp_path):
    odd = tmp_path / "a:0.5"
    odd.write_text("")
    listed = tmp_path / "[a,b]"
    listed.write_text("")
    assert parse_deltas(odd) == [(odd, 1.0)] and parse_deltas(str(listed)) == [(listed, 1.0)]
    assert [(str(p), s) for p, s in parse_deltas("[x.st:0.8, 'y.st', C:/z.st:-1e-1]")] == [
        ("x.st", 0.8),
        ("y.st", 1.0),
        ("C:/z.st", -0.1),
    ]
    assert [(str(p), s) for p, s in parse_deltas("C:/x.st")] == [("C:/x.st", 1.0)]
    for text, words in (("[a,,b]", "name files"), ("[]", "name files"), ("a.st:inf", "finite"), ("a.st:nan", "finite")):
        with pytest.raises(UserError, match=words):
            parse_deltas(text)


def test_changes_that_are_not_read_are_told_by_their_kind(tmp_path, halves):
    layer, value = ATTENTIONS[0], np.ones((2, 2), np.float32)
    start = "lora_unet_" + LAYERS[layer].replace(".", "_")
    for name, words in (
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.hada", "made for another model"),
        (f"{start}.hada_w1_a", "LoHa, LoKr"),
        (f"{start}.lokr_w1", "LoHa, LoKr"),
        (f"{start}.dora_scale", "DoRA"),
        (f"base_model.model.{LAYERS[layer]}.lora_E", "AdaLoRA"),
        (f"base_model.model.{LAYERS[layer]}.base_layer.bias", "biases that PEFT trained"),
        (f"base_model.model.{LAYERS[layer]}.lora_B.bias", "biases that PEFT trained"),
        ("lora_unet_single_blocks_0_linear1.lora_down.weight", "the model has no such layer"),
    ):
        path = write(tmp_path / "x.safetensors", halves, kohya, [layer], more={name: value})
        assert words in refusal(path) and name.split(".")[0] in refusal(path)


def test_files_that_contradict_themselves(tmp_path, halves):
    layer = ATTENTIONS[0]
    name, down, up = ours(layer)
    path = tmp_path / "x.safetensors"
    weight = np.ones((16, 16), np.float32)
    assert "changes it twice" in refusal(write(path, halves, ours, [layer], more={name + ".weight": weight}))
    other = diffusers(layer)
    more = {other[0] + other[1]: halves[layer][0], other[0] + other[2]: halves[layer][1]}
    assert "two changes of one layer" in refusal(write(path, halves, ours, [layer], more=more))
    wrapped = {f"module.{name}{end}": half for end, half in zip((down, up), halves[layer])}
    assert "the same under two names" in refusal(write(path, halves, ours, [layer], more=wrapped))
    save_file({name + ".weight": weight, f"_orig_mod.{name}.weight": 2 * weight}, path)
    assert "the same under two names" in refusal(path)
    save_file({name + down: halves[layer][0]}, path)
    assert "down or up" in refusal(path)
    save_file({name + ".alpha": np.ones((), np.float32)}, path)
    assert "down or up" in refusal(path)
    save_file({name + down: np.zeros((0, 16), np.float32), name + up: np.zeros((16, 0), np.float32)}, path)
    assert "rank 0" in refusal(path)
    save_file({name + down: np.zeros((4, 16), np.int32), name + up: np.zeros((16, 4), np.float32)}, path)
    assert "not floating-point" in refusal(path)
    whole = {"conditioner.embedders.3.encoder.quant_conv.weight": weight, f"{UNET}out.2.bias": weight[0]}
    save_file(whole, path)
    assert "It is a whole checkpoint: give it as --SVD.checkpoint" in refusal(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"lora_alpha": "abc"},
        {"lora_alpha": "nan"},
        {"lora_adapter_metadata": "{"},
        {"lora_adapter_metadata": "[]"},
        {"lora_adapter_metadata": '{"lora_alpha": "x"}'},
        {"lora_adapter_metadata": '{"alpha_pattern": 3}'},
    ],
)
def test_an_alpha_that_is_no_number(tmp_path, halves, metadata):
    path = write(tmp_path / "x.safetensors", halves, diffusers, metadata=metadata)
    assert "its alpha is" in refusal(path)
    assert "its alpha is" in refusal(write(path, halves, kohya, alpha=np.inf))


@pytest.mark.parametrize(
    "metadata, words", [(None, ""), (["a"], "damaged"), ("text", "damaged"), ({"a": None}, "damaged")]
)
def test_metadata_of_any_kind(tmp_path, metadata, words):
    name = f"{UNET}out.2.bias"
    shape = list(SHAPES[name])
    fields = {"__metadata__": metadata, name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0]]}}
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(fields, bytes(4 * shape[0])))
    if words:
        assert words in refusal(path)
    else:
        assert Deltas(path, SHAPES).names() == [name]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_changes_that_are_not_finite_never_get_onto_a_model(tmp_path, halves, value):
    layer = ATTENTIONS[0]
    bad = {layer: (halves[layer][0] * np.float32(value), halves[layer][1])}
    path = write(tmp_path / "x.safetensors", bad, ours, [layer])
    with pytest.raises(UserError, match="not finite"):
        changed(path)
    write_delta(path, {layer + ".weight": np.full((16, 16), value, np.float32)}, {})
    with pytest.raises(UserError, match="not finite"):
        changed(path)


def test_what_float16_cannot_hold_is_told(tmp_path):
    name = ATTENTIONS[0] + ".weight"
    write_delta(tmp_path / "d.safetensors", {name: np.full(SHAPES[name], 1e5, np.float32)}, {})
    model = {name: Parameter(Tensor(np.zeros(SHAPES[name]), ms.float16), name=name)}
    with pytest.raises(UserError, match="beyond the largest float16 number 65504: use --amp_level=O0"):
        apply_delta(model, tmp_path / "d.safetensors")


def test_a_change_below_the_spacing_of_float16_is_not_rounded_away(tmp_path, untrained):  # noqa: F811
    """The sum is rounded once. Put on weights that were rounded before, every change of less than half a spacing, and
    so the whole LoRA, would be gone; rounded once, their mean is still there."""
    name = f"{UNET}middle_block.1.proj_in.weight"
    weight, change = load_file(untrained)[name], np.float32(3e-6)  # the spacing between 0.03 and 0.06 is 3e-5
    layer = name[: -len(".weight")]
    down, up = np.full((1, weight.shape[1]), change), np.ones((len(weight), 1), np.float32)
    save_file({f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}, tmp_path / "x.safetensors")
    half = Parts(CONFIG, untrained, tmp_path / "x.safetensors", amp_level="O2").denoiser
    found = next(p for p in half.get_parameters() if p.name == name).asnumpy()
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, (weight.astype(np.float64) + change).astype(np.float16))
    mean = (found.astype(np.float64) - weight.astype(np.float16)).mean()
    assert 0.5 * change < mean < 1.5 * change


def test_a_foreign_file_is_a_warning(tmp_path, halves):
    path = write(tmp_path / "x.safetensors", halves, kohya)
    (warning,) = Deltas(path, SHAPES).warnings(SimpleNamespace())
    assert "whether it belongs to this model is not known" in warning
