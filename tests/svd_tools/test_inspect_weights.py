"""What the tool says of files, and of what training changed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from gm.errors import UserError
from svd_tools.inspect_weights import main
from tests.checkpoint.layouts import original, write_folder
from tests.checkpoint.test_lora import halves, kohya, write  # noqa: F401

UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def arrays():
    return original(5)


@pytest.fixture(scope="module")
def svd(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("svd") / "svd.safetensors"
    save_file(arrays, path, {"origin": "a test"})
    return path


def shown(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_one_file(svd, arrays, tmp_path, capsys):
    text = shown(capsys, svd)
    total = sum(array.size for array in arrays.values())
    temporal = sum(
        array.size
        for name, array in arrays.items()
        if any(part in name for part in (".time_stack.", ".time_pos", ".time_mix"))
    )
    assert "original naming (UNet, VAE, image encoder), float32" in text and "video decoder (svd, svd_xt" in text
    assert f"2446 tensors, {total:,} values, {temporal / total:.1%} of them" in text
    assert "not used by SVD: 146 tensors" in text and "metadata origin: a test" in text
    assert "0 tensors with NaN" in text
    blocks = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| UNet input_blocks.")]
    assert blocks == [f"UNet input_blocks.{i}" for i in range(12)]
    assert "diffusers folder" in shown(capsys, write_folder(tmp_path / "svd", arrays))


def test_values_that_are_not_finite_are_counted(arrays, tmp_path, capsys):
    name = UNET + "input_blocks.1.0.in_layers.2.weight"
    bad = arrays[name].copy()
    bad.flat[:3], bad.flat[5] = np.nan, -np.inf
    save_file({**arrays, name: bad}, tmp_path / "x.safetensors")
    text = shown(capsys, tmp_path / "x.safetensors")
    assert f"1 tensors with NaN or infinite values:\n  {name}: 3 NaN, 1 infinite" in text


def test_what_training_changed_by_module_and_kind(svd, arrays, tmp_path, capsys):
    block = UNET + "output_blocks.5."
    trained = {
        name: array * np.float32(1.25) if name.startswith(block) and ".time_stack." in name else array
        for name, array in arrays.items()
        if name.startswith(UNET)
    }
    save_file({f"module.{name}": array for name, array in trained.items()}, tmp_path / "mine.safetensors")
    text = shown(capsys, svd, tmp_path / "mine.safetensors", f"--picture={tmp_path / 'p.png'}")
    row = next(line for line in text.splitlines() if line.startswith("| UNet output_blocks.5 |"))
    squares = {name: (array**2).sum() for name, array in arrays.items() if name.startswith(block)}
    whole, temporal = sum(squares.values()), sum(square for name, square in squares.items() if ".time_stack." in name)
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert float(cells[2]) == pytest.approx(0.25 * (temporal / whole) ** 0.5, rel=0.02)
    # time_mixer and time_pos_embed count as temporal too, and were not changed
    assert 0.2 < float(cells[3]) <= 0.25 and float(cells[4]) == 0
    assert "| UNet output_blocks.4 | 0 of" in text and "tensors before only" in text
    assert Image.open(tmp_path / "p.png").size[0] > 500


def test_a_lora_and_wrong_use(svd, halves, tmp_path, capsys):  # noqa: F811
    lora = write(tmp_path / "lora.safetensors", halves, kohya)
    assert "a LoRA in kohya's naming for 4 layers" in shown(capsys, lora)
    for arguments, words in (
        ([svd, lora], "is a LoRA: merge it"),
        ([svd, svd, svd], "name one, or two"),
        ([svd, "--picture=x.png"], "name two files"),
    ):
        with pytest.raises(UserError, match=words):
            main([str(argument) for argument in arguments])
    for path in (svd, tmp_path / "copy.safetensors"):
        shutil.copy(svd, tmp_path / "copy.safetensors")
        with pytest.raises(UserError, match="would replace the input"):
            main([str(svd), str(tmp_path / "copy.safetensors"), f"--picture={path}"])
