"""What an open checkpoint of any format offers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Protocol

if TYPE_CHECKING:
    import numpy as np


class Reader(Protocol):
    """Named tensors, read when they are asked for: what `formats.open_checkpoint` returns for every format, and
    `view.View` for other names and arrangements. A context manager. `mapped.MappedCheckpoint` says what each gives."""

    path: Path
    ignored: tuple[str, ...]
    metadata: dict[str, str]
    description: str

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> np.dtype: ...

    def precision(self, name: str) -> str: ...

    def read(self, name: str) -> np.ndarray: ...

    def copy_to(self, name: str, out: np.ndarray, convert: Callable[[np.ndarray, np.ndarray], None]) -> None: ...

    def size(self) -> int: ...

    def files(self) -> list[Path]: ...

    def release(self) -> None: ...
