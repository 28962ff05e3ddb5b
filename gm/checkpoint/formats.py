"""Open a checkpoint of any supported format; the content decides, not the suffix."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, Callable

import numpy as np

from gm.checkpoint.mapped import LONGEST_AXIS, MOST_AXES, MappedCheckpoint, StoredTensor
from gm.checkpoint.mistaken import REMEDY, START, what_it_is
from gm.checkpoint.reader import Reader
from gm.errors import UserError

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
# The original checkpoint's header has 0.35 MB; a longer one than this could fill the memory when it is read.
_LONGEST_HEADER = 16_000_000
_SAFETENSORS_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}


def open_checkpoint(path: str | Path) -> Reader:
    """Open a safetensors file, a PyTorch zip pickle or a MindSpore .ckpt for reading.

    Returns a context manager, see `reader.Reader`. Nothing that a file contains is ever executed. Raises UserError if
    the file is missing, damaged or of another format.
    """
    path = Path(path)
    start, size = _start(path)
    if size == 0:
        raise UserError(f"{path} is empty: copy or download it again")
    if start.startswith(_ZIP_MAGIC):
        from gm.checkpoint.torch_pickle import open_torch

        return open_torch(path)
    safetensors = start[8:9] == b"{"
    mistaken = what_it_is(start)
    if mistaken and not (safetensors and start[4:8] == bytes(4)):  # a header's length may begin like anything
        raise UserError(f"{path} is not a checkpoint but {mistaken[0]}. {mistaken[1]}")
    if safetensors:
        return MappedCheckpoint(path, *_safetensors_index(path, size))
    if start.startswith(_PICKLE_MAGIC):
        raise UserError(f"{path} is a pickle in the old layout (before torch 1.6), which is not read here.\n{REMEDY}")
    if path.suffix.lower() == ".ckpt":
        return _MindSporeCheckpoint(path)
    raise UserError(
        f"{path} is not a checkpoint that can be read here: expected safetensors, a PyTorch file (torch 1.6 or later) "
        f"or a MindSpore .ckpt.\n{REMEDY}"
    )


def _start(path: Path) -> tuple[bytes, int]:
    """(first bytes, size) of a file. UserError if it cannot be read, or is no file (a FIFO would never end)."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path} is a folder: name the checkpoint file itself, for instance {_example(path)}")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a file but a device, pipe or socket: name the checkpoint file")
        with open(path, "rb") as file:
            return file.read(START), status.st_size
    except FileNotFoundError as error:
        raise UserError(f"no such checkpoint: {path}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the checkpoint {path}: {getattr(error, 'strerror', None) or error}") from error


def _example(folder: Path) -> Path:
    """A checkpoint that lies in the folder, or what one may be called."""
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    return found[0] if found else folder / "svd.safetensors"


def _safetensors_index(path: Path, size: int) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Header of a safetensors file -> {name: StoredTensor} in the order of the data, its metadata. Raises UserError."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            raise UserError(f"{path} is not a safetensors file: its header would have {length} bytes")
        _check_size(path, size, 8 + length, exact=False)
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata is not text under names")
        fields = []
        for name, item in header.items():
            begin, end = item["data_offsets"]
            shape = tuple(item["shape"])
            if len(shape) > MOST_AXES or not all(
                type(number) is int and 0 <= number < LONGEST_AXIS for number in (*shape, begin, end)
            ):
                raise ValueError(f"impossible shape or place of {name}")
            fields.append((name, str(item["dtype"]), shape, begin, end))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: the safetensors header is damaged ({error!r}): copy or download it again") from error
    fields.sort(key=lambda field: field[3:])
    _check_size(path, size, 8 + length + (fields[-1][4] if fields else 0), exact=True)
    return _check_fields(path, fields, 8 + length), metadata


def _check_fields(
    path: Path,
    fields: list[tuple[str, str, tuple[int, ...], int, int]],
    data_start: int,
) -> dict[str, StoredTensor]:
    """[(name, dtype, shape, begin, end)] sorted by position -> {name: StoredTensor}; tensors must fill the file."""
    tensors = {}
    position = 0
    for name, code, shape, begin, end in fields:
        if code not in _SAFETENSORS_DTYPES:
            raise UserError(f"{path}: {name} has the type {code}, which cannot be read; save it as F32, F16 or BF16")
        stored = np.dtype(_SAFETENSORS_DTYPES[code])
        if begin != position or end - begin != math.prod(shape) * stored.itemsize:
            raise UserError(f"{path}: the header gives a wrong place or size for {name}: copy or download it again")
        dtype = np.dtype(np.float32) if code == "BF16" else stored
        tensors[name] = StoredTensor(shape, stored, dtype, data_start + begin)
        position = end
    return tensors


def _check_size(path: Path, size: int, wanted: int, exact: bool) -> None:
    if size < wanted:
        raise UserError(f"{path} is truncated: has {size} bytes, its header says {wanted}: copy or download it again")
    if exact and size > wanted:
        raise UserError(f"{path} is damaged: has {size} bytes, its header says {wanted}: copy or download it again")


def _array(p: Any) -> np.ndarray:
    """A MindSpore parameter as NumPy array; NumPy has no bfloat16."""
    import mindspore

    return (p.astype(mindspore.float32) if p.dtype == mindspore.bfloat16 else p).asnumpy()


class _MindSporeCheckpoint:
    """MindSpore's own protobuf format. It cannot be mapped: the whole file is held in memory."""

    description = ""

    def __init__(self, path: str | Path) -> None:
        import mindspore

        self.path = Path(path)
        self.ignored: tuple[str, ...] = ()
        self.metadata: dict[str, str] = {}
        try:
            parameters = mindspore.load_checkpoint(os.fspath(path))
        except Exception as error:  # mindspore raises several kinds for a file that is not its own
            raise UserError(
                f"{path} is neither a PyTorch file nor a MindSpore checkpoint, or it is damaged."
            ) from error
        self._arrays = {name: _array(p) for name, p in parameters.items() if hasattr(p, "asnumpy")}
        self.ignored = tuple(name for name in parameters if name not in self._arrays)  # text and numbers of a training

    def __enter__(self) -> _MindSporeCheckpoint:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def names(self) -> list[str]:
        return list(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self._arrays[name].dtype

    def precision(self, name: str) -> str:
        return self._arrays[name].dtype.name

    def read(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def copy_to(self, name: str, out: np.ndarray, convert: Callable[[np.ndarray, np.ndarray], None]) -> None:
        convert(out.reshape(-1), self._arrays[name].reshape(-1))

    def size(self) -> int:
        return self.path.stat().st_size

    def files(self) -> list[Path]:
        return [self.path]

    def release(self) -> None:
        """Nothing to let go of: the arrays are not mapped."""
