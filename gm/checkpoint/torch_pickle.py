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
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from gm.checkpoint.mapped import LONGEST_AXIS, MOST_AXES, MappedCheckpoint, StoredTensor
from gm.checkpoint.mistaken import REMEDY
from gm.checkpoint.pickle_scan import scan
from gm.errors import UserError

# The original checkpoint's pickle has about 0.4 MB; a limit keeps a hostile file from filling the memory.
_LARGEST_PICKLE = 64 * 2**20
# The list of the zip's members: the original checkpoint has 2448 of them in 0.2 MB.
_LONGEST_DIRECTORY = 16 * 2**20
_ZIP64_END = 20 + 56  # bytes of a zip64's records between its list and the end record
_END_SEARCHED = 22 + 2**16 + 128  # bytes at the end of a zip where the record of its list may begin
# Entries that weights lie under in training programs' files, the likeliest first; and those of their running mean.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "unet", "weights", "params", "net", "network")
MEANS = ("model_ema", "ema", "ema_model", "ema_state_dict", "model_ema_state_dict", "params_ema", "ema_unet")
_WRAPPED_DEEP = 3
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

    def __call__(self, storage: _Storage, offset: int, shape: tuple, strides: tuple, *more: Any) -> _Tensor:
        marks = more[2] if len(more) > 2 else None  # behind requires_grad and hooks
        if isinstance(marks, dict) and (marks.get("neg") or marks.get("conj")):
            raise _Refused("a tensor whose values are to be negated or conjugated")
        return _Tensor(storage, offset, shape, strides)


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, tensor: _Tensor, *_: object) -> _Tensor:
        return tensor


class _Dict(dict):
    """For OrderedDict, whose instances would take attributes (`_metadata` of a state dict, or hostile ones)."""

    __slots__ = ()

    # torch fills it item by item; a copy of a long list, again and again, would take for ever
    def __init__(self) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass


class _Size:
    __slots__ = ()

    def __call__(self, lengths: Any = ()) -> tuple:
        if len(lengths) > MOST_AXES:
            raise pickle.UnpicklingError("a shape with too many axes")
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


def _check_name(module: str, name: str) -> None:
    if (module, name) not in _PERMITTED:
        raise _Refused(f"{module}.{name}")


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        _check_name(module, name)
        return _PERMITTED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        tag, kind, key, _, length = pid
        if tag != "storage" or not isinstance(kind, _StorageType):
            raise pickle.UnpicklingError(f"unknown persistent entry {pid!r:.80}")
        return _Storage(kind, key, length)


def open_torch(path: Path) -> MappedCheckpoint:
    """Open a PyTorch zip checkpoint.

    The weights may lie under an entry such as `state_dict` (`WRAPPERS`); a running mean beside them (`MEANS`) is there
    too, its names behind "model_ema.".

    Returns a MappedCheckpoint. Raises UserError if the file is damaged, is no PyTorch checkpoint, or asks for anything
    but plain tensors; in that case nothing of it has been executed.
    """
    try:
        with open(path, "rb") as file:
            _check_directory(path, file)
            with zipfile.ZipFile(file) as archive:
                members = {info.filename: info for info in archive.infolist()}
                pickles = [name for name in members if name.count("/") <= 1 and name.split("/")[-1] == "data.pkl"]
                if len(pickles) != 1:
                    raise UserError(
                        f"{path} is a zip file but not a PyTorch checkpoint (no data.pkl): unpack it if "
                        f"there is one in it, or download it again.\n{REMEDY}"
                    )
                prefix = pickles[0][: -len("data.pkl")]
                with archive.open(members.get(prefix + "byteorder", pickles[0])) as order:
                    if order.read(16).strip() == b"big":
                        raise UserError(f"{path} was saved on a big-endian machine, which is not read here.\n{REMEDY}")
                info = members[pickles[0]]
                if info.file_size > _LARGEST_PICKLE or info.compress_type != zipfile.ZIP_STORED:
                    raise UserError(f"{path}: its pickle is compressed or unusually large and is refused.\n{REMEDY}")
                weights, ignored = _named_weights(path, _unpickle(path, archive.read(info)))
            tensors = {name: _locate(path, name, tensor, members, prefix, file) for name, tensor in weights.items()}
    except UserError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds for a damaged file
        raise UserError(f"{path} is truncated or damaged ({error!r}): copy or download it again") from error
    return MappedCheckpoint(path, tensors, None, ignored)


def _check_directory(path: str | Path, file: IO[bytes]) -> None:
    """UserError where the list of the zip's members is so long that reading it would fill the memory."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_SEARCHED))
    tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    length = int.from_bytes(tail[end + 12 : end + 16], "little")
    if end >= _ZIP64_END and tail[end - 20 : end - 16] == b"PK\x06\x07":  # the record of a zip64 lies before it
        length = max(length % (2**32 - 1), int.from_bytes(tail[end - 36 : end - 28], "little"))
    if end >= 0 and length > _LONGEST_DIRECTORY:
        raise UserError(f"{path}: the list of its members has {length:,} bytes and is refused.\n{REMEDY}")


def _unpickle(path: str | Path, data: bytes) -> Any:
    try:
        scan(data, _check_name)
        return _RestrictedUnpickler(io.BytesIO(data)).load()
    except _Refused as refused:
        raise UserError(
            f"{path} is refused: its pickle asks for `{refused}`, and only plain tensors are read from a pickle. "
            f"Nothing of it was run.\n{REMEDY}"
        ) from None
    except Exception as error:  # a broken pickle may raise anything
        raise UserError(f"{path}: its pickle is damaged ({error}).\n{REMEDY}") from error


def _named_weights(path: str | Path, content: Any) -> tuple[dict[str, _Tensor], tuple[str, ...]]:
    """{name: tensor} of an unpickled object, the running mean's included, and the names of what lies beside them."""
    weights, means, ignored = _weights(content)
    if not weights and not means:
        raise UserError(
            f"{path} does not hold named tensors but {_outline(content)}. The file must hold the weights "
            f"themselves, or have them under one of {', '.join(WRAPPERS)}.\n{REMEDY}"
        )
    return {**weights, **{f"model_ema.{name}": tensor for name, tensor in means.items()}}, tuple(ignored)


def _weights(content: Any, depth: int = _WRAPPED_DEEP) -> tuple[dict[str, _Tensor], dict[str, _Tensor], list[str]]:
    """(weights, running mean, names of what lies beside them) below an unpickled object."""
    outside = _named_tensors(content)
    if not isinstance(content, dict) or not depth:
        return outside, {}, [str(key) for key in content if key not in outside] if outside else []
    inside: dict[str | None, Any] = {
        key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, dict)
    }
    chosen = next((key for key in WRAPPERS if key in inside), None)
    weights, means, ignored = _weights(inside.get(chosen), depth - 1)
    averaged = next((key for key in MEANS if _named_tensors(inside.get(key))), None)
    means = means or _named_tensors(inside.get(averaged))
    if len(outside) > max(len(weights), len(means)):  # else they are single ones, such as a loss, beside the weights
        return outside, {}, [str(key) for key in content if key not in outside]
    beside = [str(key) for key in content if key not in (chosen, averaged)]
    return weights, means, beside + ignored


def _named_tensors(content: Any) -> dict[str, _Tensor]:
    """The entries of a dict that are tensors under a text; {} where it is no dict."""
    entries = content.items() if isinstance(content, dict) else ()
    return {name: value for name, value in entries if isinstance(name, str) and isinstance(value, _Tensor)}


def _outline(content: Any) -> str:
    if not isinstance(content, dict) or not content:
        return f"a {type(content).__name__}" if content else "nothing"
    listed = [str(key) for key in list(content)[:5]] + ["…"] * (len(content) > 5)
    return f"entries that are not tensors: {', '.join(listed)}"


def _locate(
    path: str | Path,
    name: str,
    tensor: _Tensor,
    members: dict[str, zipfile.ZipInfo],
    prefix: str,
    file: IO[bytes],
) -> StoredTensor:
    """Check everything that the pickle says about one tensor against the file, and give its place in the file."""
    storage, offset, shape, strides = tensor
    try:
        numbers = (storage.length, offset, *shape, *strides)
        if not len(shape) == len(strides) <= MOST_AXES or not all(
            type(number) is int and 0 <= number < LONGEST_AXIS for number in numbers
        ):
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


def _data_start(info: zipfile.ZipInfo, file: IO[bytes]) -> int:
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
