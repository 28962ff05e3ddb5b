"""Everything a run needs to go on as if nothing had happened, in one object and one file."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor

from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.writer import write_safetensors
from gm.errors import UserError
from gm.ops import parallel
from gm.training.ema import Ema
from gm.training.loss_scale import LossScale
from gm.training.optimizer import AdamW

KIND = "svd-mindspore training state"
_NAME = re.compile(r"step-(\d+)\.safetensors")
_RECORD = "record"  # the numbers, as JSON in a tensor of bytes
_COUNTS = ("step", "samples", "skipped", "updates", "good")
_log = logging.getLogger(__name__)


class Damaged(UserError):
    """A checkpoint whose content is not what was written."""


class TrainingState:
    """Weights that are trained, moments, running mean, loss scale and position, with save and load.

    Random numbers need no state: they follow from the seed and the position (see `gm.training.draws`).

    Args:
        optimizer: `AdamW`. ema: `Ema` or None. loss_scale: `LossScale`.
        fixed: {name: value} of settings that a resumed run must have in common with the one that was interrupted.
        settings: {name: value} of all of them.

    Attributes:
        settings_before: those of the run that what was loaded is of; None where nothing was, or it does not tell.
        step: steps done. samples: clips of the stream used so far, over all devices. skipped: steps without an update.
    """

    def __init__(
        self,
        optimizer: AdamW,
        ema: Ema | None,
        loss_scale: LossScale,
        fixed: dict[str, Any],
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.optimizer, self.ema, self.loss_scale, self.fixed = optimizer, ema, loss_scale, fixed
        self.settings, self.settings_before = settings, None
        self.step = self.samples = self.skipped = 0

    @property
    def spread(self) -> bool:
        """Whether each device has only a part of it, so that `save` needs all of them."""
        return self.optimizer.settings.shard and parallel.size() > 1

    def _tensors(self) -> dict[str, Parameter | None]:
        """{name in the file: parameter}, None for a moment that another device has."""
        names, moments = list(self.optimizer.parameters), self.optimizer.moments
        groups = {"weights": self.optimizer.weights}
        groups.update({kind: [moments[kind].get(name) for name in names] for kind in moments})
        if self.ema is not None:
            groups["ema"] = self.ema.means
        return {f"{group}/{name}": p for group, members in groups.items() for name, p in zip(names, members)}

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.optimizer.parameters[name.partition("/")[2]].shape)

    def _array(self, name: str, p: Any) -> np.ndarray:
        kind, _, weight = name.partition("/")
        return self.optimizer.moment(kind, weight) if kind in self.optimizer.moments else p.asnumpy()

    def _record(self, checksums: dict[str, str]) -> np.ndarray:
        record = {
            "format": KIND,
            "step": self.step,
            "samples": self.samples,
            "skipped": self.skipped,
            "updates": self.optimizer.updates,
            "loss_scale": self.loss_scale.scale,
            "good": self.loss_scale.good,
            "dynamic": self.loss_scale.dynamic,
            "fixed": self.fixed,
            "settings": self.settings,
            "checksums": checksums,
        }
        return np.frombuffer(json.dumps(record).encode(), np.uint8)

    def size(self) -> int:
        """Bytes of the file that `save` writes, but for its header."""
        return sum(4 * math.prod(self._shape(name)) for name in self._tensors())

    def save(self, folder: str | Path, keep: int) -> Path:
        """Write step-<n>.safetensors, whole or not at all, and delete all but the last `keep`; returns its path.

        The first device writes; the others must call this too, where they share the moments among them.
        """
        path = Path(folder) / f"step-{self.step:08d}.safetensors"
        tensors = self._tensors()
        if parallel.rank() != 0:
            for name, p in tensors.items():
                self._array(name, p)
            return path
        checksums = dict.fromkeys(tensors, _checksum(b""))  # of a fixed length, as the record's is needed first
        record = self._record(checksums)
        entries = [(name, self._shape(name), np.float32) for name in tensors]
        entries.append((_RECORD, record.shape, record.dtype))

        def read(name: str) -> np.ndarray:
            if name == _RECORD:  # bytes come last
                return self._record(checksums)
            array = self._array(name, tensors[name])
            checksums[name] = _checksum(array)
            return array

        path.parent.mkdir(parents=True, exist_ok=True)  # it may have been deleted during the run
        write_safetensors(path, entries, read)
        # Later ones are damaged, or this would not be the next step: they must not push out what is whole.
        for old in [found for found in checkpoints(folder) if step_of(found) <= self.step][:-keep]:
            with contextlib.suppress(OSError):
                old.unlink()
        return path

    def load(self, path: str | Path) -> None:
        """Take everything from a file that `save` wrote.

        Raises UserError, and changes nothing, if the file is damaged (`Damaged`) or belongs to another kind of run.
        """
        tensors = self._tensors()
        try:
            opened = open_checkpoint(path)
        except UserError as error:
            raise Damaged(str(error)) from error
        with opened as checkpoint:
            names = set(checkpoint.names())
            if _RECORD not in names:
                raise UserError(f"{path} is not a training checkpoint; it goes to --train.pretrained, if anywhere")
            record = _read_record(path, checkpoint)
            self._check(path, record, names - {_RECORD}, checkpoint, tensors)
            for name, checksum in record.get("checksums", {}).items():
                if _checksum(checkpoint.read(name)) != checksum:
                    raise Damaged(f"{path}: {name} is not what was written")
            for name, p in tensors.items():
                if p is not None:
                    p.set_data(Tensor(np.array(checkpoint.read(name))))
        self.optimizer.copy_to_network()
        self.step, self.samples, self.skipped = record["step"], record["samples"], record["skipped"]
        self.optimizer.updates = record["updates"]
        self.settings_before = record.get("settings")
        dynamic = self.loss_scale.dynamic
        if record.get("dynamic", dynamic) == dynamic:  # else float32 goes on as float16, or the other way round
            self.loss_scale.scale, self.loss_scale.good = record["loss_scale"], record["good"]

    def _check(
        self, path: str | Path, record: dict[str, Any], names: set[str], checkpoint: Any, tensors: dict[str, Any]
    ) -> None:
        faults = [
            f"{name} was {record['fixed'].get(name)!r} and is {value!r} now"
            for name, value in self.fixed.items()
            if record["fixed"].get(name, value) != value
        ]
        if names != set(tensors):
            faults.append(f"it holds {len(names)} tensors, this run has {len(tensors)}")
        else:
            faults += [
                f"{name} is {checkpoint.shape(name)}, not {self._shape(name)}"
                for name in tensors
                if tuple(checkpoint.shape(name)) != self._shape(name)
            ]
        if faults:
            raise UserError("\n  ".join([f"{path} belongs to another run:", *faults[:10]]))

    def load_latest(self, folder: str | Path) -> Path | None:
        """Load the newest checkpoint of a folder that is whole; returns its path, None if the folder has none.

        UserError where there are some and none is whole: beginning anew would write over what the run has left.
        """
        last = None
        for path in reversed(checkpoints(folder)):
            try:
                self.load(path)
            except Damaged as error:
                _log.warning("left out: %s", error)
                last = error
                continue
            return path
        if last is not None:
            raise UserError(
                f"none of the checkpoints in {folder} can be read, the oldest because {last}. To begin anew, move that "
                "folder away"
            )
        return None


def checkpoints(folder: str | Path) -> list[Path]:
    """The files that `TrainingState.save` wrote into a folder, oldest first."""
    found = [path for path in Path(folder).glob("step-*.safetensors") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(path: str | Path) -> int:
    """The step that a file of `checkpoints` was written after."""
    return int(Path(path).stem.partition("-")[2])


def _checksum(array: Any) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(array)):08x}"  # type: ignore[arg-type]  # arrays are buffers


def _read_record(path: str | Path, checkpoint: Any) -> dict[str, Any]:
    """The numbers of a checkpoint, a dict with all that `load` takes from it."""
    try:
        record = json.loads(checkpoint.read(_RECORD).tobytes())
        whole = (
            record["format"] == KIND
            and all(type(record[name]) is int for name in _COUNTS)
            and isinstance(record["fixed"], dict)
            and isinstance(record.get("checksums", {}), dict)
            and isinstance(record.get("settings"), (dict, type(None)))
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path}: its record is damaged ({type(error).__name__})") from error
    if not whole:
        raise Damaged(f"{path}: its record is damaged")
    return record
