"""Read the tensors of a PyTorch checkpoint (zip layout, torch 1.6 and later) without torch and without running it.

A pickle is a program. This reader interprets it with a table of permitted names, each replaced by an inert stand-in
that only notes where a tensor lies; any other name is refused. Format: torch/serialization.py of PyTorch (`data.pkl`
next to one uncompressed member `data/<key>` per storage).
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from typing import NamedTuple

import numpy as np

from gm.checkpoint.mapped import MappedCheckpoint, StoredTensor
from gm.errors import UserError

REMEDY = """To make a safetensors file of a PyTorch checkpoint, run this where torch and safetensors are installed:
    import torch, safetensors.torch
    weights = torch.load("model.ckpt", map_location="cpu", weights_only=True)
    weights = weights.get("state_dict", weights)
    safetensors.torch.save_file({name: w.contiguous().clone() for name, w in weights.items()}, "model.safetensors")
(weights_only=False runs the file's code: only for a file whose origin you trust.)"""

# The original checkpoint's pickle has about 0.4 MB; a limit keeps a hostile file from filling the memory.
_LARGEST_PICKLE = 64 * 2**20
_LOCAL_HEADER = 30  # bytes of a zip member's local header before its name


class _StorageType(NamedTuple):
    name: str
    stored: str  # type in the file
    dtype: str  # type after reading


class _Storage(NamedTuple):
    kind: _StorageType
    key: str
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


# The stand-ins are immutable and without `__dict__`, so that a pickle can neither alter them nor use them as a store.
class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage, offset, shape, strides, *_):
        return _Tensor(storage, offset, shape, strides)


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, tensor, *_):
        return tensor


class _Dict(dict):
    """For OrderedDict, whose instances would take attributes (`_metadata` of a state dict, or hostile ones)."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


class _Size:
    __slots__ = ()

    def __call__(self, lengths=()):
        return tuple(lengths)


_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_PERMITTED = {
    ("collections", "OrderedDict"): _Dict,
    ("torch", "Size"): _Size(),
    ("torch", "BFloat16Storage"): _StorageType("BFloat16Storage", "<u2", "<f4"),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
}
_PERMITTED.update({("torch", name): _StorageType(name, code, code) for name, code in _STORAGES.items()})
_PERMITTED.update({("torch", name): f"torch.{name}" for name in _DTYPES})


class _Refused(Exception):
    """The pickle asks for a name that is not permitted."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _PERMITTED:
            raise _Refused(f"{module}.{name}")
        return _PERMITTED[module, name]

    def persistent_load(self, pid):
        tag, kind, key, _, length = pid
        if tag != "storage" or not isinstance(kind, _StorageType):
            raise pickle.UnpicklingError(f"unknown persistent entry {pid!r:.80}")
        return _Storage(kind, key, length)


def open_torch(path):
    """Open a PyTorch zip checkpoint; the weights may lie under a top-level `state_dict`.

    Returns a MappedCheckpoint. Raises UserError if the file is damaged, is no PyTorch checkpoint, or asks for anything
    but plain tensors; in that case nothing of it has been executed.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            members = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in members if name.count("/") <= 1 and name.split("/")[-1] == "data.pkl"]
            if len(pickles) != 1:
                raise UserError(f"{path} is a zip file but not a PyTorch checkpoint (no data.pkl).\n{REMEDY}")
            prefix = pickles[0][: -len("data.pkl")]
            order = prefix + "byteorder"
            if order in members and archive.read(order).strip() != b"little":
                raise UserError(f"{path} was saved on a big-endian machine, which is not read here.\n{REMEDY}")
            info = members[pickles[0]]
            if info.file_size > _LARGEST_PICKLE or info.compress_type != zipfile.ZIP_STORED:
                raise UserError(f"{path}: its pickle is compressed or unusually large and is refused.\n{REMEDY}")
            weights, ignored = _weights(path, _unpickle(path, archive.read(info)))
            tensors = {name: _locate(path, name, tensor, members, prefix, file) for name, tensor in weights.items()}
    except UserError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds for a damaged file
        raise UserError(f"{path} is truncated or damaged ({error!r}): copy or download it again") from error
    return MappedCheckpoint(path, tensors, None, ignored)


def _unpickle(path, data):
    try:
        return _RestrictedUnpickler(io.BytesIO(data)).load()
    except _Refused as refused:
        raise UserError(
            f"{path} is refused: its pickle asks for `{refused}`, and only plain tensors are read from a pickle. "
            f"Nothing of it was run.\n{REMEDY}"
        ) from None
    except Exception as error:  # a broken pickle may raise anything
        raise UserError(f"{path}: its pickle is damaged ({error}).\n{REMEDY}") from error


def _weights(path, content):
    """The dict of tensors in an unpickled object, and the names of what lies beside it."""
    ignored = ()
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        ignored = tuple(str(key) for key in content if key != "state_dict")
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold named tensors but a {type(content).__name__}.\n{REMEDY}")
    named = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, _Tensor)}
    others = [str(name) for name in content if name not in named]
    if others:
        listed = ", ".join(others[:5]) + (" …" if len(others) > 5 else "")
        raise UserError(
            f"{path}: these entries are not tensors: {listed}. The file must hold the weights themselves, or have them "
            f"under `state_dict`.\n{REMEDY}"
        )
    return named, ignored


def _locate(path, name, tensor, members, prefix, file):
    """Check everything that the pickle says about one tensor against the file, and give its place in the file."""
    storage, offset, shape, strides = tensor
    try:
        numbers = (storage.length, offset, *shape, *strides)
        if len(shape) != len(strides) or not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("impossible sizes")
        info = members[f"{prefix}data/{storage.key}"]
        stored = np.dtype(storage.kind.stored)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size < storage.length * stored.itemsize:
            raise ValueError("its data are incomplete")
        size = math.prod(shape)
        contiguous = all(
            length == 1 or stride == math.prod(shape[axis + 1 :])
            for axis, (length, stride) in enumerate(zip(shape, strides))
        )
        start = _data_start(info, file) + offset * stored.itemsize
        found = StoredTensor(tuple(shape), stored, np.dtype(storage.kind.dtype), start, None if contiguous else strides)
        if size and offset + found.span > storage.length:
            raise ValueError("it reaches beyond its data")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {name}: {error}: copy or download it again") from error
    return found


def _data_start(info, file):
    """Position of a zip member's bytes; the local header may be longer than the one in the central directory."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) != _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise ValueError("no data at the place that the index names")
    start = info.header_offset + _LOCAL_HEADER
    start += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    if file.seek(0, 2) < start + info.file_size:
        raise ValueError("its data reach beyond the end of the file")
    return start
