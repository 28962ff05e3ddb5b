"""Write a safetensors file tensor by tensor, without holding the model in memory.

Format: https://github.com/huggingface/safetensors#format (8 bytes of header length, JSON header, data).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np

from gm.errors import UserError
from gm.files import atomic_path, require_space

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


def write_safetensors(
    path: str | Path,
    entries: Iterable[tuple[str, Sequence[int], Any]],
    read: Callable[[str], np.ndarray],
    metadata: dict[str, str] | None = None,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write the tensors `entries` to `path`, one at a time and under a temporary name until all are written.

    Args:
        path: the file; its folder must exist. An existing file is replaced.
        entries: iterable of (name, shape, dtype).
        read: called as read(name) once per entry; must return an array of exactly that shape and dtype.
        metadata: dict of str to str for the header.
        progress: called with the number of bytes written after each tensor.

    Returns the size of the file in bytes. Raises UserError if the disk is too full or the folder cannot be written to,
    ValueError if `read` returns something else than announced.
    """
    path = Path(path)
    # Wide types first, as the format's own library does, so that every tensor lies aligned for memory mapping.
    tensors = sorted(((name, tuple(shape), np.dtype(dtype)) for name, shape, dtype in entries), key=_width_first)
    header, data_size = _header(tensors, metadata)
    require_space(path.parent, len(header) + data_size)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(header)
        for name, shape, dtype in tensors:
            array = read(name)
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name}: announced {shape} {dtype}, got {array.shape} {array.dtype}")
            file.write(np.ascontiguousarray(array).data)
            if progress is not None:
                progress(array.nbytes)
    return len(header) + data_size


def check_output(output: str | Path, inputs: Iterable[str | Path | None] = (), overwrite: bool = False) -> None:
    """UserError if a file to be written is one of the inputs (paths or None), or is there already."""
    output = Path(output)
    if not os.path.lexists(output):
        return
    for path in inputs:
        if path is not None and Path(path).exists() and output.exists() and os.path.samefile(output, path):
            raise UserError(f"the output would replace the input {path}: choose another name")
    if output.is_dir() or not overwrite:
        remedy = "name a file in it" if output.is_dir() else "delete it, choose another name or add --overwrite"
        raise UserError(f"{output} is already there: {remedy}")


def _width_first(entry: tuple[str, tuple[int, ...], np.dtype]) -> int:
    return -entry[2].itemsize


def _header(entries: list[tuple[str, tuple[int, ...], np.dtype]], metadata: dict[str, str] | None) -> tuple[bytes, int]:
    """The leading bytes of the file, and the number of data bytes that follow."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, shape, dtype in entries:
        if name in fields:
            raise ValueError(f"two tensors are called {name}")
        end = position + math.prod(shape) * dtype.itemsize
        fields[name] = {"dtype": _CODES[dtype.name], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data start at a multiple of 8
    return len(text).to_bytes(8, "little") + text, position
