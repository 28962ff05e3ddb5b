import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gm.checkpoint import mapped
from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.mapped import StoredTensor
from gm.errors import UserError


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def refusal(path):
    with pytest.raises(UserError) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def tensors():
    generator = np.random.default_rng(1)
    return {
        "a.weight": generator.standard_normal((4, 3)).astype(np.float32),
        "b": generator.standard_normal(5).astype(np.float16),
        "c": generator.standard_normal((2, 1, 2)),
        "n": np.arange(3, dtype=np.int64),
        "s": np.array(2.5, np.float32),
    }


@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt", "x"])
def test_safetensors_is_known_by_content_and_read_in_place(tmp_path, tensors, name):
    save_file(tensors, tmp_path / name, metadata={"format": "np"})
    with open_checkpoint(tmp_path / name) as checkpoint:
        assert set(checkpoint.names()) == set(tensors)
        for key, wanted in tensors.items():
            found = checkpoint.read(key)
            assert checkpoint.shape(key) == wanted.shape == found.shape
            assert checkpoint.dtype(key) == wanted.dtype == found.dtype
            np.testing.assert_array_equal(found, wanted)
            assert found.flags.writeable and found.flags.c_contiguous and found.flags.aligned


def test_arrays_outlive_the_checkpoint_and_never_alter_the_file(tmp_path, tensors):
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    before = path.read_bytes()
    with open_checkpoint(path) as checkpoint:
        array = checkpoint.read("a.weight")
        checkpoint.release()
        again = checkpoint.read("a.weight")
    array += 1
    np.testing.assert_array_equal(again, tensors["a.weight"])
    assert path.read_bytes() == before


def test_mindspore_takes_the_array_without_a_copy(tmp_path, tensors):
    import mindspore

    save_file(tensors, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        array = checkpoint.read("a.weight")
    tensor = mindspore.Tensor.from_numpy(array)
    array[0, 0] = 42.0
    assert tensor.asnumpy()[0, 0] == 42.0


def test_bfloat16_is_widened_exactly(tmp_path):
    wanted = np.array([1.0, -2.5, 3.140625, 0.0, np.inf, 2.0**-130], np.float32)
    bits = (wanted.view(np.uint32) >> 16).astype("<u2")
    header = {"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}
    (tmp_path / "x").write_bytes(safetensors_bytes(header, bits.tobytes()))
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert checkpoint.dtype("w") == np.float32
        np.testing.assert_array_equal(checkpoint.read("w"), wanted.reshape(2, 3))
        checkpoint.copy_to("w", out := np.zeros((2, 3), np.float32), np.copyto)
        np.testing.assert_array_equal(out, wanted.reshape(2, 3))


def test_unaligned_tensors_are_copied(tmp_path):
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    (tmp_path / "x").write_bytes(safetensors_bytes(header, b"\0" + np.array([1, 2], "<f4").tobytes()))
    with open_checkpoint(tmp_path / "x") as checkpoint:
        array = checkpoint.read("b")
    assert array.flags.aligned and array.tolist() == [1, 2]


@pytest.mark.parametrize("missing", [1, 40, "in the header"])
def test_a_truncated_file_is_told_with_both_sizes(tmp_path, tensors, missing):
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    data = path.read_bytes()
    kept = 30 if missing == "in the header" else len(data) - missing
    path.write_bytes(data[:kept])
    message = refusal(path)
    assert f"is truncated: has {kept} bytes" in message and "copy or download it again" in message
    if missing != "in the header":
        assert f"its header says {len(data)}:" in message


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header, text",
    [
        (b"{not json   ", "header is damaged"),
        (b"{" + b'"a":[' * 100_000, "header is damaged"),
        ({"w": {"shape": [2], "data_offsets": [0, 8]}}, "header is damaged"),
        ({"w": {**GOOD, "shape": [-2]}}, "header is damaged"),
        ({"w": {**GOOD, "shape": 2}}, "header is damaged"),
        ({"w": {**GOOD, "data_offsets": [0, "8"]}}, "header is damaged"),
        ({"w": {**GOOD, "data_offsets": [0, 8, 9]}}, "header is damaged"),
        ({"w": {**GOOD, "shape": [3]}}, "wrong place or size for w"),
        ({"w": GOOD, "v": GOOD}, "wrong place or size for"),
        ({"w": {**GOOD, "dtype": "F8_E4M3"}}, "w has the type F8_E4M3"),
        ({"__metadata__": ["a"], "w": GOOD}, "header is damaged"),
        ({"__metadata__": "text", "w": GOOD}, "header is damaged"),
        ({"__metadata__": {"a": 1}, "w": GOOD}, "header is damaged"),
        ({"w": {**GOOD, "shape": [10**30, 0], "data_offsets": [0, 0]}}, "header is damaged"),
        ({"w": {**GOOD, "shape": [1] * 60}}, "header is damaged"),
        ({"w": {**GOOD, "shape": [1], "data_offsets": [0, 4]}}, "has 78 bytes"),
    ],
)
def test_a_damaged_safetensors_header_is_refused(tmp_path, header, text):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors_bytes(header, bytes(8)))
    if "78" in text:
        text = f"has {path.stat().st_size} bytes, its header says {path.stat().st_size - 4}"
    assert text in refusal(path)


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "is empty"),
        (b"hello, I am a text file", "is not a checkpoint but a text. It begins: hello, I am"),
        (b"\x01\x02 something unknown", "not a checkpoint that can be read"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "before torch 1.6"),
        (b"PK\x03\x04" + bytes(50), "truncated or damaged"),
        (b"abcdefg\0{", "is not a safetensors file"),
    ],
)
def test_other_files_are_refused(tmp_path, content, text):
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    assert text in refusal(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "no such checkpoint" in refusal(tmp_path / "none.safetensors")
    assert "name the checkpoint file itself" in refusal(tmp_path)


def test_mindspores_own_format_is_read(tmp_path, tensors):
    import mindspore

    path = tmp_path / "x.ckpt"
    floats = {name: tensors[name] for name in ("a.weight", "b")}
    parameters = [{"name": name, "data": mindspore.Tensor(array)} for name, array in floats.items()]
    parameters.append({"name": "bf", "data": mindspore.Tensor([1.5, -2.0], mindspore.bfloat16)})
    mindspore.save_checkpoint(parameters, str(path))
    with open_checkpoint(path) as checkpoint:
        assert set(checkpoint.names()) == {*floats, "bf"}
        for name, wanted in floats.items():
            assert checkpoint.shape(name) == wanted.shape and checkpoint.dtype(name) == wanted.dtype
            np.testing.assert_array_equal(checkpoint.read(name), wanted)
        assert checkpoint.dtype("bf") == np.float32 and checkpoint.read("bf").tolist() == [1.5, -2.0]


def test_a_ckpt_of_unknown_content_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"\x0a\x05hello this is no protobuf")
    assert "neither a PyTorch file nor a MindSpore checkpoint" in refusal(path)


def test_a_copy_in_another_dtype(tmp_path, monkeypatch):
    """In pieces, from a mapped file and from MindSpore's own format, which is not mapped."""
    import mindspore

    monkeypatch.setattr(mapped, "_PIECE", 1000)
    array = np.random.default_rng(0).standard_normal((3, 700)).astype(np.float16)
    save_file({"t": array, "one": np.float16([1.5]), "none": np.zeros((0, 4), np.float16)}, tmp_path / "x.safetensors")
    mindspore.save_checkpoint([{"name": "t", "data": mindspore.Tensor(array)}], str(tmp_path / "x.ckpt"))
    for name in ("x.safetensors", "x.ckpt"):
        with open_checkpoint(tmp_path / name) as checkpoint:
            out = np.zeros((3, 700), np.float32)
            checkpoint.copy_to("t", out, np.copyto)
            np.testing.assert_array_equal(out, array)
    with open_checkpoint(tmp_path / "x.safetensors") as checkpoint:
        one, none = np.zeros((), np.float32), np.zeros((0, 4), np.float32)
        checkpoint.copy_to("one", one, np.copyto)
        checkpoint.copy_to("none", none, np.copyto)
        assert one == 1.5


@pytest.mark.parametrize("change", ["cut off", "another of the same size", "gone"])
def test_a_file_that_is_not_the_same_when_it_is_opened_again(tmp_path, change):
    path, other = tmp_path / "x.safetensors", tmp_path / "other.safetensors"
    save_file({"t": np.ones(9000, np.float16)}, path)
    save_file({"t": np.zeros(9000, np.float16)}, other)
    with open_checkpoint(path) as checkpoint:
        if change == "cut off":
            path.write_bytes(path.read_bytes()[:5000])
        elif change == "gone":
            path.unlink()
        else:
            other.replace(path)
        words = "cannot read the checkpoint" if change == "gone" else "was replaced or changed while it was in use"
        with pytest.raises(UserError, match=words):
            checkpoint.copy_to("t", np.zeros(9000, np.float32), np.copyto)
        with pytest.raises(UserError, match=words):
            checkpoint.read("t")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9559625980\n"
HTML = b'\n<!DOCTYPE html>\n<html class=""><head><title>Access denied</title></head></html>' + b" " * 5000


@pytest.mark.parametrize(
    "content, what",
    [
        (LFS, "a Git LFS pointer"),
        (HTML, "an HTML page"),
        (b"<html>" + bytes("ä" * 3000, "utf-8"), "an HTML page"),
        (b'{"error":"Access to model is restricted"}', "a JSON text"),
        (b'{\n  "message": "Not Found"\n}', "a JSON text"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML text"),
        (b"Invalid username or password.", "a text"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "a packed archive"),
        (b"svd.safetensors" + bytes(242) + b"ustar\x0000", "a tar archive"),
        (b"\x89PNG\r\n\x1a\n", "a picture or a video"),
        (bytes(5000), "zeros, as an interrupted download"),
    ],
)
@pytest.mark.parametrize("name", ["svd.safetensors", "svd.ckpt"])
def test_a_failed_download_is_called_what_it_is(tmp_path, content, what, name):
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(path)
    assert f"{path} is not a checkpoint but {what}" in message and "torch.load" not in message
    if what in ("an HTML page", "a JSON text", "a text"):
        assert "It begins: " in message and "Download it again" in message


@pytest.mark.parametrize("length", [0x227B, 0x0A5B, 0x685A42])
def test_a_header_whose_length_begins_like_another_format_is_read(tmp_path, length):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
    (tmp_path / "x").write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    with open_checkpoint(tmp_path / "x") as checkpoint:
        assert checkpoint.read("w").tolist() == [0]


def test_a_device_or_a_pipe_is_refused_without_reading_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "device, pipe or socket" in refusal(tmp_path / "pipe")
    assert "device, pipe or socket" in refusal(Path("/dev/zero"))


def test_metadata_of_the_header(tmp_path):
    for value, wanted in ((None, {}), ({"a": "b"}, {"a": "b"})):
        (tmp_path / "x").write_bytes(safetensors_bytes({"__metadata__": value, "w": GOOD}, bytes(8)))
        with open_checkpoint(tmp_path / "x") as checkpoint:
            assert checkpoint.metadata == wanted


def test_text_in_mindspores_format_is_left_aside(tmp_path):
    import mindspore

    weights = [{"name": "w", "data": mindspore.Tensor(np.ones(2, np.float32))}]
    mindspore.save_checkpoint(weights, str(tmp_path / "x.ckpt"), append_dict={"note": "hello", "epoch": 3, "rate": 0.5})
    with open_checkpoint(tmp_path / "x.ckpt") as checkpoint:
        assert "w" in checkpoint.names() and "note" not in checkpoint.names() and "note" in checkpoint.ignored
        assert all(isinstance(checkpoint.read(name), np.ndarray) for name in checkpoint.names())


@pytest.mark.parametrize(
    "shape, strides, span",
    [
        ((2, 3), None, 6),
        ((2, 3), (3, 1), 6),
        ((3, 2), (1, 3), 6),
        ((2, 2), (8, 2), 11),
        ((4,), (0,), 1),
        ((), (), 1),
        ((0, 3), (3, 1), 0),
    ],
)
def test_how_much_of_the_file_a_tensor_takes(shape, strides, span):
    """One element less and the last would be read from beyond what was looked at."""
    assert StoredTensor(shape, np.dtype(np.float32), np.dtype(np.float32), 0, strides).span == span
