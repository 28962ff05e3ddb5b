"""Clips encoded once: a folder of `Encoded` samples that training reads in place of decoding and encoding.

The folder holds cache.json, which says what the samples were made from, and a file for each clip and each of the first
`epochs` epochs: the very sample, frames and noise on the conditioning picture included, that training without a cache
would make of the clip in that epoch. Epoch e of training reads those of epoch e mod `epochs`. Each holds a checksum of
its values: what is not as it was written is made anew before training begins, never trained on.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any, Callable

import numpy as np

from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.writer import write_safetensors
from gm.console import progress
from gm.data.clips import CONTENT
from gm.data.loader import ClipLoader
from gm.data.outputs import make_folder, write_json
from gm.errors import UserError
from gm.training.draws import Draws
from gm.training.examples import Encoded, Encoders, encode
from gm.training.settings import Loader

FORMAT = 1
# What records of earlier versions do not hold: those are taken without it.
_LATER = (CONTENT, "encoders (every tensor)", "model.clip.head_width", "environment.fast_float32")
_CHECKSUM = "checksum"
_STANDS_FOR = "stands_for"  # of a sample's metadata: the clip that could not be decoded, in whose place it is


class CachedClips:
    """The cached samples of `dataset` (a `gm.data.clips.ClipDataset` or another with its methods), and their making.

    Args:
        dataset: what the samples were or will be made from.
        folder: of the cache; need not exist.
        epochs: how many samples of each clip.
        made_with: {what: value} that the samples depend on, besides the data set.

    Raises:
        UserError: the folder holds the samples of something else.
    """

    def __init__(self, dataset: Any, folder: str | Path, epochs: int, made_with: dict[str, Any]) -> None:
        self.dataset, self.folder, self.epochs, self.frames = dataset, Path(folder), epochs, dataset.frames
        self.order = dataset.order
        self.made_from = {"format": FORMAT, **dataset.identity(), **made_with}
        self.record = self.folder / "cache.json"
        if self.record.exists():
            _compare(self.record, self.made_from)

    def __len__(self) -> int:
        return len(self.dataset)

    def _path(self, clip: int, epoch: int) -> Path:
        return self.folder / f"clip-{clip:06d}-{epoch:03d}.safetensors"

    def _place(self, position: int) -> tuple[int, int]:
        """(clip, epoch) that the sample at a position of the stream is stored under."""
        epoch, index = divmod(position, len(self))
        return int(self.order(epoch)[index]), epoch % self.epochs

    def missing(self, count: int | None = None, first: int = 0, every: int = 1) -> list[int]:
        """Positions of the stream, up to `count` or of all epochs, whose samples are not there yet or damaged, which is
        told: all are read. first, every: of each `every` positions look at the one after `first` others."""
        positions = range(first, self.epochs * len(self) if count is None else count, every)
        if not self.record.exists():
            return list(positions)
        absent, damaged, stand_ins = [], [], []
        for position in progress(positions, "checking the cache", "clip"):
            path = self._path(*self._place(position))
            if not path.exists():
                absent.append(position)
            elif (found := _read(path)) is None:
                damaged.append(position)
            elif _STANDS_FOR in found[1]:
                stand_ins.append((path, found[1][_STANDS_FOR]))
        if stand_ins:
            path, clip = stand_ins[0]
            print(
                f"warning: {len(stand_ins)} of the cache's samples are of other clips, as theirs could not be decoded "
                f"when it was filled; the first is {path}, in place of {clip}: delete it to try again",
                file=sys.stderr,
            )
        if damaged:
            print(
                f"warning: {len(damaged)} of the cache's samples are not as they were written and are made anew, the "
                f"first is {self._path(*self._place(damaged[0]))}",
                file=sys.stderr,
            )
        return sorted(absent + damaged)

    def claim(self, clean: bool = True) -> None:
        """Before `fill`, by the one run that may fill: samples without a record, which may be of anything, are removed
        (by one device, which is told to `clean`). UserError where another run has filled it with something else since.
        """
        if self.record.exists():
            _compare(self.record, self.made_from)
        elif clean and (found := sorted(self.folder.glob("clip-*"))):
            print(
                f"warning: {len(found)} samples in {self.folder} are made anew, as there is no {self.record.name} that "
                "says what they were made from",
                file=sys.stderr,
            )
            for path in found:
                path.unlink()

    def fill(
        self,
        missing: list[int],
        encoders: Callable[[], Encoders],
        draws: Callable[[int], Draws],
        loader: Loader,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        """Make missing samples, with a progress bar; a process that is cut off goes on where it stopped.

        Args:
            missing: positions, of `missing`.
            encoders: function that loads `gm.training.examples.Encoders`; not called when nothing is missing.
            draws: function of a position -> `Draws`.
            loader: the section train.loader.
            advance: function that is called after each sample.
        """
        if not missing:
            return
        make_folder(self.folder)
        write_json(self.made_from, self.record)
        held = encoders()
        todo = _Positions(self.dataset, missing)
        batches = iter(ClipLoader(todo, 1, 0, 1, loader.workers, loader.prefetch, 0, loader.max_failed_share))
        try:
            for position in progress(missing, "encoding", "clip"):
                sample = {name: value[0] for name, value in next(batches).items() if name != "batch"}
                self._write(position, encode(held, sample, draws(position)), sample)
                advance()
        finally:
            batches.close()

    def _write(self, position: int, encoded: Encoded, sample: dict[str, Any]) -> None:
        arrays = {name: np.asarray(value, np.float32) for name, value in encoded._asdict().items()}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise UserError(
                f"the encoders make NaN or infinite values of {sample['path']}: the weights of "
                "train.pretrained are damaged, or try --train.amp_level=O0"
            )
        arrays[_CHECKSUM] = _checksum(arrays)
        entries = [(name, array.shape, array.dtype) for name, array in arrays.items()]
        origin = {"path": str(sample["path"]), "start": str(sample["start"])}
        if sample["failures"]:
            origin[_STANDS_FOR] = str(sample["failures"][0][0])
        write_safetensors(self._path(*self._place(position)), entries, arrays.__getitem__, origin)

    def at(self, position: int) -> dict[str, Any]:
        """The sample at `position` of the endless stream of epochs: the fields of `Encoded`, path, start, failures."""
        path = self._path(*self._place(position))
        found = _read(path)
        if found is None:
            raise UserError(
                f"{path} was damaged since training began: go on with --train.resume=latest, which makes it anew"
            )
        arrays, _ = found
        numbers = {name: np.float32(array) for name, array in arrays.items() if array.ndim == 0}
        return {**arrays, **numbers, "failures": []}


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
    """The arrays and the metadata of a sample's file, None where they are not what was written."""
    try:
        with open_checkpoint(path) as file:
            arrays = {name: np.array(file.read(name)) for name in Encoded._fields}
            whole = np.array_equal(file.read(_CHECKSUM), _checksum(arrays))
            return (arrays, dict(file.metadata)) if whole else None
    except (UserError, KeyError):
        return None


def _checksum(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """uint32 (1,) of the values and shapes of {name: array}."""
    value = 0
    for name in Encoded._fields:
        value = zlib.crc32(repr(arrays[name].shape).encode(), value)
        value = zlib.crc32(np.ascontiguousarray(arrays[name]), value)  # type: ignore[arg-type]  # arrays are buffers
    return np.array([value], np.uint32)


class _Positions:
    """The samples of a data set at some positions of its stream alone."""

    def __init__(self, dataset: Any, positions: list[int]) -> None:
        self.dataset, self.positions = dataset, positions

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, index: int) -> dict[str, Any]:
        # The loader reads ahead of the last one.
        return self.dataset.at(self.positions[min(index, len(self.positions) - 1)])


def _compare(record: Path, made_from: dict[str, Any]) -> None:
    try:
        stored = dict(json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{record} cannot be read: {error}; delete the folder or name another train.cache") from error
    faults = [
        f"{name}: {stored.get(name)!r} there, {made_from.get(name)!r} here"
        for name in {**made_from, **stored}
        if stored.get(name) != made_from.get(name) and not (name in _LATER and name not in stored)
    ]
    if faults:
        raise UserError(
            "\n  ".join(
                [
                    f"the cache {record.parent} was made for something else (name another train.cache or delete it):",
                    *faults,
                ]
            )
        )
