"""PyTorch files made by hand, because the tests run without torch; the layout is that of torch 2.13."""

import collections
import os
import pickle
import resource
import sys
import types
import zipfile

import numpy as np
import pytest

from gm.checkpoint.formats import open_checkpoint
from gm.errors import UserError


class StorageRef:
    """Pickled as a persistent id, as torch does with the storage of a tensor."""

    def __init__(self, kind, key, length):
        self.pid = ("storage", kind, key, "cpu", length)


class Call:
    """Pickled as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class TorchPickler(pickle._Pickler):
    def persistent_id(self, item):
        return item.pid if isinstance(item, StorageRef) else None


@pytest.fixture
def torch(monkeypatch):
    """Modules with torch's names, so that the pickle of their functions refers to torch."""
    root, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for module, names in (
        (utils, ["_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_tensor_v3"]),
        (root, ["FloatStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage", "LongStorage", "Size"]),
    ):
        for name in names:
            body = {"__module__": module.__name__, "__init__": lambda self, *arguments: None}
            setattr(module, name, type(name, (), body))
    monkeypatch.setitem(sys.modules, "torch", root)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    root._utils = utils
    return root


def tensor(torch, key, kind, length, shape, strides, offset=0, marks=()):
    storage = StorageRef(getattr(torch, kind), key, length)
    hooks = collections.OrderedDict()
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, hooks, *marks)


def write(path, content, storages, byteorder=b"little", compression=zipfile.ZIP_STORED, pickled=None):
    if pickled is None:
        with open(path, "wb+") as file:
            TorchPickler(file, protocol=2).dump(content)
            file.seek(0)
            pickled = file.read()
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(zipfile.ZipInfo("model/data.pkl"), pickled)
        archive.writestr("model/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"model/data/{key}", array.tobytes())
    return path


def refusal(path):
    with pytest.raises(UserError) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("wrapped", [False, True])
def test_tensors_of_every_layout_are_read(tmp_path, torch, wrapped):
    base = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    half = np.arange(5, dtype=np.float16)
    count = np.array([7], np.int64)
    state = collections.OrderedDict(
        whole=tensor(torch, "0", "FloatStorage", 24, (4, 6), (6, 1)),
        turned=tensor(torch, "0", "FloatStorage", 24, (6, 4), (1, 6)),
        part=tensor(torch, "0", "FloatStorage", 24, (2, 3), (12, 2), 6),
        spread=tensor(torch, "0", "FloatStorage", 24, (3, 6), (0, 1), 12),
        tail=tensor(torch, "1", "HalfStorage", 5, (2,), (1,), 3),
        scalar=tensor(torch, "2", "LongStorage", 1, (), ()),
        empty=tensor(torch, "3", "FloatStorage", 0, (0, 3), (3, 1)),
        parameter=Call(
            torch._utils._rebuild_parameter,
            tensor(torch, "1", "HalfStorage", 5, (5,), (1,)),
            True,
            collections.OrderedDict(),
        ),
        brain=tensor(torch, "4", "BFloat16Storage", 2, (2,), (1,)),
    )
    state._metadata = {"": {"version": 1}}  # a module's state dict carries this attribute
    content = {"epoch": 3, "state_dict": state, "size": Call(torch.Size, (1, 2))} if wrapped else state
    storages = {
        "0": base,
        "1": half,
        "2": count,
        "3": np.zeros(0, np.float32),
        "4": np.array([0x3FC0, 0xC000], "<u2"),
    }
    with open_checkpoint(write(tmp_path / "model.ckpt", content, storages)) as checkpoint:
        found = {name: checkpoint.read(name) for name in checkpoint.names()}
        copied = {name: np.zeros(array.shape) for name, array in found.items()}
        for name, out in copied.items():
            checkpoint.copy_to(name, out, np.copyto)
            np.testing.assert_array_equal(out, found[name])
        assert all(checkpoint.shape(name) == array.shape for name, array in found.items())
        assert all(checkpoint.dtype(name) == array.dtype for name, array in found.items())
        assert checkpoint.ignored == (("epoch", "size") if wrapped else ())
    wanted = {
        "whole": base,
        "turned": base.T,
        "part": base[1::2, :5:2],
        "spread": np.broadcast_to(base[2], (3, 6)),
        "tail": half[3:],
        "scalar": count.reshape(()),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": half,
        "brain": np.array([1.5, -2.0], np.float32),
    }
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype and found[name].flags.c_contiguous and found[name].flags.writeable


class Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path, torch, place):
    trace = tmp_path / "trace"
    good = tensor(torch, "0", "FloatStorage", 1, (1,), (1,))
    evil = Evil(f"touch {trace}")
    content = {"state_dict": {"a": good}, "x": evil} if place == "beside" else {"a": good, "b": evil}
    path = write(tmp_path / "model.ckpt", content, {"0": np.zeros(1, np.float32)})
    message = refusal(path)
    assert f"{os.system.__module__}.system" in message and "safetensors.torch.save_file" in message
    assert not trace.exists()
    with zipfile.ZipFile(path) as archive:  # the trap is armed: the ordinary unpickler falls into it
        unpickler = pickle.Unpickler(archive.open("model/data.pkl"))
        unpickler.persistent_load = lambda pid: None
        unpickler.load()
    assert trace.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"ctorch.nn.modules.linear\nLinear\n.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"ctorch._utils\n_rebuild_tensor_v3\n.",
        b"cgm.checkpoint.torch_pickle\n_PERMITTED\n.",
        b"ccollections\nOrderedDict.__init__\n.",
    ],
)
def test_names_that_are_not_permitted_are_refused(tmp_path, pickled):
    path = write(tmp_path / "x.pt", None, {}, pickled=pickled)
    assert "is refused: its pickle asks for" in refusal(path)


@pytest.mark.parametrize(
    "pickled",
    [
        b"ccollections\nOrderedDict\n}S'get'\nK\x01sb.",  # set an attribute of a stand-in class
        b"ctorch._utils\n_rebuild_tensor_v2\n}S'x'\nK\x01sb.",  # … of a stand-in function
        b"ctorch._utils\n_rebuild_tensor_v2\nN}S'__call__'\nK\x01s\x86b.",
        b"ctorch\nFloatStorage\n)R.",
        b"\x80\x02}q\x00U",
        b"K\x01Q.",
        b"r\xff\xff\xff\xff",
    ],
)
def test_broken_or_tampering_pickles_are_refused(tmp_path, pickled):
    path = write(tmp_path / "x.pt", None, {}, pickled=pickled)
    assert "its pickle is damaged" in refusal(path)


@pytest.mark.parametrize(
    "content, text",
    [
        ([1, 2], "not hold named tensors but a list"),
        ({"model": {"a": 1}, "lr": 0.1}, "not tensors: model, lr"),
        ({}, "but nothing"),
        ({"a": {"b": {"c": {}}}}, "not tensors: a"),
    ],
)
def test_files_without_named_tensors_are_refused(tmp_path, content, text):
    assert text in refusal(write(tmp_path / "x.pt", content, {}))


@pytest.mark.parametrize(
    "length, shape, strides, offset",
    [
        (8, (9,), (1,), 0),
        (8, (4,), (1,), 5),
        (8, (2, 2), (7, 2), 0),
        (8, (2,), (-1,), 4),
        (8, (2,), (1,), -1),
        (8, (2, 1), (1,), 0),
        (8, (2.0,), (1,), 0),
        (9, (2,), (1,), 0),
        (8, "ab", "ab", 0),
    ],
)
def test_a_tensor_that_reaches_beyond_its_data_is_refused(tmp_path, torch, length, shape, strides, offset):
    content = {"w": tensor(torch, "0", "FloatStorage", length, shape, strides, offset)}
    message = refusal(write(tmp_path / "x.pt", content, {"0": np.zeros(8, np.float32)}))
    assert "is damaged: w:" in message


def test_missing_or_compressed_data_are_refused(tmp_path, torch):
    content = {"w": tensor(torch, "0", "FloatStorage", 800, (800,), (1,))}
    assert "is damaged: w:" in refusal(write(tmp_path / "a.pt", content, {}))
    storages = {"0": np.zeros(800, np.float32)}
    assert "is damaged: w:" in refusal(write(tmp_path / "b.pt", content, storages, compression=zipfile.ZIP_DEFLATED))


def test_a_big_endian_file_is_refused(tmp_path, torch):
    content = {"w": tensor(torch, "0", "FloatStorage", 1, (1,), (1,))}
    path = write(tmp_path / "x.pt", content, {"0": np.zeros(1, np.float32)}, byteorder=b"big")
    assert "big-endian" in refusal(path)


def test_a_truncated_file_and_another_zip_are_refused(tmp_path, torch):
    content = {"w": tensor(torch, "0", "FloatStorage", 100, (100,), (1,))}
    path = write(tmp_path / "x.pt", content, {"0": np.zeros(100, np.float32)})
    path.write_bytes(path.read_bytes()[:300])
    assert "truncated or damaged" in refusal(path)
    np.savez(tmp_path / "y.npz", a=np.zeros(3))
    assert "not a PyTorch checkpoint" in refusal(tmp_path / "y.npz")


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "module", "model_state_dict"])
def test_weights_are_found_under_what_training_programs_wrap_them_in(tmp_path, torch, wrapper):
    inner = {"w": tensor(torch, "0", "FloatStorage", 4, (2,), (1,)), "note": "text"}
    mean = {"w": tensor(torch, "0", "FloatStorage", 4, (2,), (1,), 2)}
    content = {wrapper: inner, "ema": mean, "optimizer": {"state": {0: {"w": inner["w"]}}}, "epoch": 3}
    with open_checkpoint(write(tmp_path / "x.pt", content, {"0": np.arange(4, dtype=np.float32)})) as checkpoint:
        assert checkpoint.names() == ["w", "model_ema.w"]
        assert checkpoint.read("w").tolist() == [0, 1] and checkpoint.read("model_ema.w").tolist() == [2, 3]
        assert set(checkpoint.ignored) == {"optimizer", "epoch", "note"}


def test_a_tensor_beside_the_weights_is_not_taken_for_them(tmp_path, torch):
    """torch.save({"model": …, "loss": loss}), as PyTorch's own tutorial has it."""
    one, two = (tensor(torch, "0", "FloatStorage", 4, (2,), (1,), offset) for offset in (0, 2))
    path, storages = tmp_path / "x.pt", {"0": np.arange(4, dtype=np.float32)}
    for inner in ({"model": {"w": one, "v": two}}, {"ema": {"w": one}, "model": {"w": one, "v": two}}):
        found = open_checkpoint(write(path, {"loss": two, **inner}, storages))
        assert found.names()[:2] == ["w", "v"] and "loss" in found.ignored
    found = open_checkpoint(write(path, {"w": one, "v": two, "params": {"scale": one}}, storages))
    assert found.names() == ["w", "v"] and found.ignored == ("params",)


GLOBAL = b"ccollections\nOrderedDict\n"
DICT = b"\x80\x02}"


@pytest.mark.parametrize(
    "pickled, reason",
    [
        (DICT + b"N" + b"\x85" * 200_000 + b"K\x01s.", "nested more than 100 deep"),  # its hash: stack overflow
        (DICT + b"(" * 5 + b"N" * 3 + b"t" * 5 + b"K\x01s.", "a key of a dict"),
        (
            DICT
            + b"("
            + b"".join(
                b"\x8a\x08" + ((2**61 - 1) * k).to_bytes(8, "little", signed=True) + b"K\x01" for k in range(1, 5)
            )
            + b"u.",
            "a key of a dict",
        ),  # all in one place: time squared
        (DICT + b"r\x00\x00\x00\x7f.", "a note number 2130706432"),  # a table of 34 GB
        (b"\x80\x02]" + b"(" + b"K\x01" * 40 + b"l" + b"ctorch\nSize\n" + b"N\x85R.", "damaged"),
        (b"\x80\x02ctorch\nSize\n(" + b"K\x01" * 40 + b"l\x85R.", "too many axes"),
        (b"\x80\x02" + GLOBAL + b"]\x85R.", "damaged"),  # copies of long lists, again and again
        (b"\x80\x04\x8f(K\x01\x90.", "operation EMPTY_SET"),
        (b"\x80\x02I" + b"9" * 5000 + b"\n.", "damaged"),
        (b"\x80\x02]]a0.", "operation POP"),
        (b"\x80\x02N" * 3, "damaged"),
    ],
)
def test_pickles_made_to_crash_or_never_to_end_are_refused_before_they_run(tmp_path, pickled, reason):
    message = refusal(write(tmp_path / "x.pt", None, {}, pickled=pickled))
    assert "its pickle is damaged" in message and reason in message


def test_too_many_operations_are_refused(tmp_path, torch, monkeypatch):
    monkeypatch.setattr("gm.checkpoint.pickle_scan.MOST_OPERATIONS", 20)
    content = {f"w{i}": tensor(torch, "0", "FloatStorage", 4, (2,), (1,)) for i in range(3)}
    assert "more than 20 operations" in refusal(write(tmp_path / "x.pt", content, {}))


@pytest.mark.parametrize("zip64", [False, True])
def test_an_endless_list_of_members_is_refused_before_it_is_read(tmp_path, zip64):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\x05\x06")
    if zip64:
        record = b"PK\x06\x06" + bytes(36) + (2**40).to_bytes(8, "little") + bytes(8)
        data[end:end] = record + b"PK\x06\x07" + bytes(16)
    else:
        data[end + 12 : end + 16] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)
    assert "the list of its members has" in refusal(path)


def test_a_bomb_in_place_of_the_byte_order_is_not_unpacked(tmp_path, torch):
    content = {"w": tensor(torch, "0", "FloatStorage", 1, (1,), (1,))}
    path = write(tmp_path / "x.pt", content, {"0": np.ones(1, np.float32)}, byteorder=b"")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("model/data.pkl"), members["model/data.pkl"], zipfile.ZIP_STORED)
        archive.writestr("model/byteorder", bytes(300_000_000))
        archive.writestr(zipfile.ZipInfo("model/data/0"), members["model/data/0"], zipfile.ZIP_STORED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("w").tolist() == [1]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_values_that_are_kept_with_the_other_sign_are_refused(tmp_path, torch):
    """torch 2's lazy negation: the sign stands in the seventh argument, as {"neg": True}."""
    values = np.arange(3, dtype=np.float32)
    for marks, refused in (({}, False), ({"neg": False}, False), ({"neg": True}, True), ({"conj": True}, True)):
        content = {"w": tensor(torch, "0", "FloatStorage", 3, (3,), (1,), marks=(marks,))}
        path = write(tmp_path / "x.pt", content, {"0": values})
        if refused:
            assert "asks for `a tensor whose values are to be negated" in refusal(path)
        else:
            with open_checkpoint(path) as checkpoint:
                np.testing.assert_array_equal(checkpoint.read("w"), values)
