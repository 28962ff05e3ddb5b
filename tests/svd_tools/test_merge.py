"""Putting changes into a whole model: nothing wrong is written, and nothing is overwritten unasked."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gm.checkpoint.conversion import convert
from gm.errors import UserError
from gm.model import expected_parameters
from svd_tools.make_untrained import write_untrained
from svd_tools.merge import main, merge
from tests.untrained import CONFIG, untrained  # noqa: F401

UNET = "model.diffusion_model."
NAME = f"{UNET}middle_block.1.proj_in.weight"


@pytest.fixture
def delta(tmp_path):
    def write(value, name="delta.safetensors", **metadata):
        save_file({NAME: np.full((64, 64), value, np.float32)}, tmp_path / name, metadata or None)
        return tmp_path / name

    return write


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_written(untrained, delta, tmp_path, value):  # noqa: F811
    with pytest.raises(UserError, match="not finite"):
        merge(CONFIG, untrained, delta(value), tmp_path / "out.safetensors")
    tensors = load_file(untrained)
    tensors[f"{UNET}out.2.bias"][0] = value
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(UserError, match=r"out\.2\.bias in .*broken.safetensors is not finite"):
        merge(CONFIG, tmp_path / "broken.safetensors", delta(1.0), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_what_float16_cannot_hold_is_not_written(untrained, delta, tmp_path):  # noqa: F811
    half = {name: array.astype(np.float16) for name, array in load_file(untrained).items()}
    save_file(half, tmp_path / "half.safetensors")
    arguments = CONFIG, tmp_path / "half.safetensors", delta(70_000.0), tmp_path / "out.safetensors"
    with pytest.raises(UserError, match="beyond the largest float16 number 65504: merge with --dtype=float32"):
        merge(*arguments)
    assert not (tmp_path / "out.safetensors").exists()
    merge(*arguments, dtype="float32")
    found = load_file(tmp_path / "out.safetensors")
    assert (found[NAME] == 70_000).all() and found[f"{UNET}out.2.bias"].dtype == np.float32


def test_a_file_that_is_there_stays_unless_overwrite_is_given(untrained, delta, tmp_path):  # noqa: F811
    output = tmp_path / "out.safetensors"
    output.write_bytes(b"precious")
    for write in (
        lambda **more: merge(CONFIG, untrained, delta(1.0), output, **more),
        lambda **more: write_untrained(CONFIG, output, **more),
    ):
        with pytest.raises(UserError, match="is already there: delete it, choose another name or add --overwrite"):
            write()
        assert output.read_bytes() == b"precious"
        write(overwrite=True)
        assert load_file(output)
        output.write_bytes(b"precious")
    with pytest.raises(UserError, match="name a file in it"):
        merge(CONFIG, untrained, delta(1.0), tmp_path, overwrite=True)
    for path in (untrained, delta(1.0)):
        with pytest.raises(UserError, match="would replace"):
            merge(CONFIG, untrained, delta(1.0), path, overwrite=True)


def test_files_within_a_folder_that_was_given_are_not_overwritten(untrained, delta, tmp_path):  # noqa: F811
    folder = convert(untrained, expected_parameters(CONFIG), tmp_path / "theirs", to="diffusers")
    lora = tmp_path / "lora"
    lora.mkdir()
    inside = delta(1.0).rename(lora / "adapter_model.safetensors")
    for path in (folder / "unet/diffusion_pytorch_model.safetensors", inside):
        before = path.read_bytes()
        with pytest.raises(UserError, match=f"would replace the input {path}"):
            merge(CONFIG, folder, lora, path, overwrite=True)
        assert path.read_bytes() == before


def test_several_changes_with_strengths_by_the_command_line(untrained, delta, tmp_path, capsys):  # noqa: F811
    text = f"[{delta(3.0, 'a.safetensors')}:0.5,{delta(1.0, 'b.safetensors')}:-1]"
    output = tmp_path / "o.safetensors"
    main([f"--config={CONFIG}", f"--checkpoint={untrained}", f"--delta={text}", f"--output={output}"])
    before, after = load_file(untrained)[NAME], load_file(output)[NAME]
    np.testing.assert_allclose(after, before + 0.5 * (3 - before) - (1 - before), rtol=1e-5, atol=1e-6)
    assert capsys.readouterr().err.count("whether it belongs to this model is not known") == 2


def test_the_wrong_config_and_files_in_each_others_place(untrained, delta, tmp_path):  # noqa: F811
    path = delta(1.0, format="svd-mindspore delta", base_name="svd.safetensors")
    for arguments, words in (
        ((CONFIG.parent / "svd_tiny.yaml", untrained, path), "is the config the right one"),
        ((CONFIG, path, path), "This is the trained part of a model alone"),
        ((CONFIG, untrained, untrained), "It is a whole checkpoint: give it as --SVD.checkpoint"),
    ):
        with pytest.raises(UserError, match=words):
            merge(*arguments, tmp_path / "out.safetensors")
