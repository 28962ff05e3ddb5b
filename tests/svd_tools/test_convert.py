import json
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gm.checkpoint.conversion import convert
from gm.errors import UserError, run_cli
from svd_tools.convert import main

UNUSED = "conditioner.embedders.3.encoder.decoder.conv_in.weight"


@pytest.fixture
def weights():
    generator = np.random.default_rng(3)
    return {
        "model.diffusion_model.out.0.weight": generator.standard_normal(4).astype(np.float32),
        "model.diffusion_model.out.2.weight": generator.standard_normal((2, 4, 3, 3)).astype(np.float16),
        "first_stage_model.decoder.conv_out.time_mix_conv.weight": generator.standard_normal((3, 3, 3, 1, 1)),
    }


@pytest.fixture
def expected(weights):
    return {name: array.shape for name, array in weights.items()}


@pytest.fixture
def source(tmp_path, weights):
    path = tmp_path / "in" / "svd.safetensors"
    path.parent.mkdir()
    save_file({**weights, UNUSED: np.zeros(9, np.float32)}, path)
    return path


@pytest.fixture
def command(monkeypatch, expected, source, tmp_path):
    """Run the command line on the small model; returns its exit status."""
    model = types.ModuleType("gm.model")
    model.expected_parameters = {"small.yaml": expected}.__getitem__
    model.load_model_config = {"small.yaml": None}.__getitem__  # asked about folders of diffusers alone
    monkeypatch.setitem(sys.modules, "gm.model", model)

    def run(*options, weights_file=source):
        fixed = ["--pt_weights_file", str(weights_file), "--config", "small.yaml", "--out_dir", str(tmp_path / "out")]
        with pytest.raises(SystemExit) as ended:
            run_cli(main, [*fixed, *options])
        return ended.value.code

    return run


def files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def assert_error(capsys, *texts):
    error = capsys.readouterr().err
    assert "Traceback" not in error
    message = error[error.index("error: ") :]
    for text in texts:
        assert text in message


def test_the_command_writes_the_used_keys_and_says_what_it_did(command, weights, tmp_path, capsys):
    assert command() == 0
    found = load_file(tmp_path / "out" / "svd.safetensors")
    assert set(found) == set(weights)
    for name, array in weights.items():
        wanted = array.astype(np.float32) if array.dtype == np.float64 else array
        assert found[name].dtype == wanted.dtype
        np.testing.assert_array_equal(found[name], wanted)
    report = capsys.readouterr().out
    assert "3 keys mapped" in report and "1 keys dropped: decoder of the conditioning autoencoder" in report
    assert re.search(r"svd\.safetensors: float16, float32, 0\.000 GB, [\d.]+ s", report)
    assert files(tmp_path / "out") == ["svd.safetensors"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_output_type_can_be_chosen(command, weights, tmp_path, dtype):
    assert command("--dtype", dtype) == 0
    found = load_file(tmp_path / "out" / "svd.safetensors")
    for name, array in weights.items():
        assert found[name].dtype == dtype
        np.testing.assert_array_equal(found[name], array.astype(dtype))


def test_mindspores_own_format(command, weights, tmp_path):
    import mindspore

    assert command("--format=ckpt", "--dtype=float32") == 0
    assert files(tmp_path / "out") == ["svd.ckpt"]
    found = mindspore.load_checkpoint(str(tmp_path / "out" / "svd.ckpt"))
    assert set(found) == set(weights)
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name].asnumpy(), array.astype(np.float32))


def test_a_converted_file_converts_to_itself(source, expected, tmp_path):
    once = convert(source, expected, tmp_path / "once")
    twice = convert(once, expected, tmp_path / "twice")
    first, second = load_file(once), load_file(twice)
    assert set(first) == set(second) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(first[name], second[name])


def test_a_missing_key_is_refused_and_nothing_written(command, weights, tmp_path, capsys):
    lost = "model.diffusion_model.out.0.weight"
    del weights[lost]
    save_file(weights, tmp_path / "bad.safetensors")
    assert command(weights_file=tmp_path / "bad.safetensors") == 1
    assert_error(capsys, "1 key missing", lost, "bad.safetensors")
    assert files(tmp_path / "out") == []


def test_a_truncated_file_is_refused_and_nothing_written(command, source, tmp_path, capsys):
    source.write_bytes(source.read_bytes()[:-10])
    assert command() == 1
    assert_error(capsys, "is truncated", "svd.safetensors")
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("file_format", ["safetensors", "ckpt"])
@pytest.mark.parametrize("value", [65_505.0, -1e30, np.inf])
def test_float16_overflow_is_refused_and_names_the_tensor(
    command, source, weights, tmp_path, capsys, file_format, value
):
    name = "model.diffusion_model.out.0.weight"
    weights[name][1:3] = value, np.nan
    save_file(weights, source)
    assert command("--dtype=float16", "--format", file_format) == 1
    assert_error(capsys, name, "--dtype=float32", "65504")
    assert files(tmp_path / "out") == []


def test_the_largest_float16_number_is_kept(command, source, weights, tmp_path):
    name = "model.diffusion_model.out.0.weight"
    weights[name][0] = -65504.0
    save_file(weights, source)
    assert command("--dtype=float16") == 0
    assert load_file(tmp_path / "out" / "svd.safetensors")[name][0] == -65504.0


def test_values_that_are_not_finite_are_warned_of(command, source, weights, tmp_path, capsys):
    name = "model.diffusion_model.out.2.weight"
    weights[name][0, 0, 0, 0] = np.nan
    save_file(weights, source)
    assert command() == 0
    error = capsys.readouterr().err
    assert f"warning: {name} holds values that are not finite" in error and error.count("warning") == 1


def test_an_existing_output_is_kept_unless_overwrite_is_given(command, tmp_path, capsys):
    output = tmp_path / "out" / "svd.safetensors"
    output.parent.mkdir()
    output.write_bytes(b"precious")
    assert command() == 1
    assert_error(capsys, "--overwrite", str(output))
    assert output.read_bytes() == b"precious"
    assert command("--overwrite") == 0
    assert len(load_file(output)) == 3


def test_the_input_is_never_overwritten(source, expected):
    before = source.read_bytes()
    with pytest.raises(UserError, match="would replace the input"):
        convert(source, expected, source.parent, overwrite=True)
    assert source.read_bytes() == before


def test_no_file_that_is_read_is_overwritten(source, weights, expected, tmp_path):
    """The base, and a shard: both may be called as the output is."""
    unet = {name: array for name, array in weights.items() if name.startswith("model.diffusion_model.")}
    (tmp_path / "unet").mkdir()
    save_file(unet, tmp_path / "unet/svd.safetensors")
    names = list(weights)
    places = {name: "svd.safetensors" if i else "rest.safetensors" for i, name in enumerate(names)}
    (tmp_path / "shards").mkdir()
    for file in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == file}, tmp_path / "shards" / file)
    index = tmp_path / "shards/svd.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    for given, base, read in (
        (tmp_path / "unet/svd.safetensors", source, source),
        (index, None, tmp_path / "shards/svd.safetensors"),
    ):
        before = read.read_bytes()
        with pytest.raises(UserError, match=f"would replace the input {read}"):
            convert(given, expected, read.parent, overwrite=True, base=base)
        assert read.read_bytes() == before


def test_a_link_to_nothing_stays(source, expected, tmp_path):
    """Such as one into a disk that is not there today."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/svd.safetensors").symlink_to(tmp_path / "absent/svd.safetensors")
    with pytest.raises(UserError, match="is already there"):
        convert(source, expected, tmp_path / "out")
    assert (tmp_path / "out/svd.safetensors").is_symlink()


def test_an_output_folder_that_cannot_be_made_is_refused(source, expected, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the output folder"):
        convert(source, expected, tmp_path / "file" / "out")


def test_unknown_options_end_without_a_traceback(command, capsys):
    assert command("--format=onnx") == 2
    assert "Traceback" not in capsys.readouterr().err


MEASURE = """
import sys
from gm.checkpoint.conversion import convert

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

before = peak()
convert(sys.argv[1], {f"w{index}": (1024, 1024) for index in range(100)}, sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_one_tensor_at_a_time_is_in_memory(tmp_path):
    """100 tensors of 2 MB: resident memory, the mapped pages included, grows by a few tensors only."""
    size = 2 * 1024 * 1024
    fields = {
        f"w{index}": {"dtype": "F16", "shape": [1024, 1024], "data_offsets": [index * size, (index + 1) * size]}
        for index in range(100)
    }
    header = json.dumps(fields).encode()
    path = tmp_path / "big.safetensors"
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(file.tell() + 100 * size)  # a sparse file of zeros
    child = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "out")], stdout=subprocess.PIPE, check=True, text=True
    )
    assert int(child.stdout.splitlines()[-1]) < 30e6
