"""The trained part alone, and putting it on a model."""

from __future__ import annotations

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor
from safetensors.numpy import save_file

from gm.checkpoint.delta import apply_delta, fingerprint, write_delta
from gm.checkpoint.model_file import open_model
from gm.checkpoint.writer import write_safetensors
from gm.errors import UserError

SHAPES = {"model.diffusion_model.a.time_stack.0.weight": (3, 2), "model.diffusion_model.a.weight": (4,)}
NAME = next(iter(SHAPES))
BASE = {"base_name": "base.safetensors", "base_size": "1", "base_hash": "abc"}


def parameters(dtype=ms.float32):
    return {name: Parameter(Tensor(np.zeros(shape), dtype), name=name) for name, shape in SHAPES.items()}


def weights(path, value=1.0, dtype=np.float32):
    """Something like `gm.weights.Weights` of a file that holds SHAPES."""
    entries = [(name, shape, dtype) for name, shape in SHAPES.items()]
    write_safetensors(path, entries, lambda name: np.full(SHAPES[name], value, dtype))
    return SimpleNamespace(checkpoint=open_model(path), sources={name: name for name in SHAPES})


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16])
def test_only_the_trained_part_changes(tmp_path, dtype):
    base = weights(tmp_path / "base.safetensors")
    trained = np.arange(6, dtype=np.float32).reshape(3, 2) / 3
    write_delta(tmp_path / "d.safetensors", {NAME: trained}, fingerprint(base))
    model = parameters(dtype)
    assert apply_delta(model, tmp_path / "d.safetensors", base) == []
    assert np.array_equal(model[NAME].asnumpy(), trained.astype(model[NAME].asnumpy().dtype))
    assert model[NAME].dtype == dtype
    assert not model["model.diffusion_model.a.weight"].asnumpy().any()


def test_another_base_is_a_warning(tmp_path):
    path = tmp_path / "d.safetensors"
    write_delta(path, {NAME: np.ones((3, 2), np.float32)}, fingerprint(weights(tmp_path / "one.safetensors")))
    other = weights(tmp_path / "two.safetensors", 2.0)
    (warning,) = apply_delta(parameters(), path, other)
    assert "one.safetensors" in warning and "two.safetensors" in warning
    converted = weights(tmp_path / "three.safetensors", 1.0, np.float16)
    assert apply_delta(parameters(), path, converted) == []
    assert apply_delta(parameters(), path) == []


def test_a_base_in_another_layout_is_the_same_base(tmp_path):
    """diffusers' folders have no encoder of training's own: only the UNet has to be the same."""
    first, second = weights(tmp_path / "one.safetensors"), weights(tmp_path / "two.safetensors", 2.0)
    second.checkpoint = first.checkpoint
    for base, source in zip((first, second), SHAPES):
        base.sources["first_stage_model.encoder.conv_in.bias"] = source
    assert fingerprint(first)["base_hash"] != fingerprint(second)["base_hash"]
    write_delta(tmp_path / "d.safetensors", {NAME: np.ones((3, 2), np.float32)}, fingerprint(first))
    assert apply_delta(parameters(), tmp_path / "d.safetensors", second) == []
    older = {name: value for name, value in fingerprint(first).items() if not name.startswith("unet")}
    write_delta(tmp_path / "d.safetensors", {NAME: np.ones((3, 2), np.float32)}, older)
    assert len(apply_delta(parameters(), tmp_path / "d.safetensors", second)) == 1


def test_a_base_that_differs_in_any_tensor_is_another(tmp_path):
    """Such as one that a LoRA was merged into, which changes few kinds of tensors."""
    names = [f"model.diffusion_model.a.{n:02d}.weight" for n in range(40)]

    def model(path, changed=None):
        def read(name):
            return np.full((3, 200), float(name == changed), np.float32)

        write_safetensors(path, [(name, (3, 200), np.float32) for name in names], read)
        return SimpleNamespace(checkpoint=open_model(path), sources={name: name for name in names})

    base = fingerprint(model(tmp_path / "base.safetensors"))
    others = [fingerprint(model(tmp_path / "other.safetensors", name)) for name in names]
    assert all(other["unet_values"] != base["unet_values"] for other in others)
    assert not all(other["unet_hash"] != base["unet_hash"] for other in others), "which is why there is the other"
    write_delta(tmp_path / "d.safetensors", {NAME: np.ones((3, 2), np.float32)}, base)
    other = model(tmp_path / "other.safetensors", names[1])
    assert len(apply_delta(parameters(), tmp_path / "d.safetensors", other)) == 1
    older = {name: value for name, value in base.items() if name != "unet_values"}
    write_delta(tmp_path / "d.safetensors", {NAME: np.ones((3, 2), np.float32)}, older)
    assert apply_delta(parameters(), tmp_path / "d.safetensors", other) == []


def test_a_file_from_elsewhere_is_a_warning(tmp_path):
    path = tmp_path / "d.safetensors"
    save_file({NAME: np.ones((3, 2), np.float32)}, path)
    model = parameters()
    (warning,) = apply_delta(model, path)
    assert "not written as a delta" in warning
    assert model[NAME].asnumpy().all()


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"model.diffusion_model.b.bias": np.ones(4, np.float32)}, "model.diffusion_model.b.bias: the model has no"),
        ({NAME: np.ones((3, 3), np.float32)}, r"\(3, 3\), the model has \(3, 2\)"),
        ({NAME: np.ones((3, 2), np.int64)}, "int64 is not floating-point"),
        ({}, "holds no tensors"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changed(tmp_path, arrays, message):
    path = tmp_path / "d.safetensors"
    good = {} if not arrays else {"model.diffusion_model.a.weight": np.ones(4, np.float32)}
    write_delta(path, {**good, **arrays}, BASE)
    model = parameters()
    with pytest.raises(UserError, match=message):
        apply_delta(model, path)
    assert not any(p.asnumpy().any() for p in model.values())


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "d.safetensors"
    write_delta(path, {NAME: np.ones((3, 2), np.float32)}, BASE)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="truncated"):
        apply_delta(parameters(), path)
    with pytest.raises(UserError, match="no such checkpoint"):
        apply_delta(parameters(), tmp_path / "missing.safetensors")
