import numpy as np
import pytest
from safetensors.numpy import load_file

from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.writer import write_safetensors
from gm.errors import UserError


def arrays():
    generator = np.random.default_rng(0)
    return {
        "half": generator.standard_normal((3, 5)).astype(np.float16),
        "scalar": np.array(4.5, np.float32),
        "wide": generator.standard_normal((2, 3, 3, 1, 1)),
        "empty": np.zeros((0, 4), np.float32),
        "count": np.arange(7, dtype=np.int64),
        "flag": np.array([True, False, True]),
    }


def write(path, tensors, **options):
    entries = [(name, array.shape, array.dtype) for name, array in tensors.items()]
    return write_safetensors(path, entries, tensors.__getitem__, **options)


def assert_same(found, wanted):
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_the_formats_own_library_reads_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    written = []
    size = write(path, arrays(), metadata={"source": "x"}, progress=written.append)
    assert_same(load_file(path), arrays())
    assert size == path.stat().st_size
    assert sum(written) == sum(array.nbytes for array in arrays().values())


def test_our_reader_reads_the_file_in_place(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, arrays())
    with open_checkpoint(path) as checkpoint:
        found = {name: checkpoint.read(name) for name in checkpoint.names()}
    assert_same(found, arrays())
    assert all(array.base is not None for array in found.values() if array.size)  # views of the map: all are aligned


def test_mindspore_reads_the_file(tmp_path):
    import mindspore

    tensors = {name: array for name, array in arrays().items() if array.dtype.kind == "f" and array.size}
    path = tmp_path / "a.safetensors"
    write(path, tensors)
    found = mindspore.load_checkpoint(str(path), format="safetensors")
    assert_same({name: parameter.asnumpy() for name, parameter in found.items()}, tensors)


def test_a_non_contiguous_array_is_written_in_order(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write(tmp_path / "a.safetensors", {"t": array})
    np.testing.assert_array_equal(load_file(tmp_path / "a.safetensors")["t"], array)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")

    def read(name):
        if name == "b":
            raise KeyboardInterrupt
        return np.zeros(3, np.float32)

    with pytest.raises(KeyboardInterrupt):
        write_safetensors(path, [("a", (3,), np.float32), ("b", (3,), np.float32)], read)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("array", [np.zeros(4, np.float32), np.zeros(3, np.float16)])
def test_an_array_that_differs_from_its_announcement_is_refused(tmp_path, array):
    with pytest.raises(ValueError, match="announced"):
        write_safetensors(tmp_path / "a.safetensors", [("a", (3,), np.float32)], lambda name: array)
    assert not list(tmp_path.iterdir())


def test_a_name_that_comes_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="two tensors"):
        write_safetensors(tmp_path / "a.safetensors", [("a", (1,), np.float32)] * 2, lambda name: np.zeros(1))


def test_a_full_disk_is_told_before_anything_is_written(tmp_path):
    def read(name):
        raise AssertionError("must not be called")

    with pytest.raises(UserError, match="not enough disk space"):
        write_safetensors(tmp_path / "a.safetensors", [("a", (2**50,), np.float32)], read)
    assert not list(tmp_path.iterdir())
