"""LoRA: training it, its file, putting it on a model, merging it."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

import train
from gm.checkpoint.delta import apply_delta
from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.lora import low_rank, merged
from gm.errors import UserError
from gm.model import load_model_config
from gm.training.step import is_temporal
from gm.weights import Weights
from svd_tools.merge import merge

LORA = ("train.lora.rank=2", "train.lora.alpha=4", "train.optimizer.learning_rate=1e-2")


def read(path):
    with open_checkpoint(path) as file:
        found = {name: np.array(file.read(name)) for name in file.names()}
    assert found and all(np.isfinite(array).all() for array in found.values()), "two sides of NaN are not the same"
    return found


def test_only_low_rank_changes_of_temporal_attention_are_trained_and_saved(arguments, checkpoint, tmp_path):
    assert train.main(arguments(tmp_path / "run", *LORA)) == 0
    path = tmp_path / "run/weights/delta.safetensors"
    found = read(path)
    pairs = low_rank(found)
    assert pairs and len(found) == 2 * len(pairs) and all(is_temporal(name) for name in pairs)
    kinds = {name.replace(".to_out.0.", ".to_out.").split(".")[-2] for name in pairs}
    assert kinds == {"to_q", "to_k", "to_v", "to_out"}
    assert any(found[up].any() for _, up in pairs.values())
    assert path.stat().st_size < 0.1 * checkpoint.stat().st_size


def test_it_starts_as_the_model_it_was_given(arguments, tmp_path, read_metrics):
    """The first loss is the base's: up is zero."""
    for name, more in (("plain", ()), ("lora", LORA)):
        train.main(arguments(tmp_path / name, "train.max_steps=1", *more))
    plain, lora = (read_metrics(tmp_path / name)[0]["loss"] for name in ("plain", "lora"))
    assert lora == pytest.approx(plain, rel=1e-6)


def test_a_delta_of_it_the_full_model_and_the_merged_one_are_equal(arguments, checkpoint, model_path, tmp_path):
    for kind in ("delta", "full"):
        train.main(arguments(tmp_path / kind, *LORA, "train.temporal_only=False", f"train.save={kind}"))
    delta = tmp_path / "delta/weights/delta.safetensors"
    weights = Weights(load_model_config(model_path), checkpoint)
    denoiser = weights.load("unet")
    assert apply_delta(denoiser, delta, weights) == []
    assert merge(model_path, checkpoint, delta, tmp_path / "merged.safetensors") == []
    full, together = read(tmp_path / "full/weights/full.safetensors"), read(tmp_path / "merged.safetensors")
    base = read(checkpoint)
    assert full.keys() == together.keys() == base.keys()
    for name in full:
        np.testing.assert_allclose(full[name], together[name], atol=1e-7)
    for p in denoiser.get_parameters():
        np.testing.assert_allclose(p.asnumpy(), full[p.name], atol=1e-7)
    changed = {name for name in base if not np.array_equal(base[name], full[name])}
    assert changed <= set(low_rank(read(delta))) and any(not is_temporal(name) for name in changed)


def test_a_resumed_run_ends_like_an_undisturbed_one(arguments, tmp_path):
    common = (*LORA, "train.max_steps=4", "train.checkpoint.every=2", "train.ema=True")
    train.main(arguments(tmp_path / "straight", *common))
    train.main(arguments(tmp_path / "cut", *common))
    (tmp_path / "cut/checkpoints/step-00000004.safetensors").unlink()
    train.main(arguments(tmp_path / "cut", *common, "train.resume=latest"))
    for name in ("delta", "delta_ema"):
        straight, cut = (read(tmp_path / run / f"weights/{name}.safetensors") for run in ("straight", "cut"))
        assert all(np.array_equal(straight[key], cut[key]) for key in straight)
    with pytest.raises(UserError, match="train.lora"):
        train.main(arguments(tmp_path / "cut", *common, "train.resume=latest", "train.lora.alpha=1"))


def test_merging_the_trained_temporal_layers_is_the_full_model(arguments, checkpoint, model_path, tmp_path):
    for kind in ("delta", "full"):
        train.main(arguments(tmp_path / kind, f"train.save={kind}"))
    merge(model_path, checkpoint, tmp_path / "delta/weights/delta.safetensors", tmp_path / "merged.safetensors")
    full, together = read(tmp_path / "full/weights/full.safetensors"), read(tmp_path / "merged.safetensors")
    assert all(np.array_equal(full[name], together[name]) for name in full)


def test_merging_never_replaces_an_input(checkpoint, model_path, tmp_path):
    delta = tmp_path / "delta.safetensors"
    save_file({"x": np.ones(1, np.float32)}, delta)
    for path in (checkpoint, delta):
        with pytest.raises(UserError, match="would replace"):
            merge(model_path, checkpoint, delta, path)


def test_the_product_is_scaled_by_alpha_over_rank():
    random = np.random.default_rng(0)
    weight, down, up = (random.standard_normal(shape, np.float32) for shape in ((3, 4), (2, 4), (3, 2)))
    np.testing.assert_allclose(merged(weight, down, up, 6.0), weight + 3 * up @ down, rtol=1e-5)


@pytest.mark.parametrize("down, up", [((2, 5), (3, 2)), ((2, 32), (32, 3)), ((32,), (32, 2))])
def test_parts_that_do_not_fit_are_refused(checkpoint, model_path, tmp_path, down, up):
    weights = Weights(load_model_config(model_path), checkpoint)
    layer = next(name for name in weights.sources if name.endswith("attn1.to_q.weight"))[: -len(".weight")]
    path = tmp_path / "bad.safetensors"
    save_file(
        {f"{layer}.lora_down.weight": np.ones(down, np.float32), f"{layer}.lora_up.weight": np.ones(up, np.float32)},
        path,
    )
    with pytest.raises(UserError, match="does not fit this model"):
        apply_delta(weights.load("unet"), path)


@pytest.mark.parametrize(
    "option, words",
    [
        ("train.lora.targets=[to_x]", "each must be one of to_q, to_k"),
        ("train.lora.rank=-1", "at least 0"),
    ],
)
def test_bad_settings(arguments, tmp_path, option, words):
    with pytest.raises(UserError, match=words):
        train.main(arguments(tmp_path / "run", option))


def test_a_dry_run_counts_what_lora_trains(arguments, tmp_path, capsys):
    train.main([*arguments(tmp_path / "run", *LORA, "train.lora.targets=[to_q]"), "--dry_run"])
    # one transformer of 32 channels in the middle block: two attentions, rank 2 times 32 in and 32 out
    assert f"{2 * 2 * 64:>15,}  in all" in capsys.readouterr().out
