"""Tensors of one or several open checkpoints under other names and in other arrangements, read when they are asked for.

A view has the methods of `mapped.MappedCheckpoint`, so that whoever reads one needs not know what lies under it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from gm.checkpoint.reader import Reader


class Change(NamedTuple):
    """What is made of one or more tensors; `shape` does with their shapes what `value` does with themselves."""

    shape: Callable
    value: Callable


def _row(number: int) -> Change:
    """The number-th third of a tensor along its first axis."""
    return Change(
        lambda shapes: (shapes[0][0] // 3, *shapes[0][1:]),
        lambda arrays: arrays[0][len(arrays[0]) // 3 * number : len(arrays[0]) // 3 * (number + 1)],
    )


def _through(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """A convolution followed by a 1x1 convolution, as one: weights, or biases with the second one's weight behind."""
    first, second = np.asarray(arrays[0], np.float64), np.asarray(arrays[1], np.float64)
    second = second.reshape(len(second), -1)
    product = (second @ first.reshape(len(first), -1)).reshape(-1, *first.shape[1:])
    return product if len(arrays) == 2 else product + arrays[2]


TRANSPOSED = Change(lambda shapes: shapes[0][::-1], lambda arrays: arrays[0].T)
CONVOLUTION = Change(lambda shapes: (*shapes[0], 1, 1), lambda arrays: arrays[0][:, :, None, None])  # of a matrix
MATRIX = Change(lambda shapes: shapes[0][:2], lambda arrays: arrays[0][:, :, 0, 0])  # of a 1x1 convolution
STACKED = Change(lambda shapes: (sum(shape[0] for shape in shapes), *shapes[0][1:]), np.concatenate)
THROUGH = Change(lambda shapes: shapes[0], _through)
ROWS = tuple(map(_row, range(3)))


class Source(NamedTuple):
    """Where a tensor comes from: [(checkpoint, its name there)], and what is made of them."""

    parts: tuple
    change: Change | None = None

    @classmethod
    def of(cls, checkpoint: Reader, *names: str, change: Change | None = None) -> Source:
        return cls(tuple((checkpoint, name) for name in names), change)


class View:
    """A checkpoint made of others.

    Args:
        path: what the user named.
        sources: {name: `Source`}.
        ignored, metadata: as of `mapped.MappedCheckpoint`.
        description: what it is, in words for the user.
    """

    def __init__(
        self,
        path: str | Path,
        sources: dict[str, Source],
        ignored: Iterable[str] = (),
        metadata: dict[str, str] | None = None,
        description: str = "",
    ) -> None:
        self.path, self.sources, self.description = Path(path), sources, description
        self.ignored, self.metadata = tuple(ignored), metadata or {}
        self._files = list(dict.fromkeys(file for source in sources.values() for file, _ in source.parts))

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def names(self) -> list[str]:
        return list(self.sources)

    def shape(self, name: str) -> tuple[int, ...]:
        parts, change = self.sources[name]
        shapes = [tuple(file.shape(other)) for file, other in parts]
        return shapes[0] if change is None else tuple(change.shape(shapes))

    def dtype(self, name: str) -> np.dtype:
        """The NumPy type that `read` returns."""
        parts, change = self.sources[name]
        if change is THROUGH:
            return np.dtype(np.float32)
        return np.result_type(*(file.dtype(other) for file, other in parts))

    def precision(self, name: str) -> str:
        file, other = self.sources[name].parts[0]
        return file.precision(other)

    def read(self, name: str) -> np.ndarray:
        parts, change = self.sources[name]
        arrays = [file.read(other) for file, other in parts]
        if change is None:
            return arrays[0]
        value = change.value(arrays)
        return np.require(value, self.dtype(name), ["C_CONTIGUOUS", "ALIGNED", "WRITEABLE"])

    def copy_to(self, name: str, out: np.ndarray, convert: Callable[[np.ndarray, np.ndarray], None]) -> None:
        parts, change = self.sources[name]
        if change is None:
            parts[0][0].copy_to(parts[0][1], out, convert)
        else:
            convert(out.reshape(-1), self.read(name).reshape(-1))

    def release(self) -> None:
        for file in self._files:
            file.release()

    def size(self) -> int:
        """Bytes of all files under it."""
        return sum(file.size() for file in self._files)

    def files(self) -> list[Path]:
        """All files under it that a tensor is read from."""
        return [path for file in self._files for path in file.files()]
