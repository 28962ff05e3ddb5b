"""The common part of all memory-mapped checkpoint readers."""

from __future__ import annotations

import io
import math
import mmap
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np

from gm.errors import UserError

# More than any tensor has, and what NumPy can do: a header may say anything.
MOST_AXES, LONGEST_AXIS = 32, 2**48
_PIECE = 2**20  # values that are read and converted at a time: they stay in the processor's cache


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in the file and how its bytes are to be read."""

    shape: tuple[int, ...]
    stored: np.dtype  # type of the elements in the file; uint16 stands for bfloat16, see `dtype`
    dtype: np.dtype  # type that `read` returns
    offset: int  # of the first element, in bytes from the start of the file
    strides: tuple[int, ...] | None = None  # in elements; None: contiguous

    @property
    def span(self) -> int:
        """Number of elements from the first to the last one of the tensor in the file."""
        if 0 in self.shape:
            return 0
        if self.strides is None:
            return math.prod(self.shape)
        return 1 + sum((length - 1) * stride for length, stride in zip(self.shape, self.strides))


class MappedCheckpoint:
    """Named tensors in a file, read through a memory map; a context manager.

    Attributes:
        path: the file.
        ignored: entries beside the weights that were left aside, for instance `epoch` in a training checkpoint.
        metadata: the free text of a safetensors header, {str: str}.
        description: in words, where there is more to say of it than its path.
    """

    description = ""

    def __init__(
        self,
        path: str | Path,
        tensors: dict[str, StoredTensor],
        metadata: dict[str, str] | None = None,
        ignored: Iterable[str] = (),
    ) -> None:
        self.path = Path(path)
        self.ignored = tuple(ignored)
        self.metadata = metadata or {}
        self._identity = _identity(self.path)
        self._tensors = tensors
        self._map: mmap.mmap | None = None
        self._lock = threading.Lock()  # threads read at once

    def __enter__(self) -> MappedCheckpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def names(self) -> list[str]:
        """All tensor names, in the order of the file."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        """The NumPy type that `read` returns; float32 where the file holds bfloat16, which NumPy does not have."""
        return self._tensors[name].dtype

    def precision(self, name: str) -> str:
        """The name of the type that the file holds: that of `dtype`, or "bfloat16"."""
        tensor = self._tensors[name]
        return tensor.dtype.name if tensor.dtype == tensor.stored else "bfloat16"

    def read(self, name: str) -> np.ndarray:
        """The tensor as a C-contiguous, aligned, writable array. Threads may read at once.

        It is a private (copy-on-write) view of the file wherever the layout allows, and a copy otherwise. It stays
        valid after the checkpoint is closed.
        """
        tensor = self._tensors[name]
        if tensor.span == 0:
            return np.empty(tensor.shape, tensor.dtype)
        if tensor.dtype == tensor.stored:
            array = np.frombuffer(self._mapping(), tensor.stored, tensor.span, tensor.offset)
        else:
            with self._open() as file:
                array = np.fromfile(file, tensor.stored, tensor.span, offset=tensor.offset)
        if tensor.strides is None:
            array = array.reshape(tensor.shape)
        else:
            strides = [stride * array.itemsize for stride in tensor.strides]
            array = np.lib.stride_tricks.as_strided(array, tensor.shape, strides)
        if tensor.dtype != tensor.stored:
            array = _bfloat16_to_float32(array)
        return np.require(array, requirements=["C_CONTIGUOUS", "ALIGNED"])

    def copy_to(self, name: str, out: np.ndarray, convert: Callable[[np.ndarray, np.ndarray], None]) -> None:
        """Write the tensor's values to a C-contiguous array of its shape. Threads may do so at once.

        Where values are read once, to be converted, this is the fast way: a map costs a page fault for every 64 KB.

        convert: function like NumPy's copyto; called with a flat part of `out` and the values of a piece of the tensor,
            one piece after the other.
        Raises UserError if the file has become shorter since it was opened, or is another one.
        """
        tensor, flat = self._tensors[name], out.reshape(-1)
        if tensor.strides is not None:
            convert(flat, self.read(name).reshape(-1))
            return
        buffer = np.empty(min(_PIECE, flat.size), tensor.stored)
        with self._open() as file:
            file.seek(tensor.offset)
            for first in range(0, flat.size, _PIECE):
                piece = buffer[: flat.size - first]
                if file.readinto(piece.data) != piece.nbytes:
                    raise UserError(f"{self.path} became shorter while {name} was read: copy or download it again")
                values = piece if tensor.dtype == tensor.stored else _bfloat16_to_float32(piece)
                convert(flat[first : first + _PIECE], values)

    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def files(self) -> list[Path]:
        """Where the tensors are read from: the file."""
        return [self.path]

    def release(self) -> None:
        """Let go of the file's pages: the map is removed as soon as no array of it is in use.

        A reader that goes tensor by tensor calls this after each one, so that it never holds more than one tensor.
        """
        self._map = None

    def _mapping(self) -> mmap.mmap:
        # One map for all arrays, because each map keeps a file descriptor open and a checkpoint has thousands of
        # tensors. ACCESS_COPY: MindSpore takes only writable arrays without a copy.
        with self._lock:
            mapping = self._map  # another thread may release it at any moment
            if mapping is None:
                with self._open() as file:
                    self._map = mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            return mapping

    def _open(self) -> io.BufferedReader:
        """The file once more. UserError if it was replaced or written to: half of each would be no model."""
        try:
            if _identity(self.path) == self._identity:
                return open(self.path, "rb")
        except OSError as error:
            raise UserError(f"cannot read the checkpoint {self.path} again: {error.strerror}") from error
        raise UserError(f"{self.path} was replaced or changed while it was in use: start again")


def _identity(path: Path) -> tuple[int, int, int]:
    """What tells a file from another one under the same name."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 is the upper half of a float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
