"""What a run leaves to read: its folder, metrics.jsonl, TensorBoard files and the progress bar."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gm.config import to_yaml
from gm.console import progress_bar, say, versions
from gm.errors import UserError
from gm.files import atomic_path
from gm.model_config import ModelConfig
from gm.settings import plain
from gm.training.settings import TrainingSettings

# Losses differ by orders of magnitude between noise levels, so their mean says little: these are the buckets' edges.
SIGMA_EDGES = (0.3, 1.0, 3.0, 10.0, 30.0)
_OWN_BUSINESS = ("train.resume", "train.output_dir")  # settings that a resumed run changes as a matter of course
BUCKETS = tuple(f"{low:g}-{high:g}" for low, high in zip((0.0, *SIGMA_EDGES), (*SIGMA_EDGES, math.inf)))
_TOLD = 5  # steps without an update that are told one by one


def by_name(*settings: Any) -> dict[str, Any]:
    """{path, such as train.epochs: value} of settings, without what a resumed run changes as a matter of course."""
    found = (item for each in settings for item in _leaves(plain(each)))
    return {name: value for name, value in found if name not in _OWN_BUSINESS}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines, one for each setting that both have, with another value; both of `by_name`."""
    return [
        f"{name}: {before[name]} before, {value} now"
        for name, value in now.items()
        if name in before and before[name] != value
    ]


def changed(file: Path, settings: Any) -> list[str]:
    """`differences` from a YAML file of `gm.config.to_yaml`; none where it cannot be read."""
    try:
        before = by_name(OmegaConf.to_container(OmegaConf.load(file)))
    except (OSError, ValueError, AttributeError, yaml.YAMLError, OmegaConfBaseException):
        return []
    return differences(before, by_name(settings))


class RunFolder:
    """output_dir with checkpoints/, weights/, samples/, video_index/, metrics.jsonl, settings, command, versions, and
    calibration.json where the clips have a scale of motion of their own."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints, self.weights = self.path / "checkpoints", self.path / "weights"
        self.samples, self.metrics = self.path / "samples", self.path / "metrics.jsonl"
        self.lock = self.path / ".lock"

    def make(self) -> None:
        """Make the folder. UserError if it cannot be made."""
        try:
            for folder in (self.checkpoints, self.weights):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"train.output_dir {self.path}: {error.strerror}; choose another folder") from error

    def describe(self, settings: TrainingSettings, config: ModelConfig, argv: Iterable[str]) -> None:
        """Write down how the run was started. UserError if that cannot be written."""
        self._write("settings.yaml", to_yaml(settings))
        self._write("model.yaml", to_yaml(config))
        self._write("command.txt", shlex.join(argv) + "\n")
        self._write("versions.json", json.dumps(versions(), indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        with atomic_path(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def changes(self, settings: TrainingSettings, config: ModelConfig) -> list[str]:
        """`differences` of settings and model from what the folder's run was started with last; none where there was no
        run or its settings cannot be read."""
        return changed(self.path / "settings.yaml", settings) + changed(self.path / "model.yaml", config)

    def cut_metrics(self, step: int | None) -> None:
        """Remove the lines of steps that a run does again that is resumed after `step`, or from the beginning (None),
        and what a killed process left half-written."""
        if not self.metrics.exists():
            return
        kept: list[str] = []
        if step is None:  # even the validation before the first step
            step = -1
        for line in self.metrics.read_bytes().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if json.loads(line)["step"] <= step:
                    kept.append(line.decode() + "\n")
        self._write(self.metrics.name, "".join(kept))


class Log:
    """Lines of metrics.jsonl, TensorBoard scalars and a progress bar on stderr; on the first device only.

    A line is {"kind": "train" or "validation", "step", ...}. Numbers that are not finite are written as null.
    """

    def __init__(self, folder: RunFolder, total: int, step: int, tensorboard: bool) -> None:
        self.file = open(folder.metrics, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the run)
        self.bar = progress_bar(total, "training", "step", start=step)
        self.told = 0  # steps without an update
        self.board = _summary_writer(folder.path) if tensorboard else None

    def write(self, kind: str, step: int, **numbers: Any) -> None:
        line = json.dumps({"kind": kind, "step": step, **_finite(numbers)}, allow_nan=False)
        try:
            self.file.write(line + "\n")
            self.file.flush()
        except OSError as error:
            raise UserError(f"cannot write {self.file.name}: {error.strerror}; free some space, then resume") from error
        if self.board is not None:
            for name, value in _scalars(numbers):
                self.board.add_scalar(f"{kind}/{name}", value, step)

    def advance(self, loss: float, clips_per_second: float) -> None:
        self.bar.set_postfix_str(f"loss {loss:.4f}, {clips_per_second:.2f} clips/s", refresh=False)
        self.bar.update()

    def skipped(self, step: int, loss: float, sigmas: Sequence[float]) -> None:
        """A line for a step that made no update as its gradient is not finite; the first few of them."""
        self.told += 1
        if self.told <= _TOLD:
            more = "; further ones are only counted, in metrics.jsonl" if self.told == _TOLD else ""
            what = "gradient" if math.isfinite(loss) else "loss"
            levels = ", ".join(f"{sigma:.3g}" for sigma in sigmas)
            self.say(f"warning: step {step} made no update, as its {what} is not finite (noise levels: {levels}){more}")

    def say(self, text: str) -> None:
        """A line above the bar."""
        say(text)

    def close(self) -> None:
        self.bar.close()
        with contextlib.suppress(OSError):  # of a line that could not be written, which `write` has told
            self.file.close()
        if self.board is not None:
            self.board.close()


def require_tensorboard() -> Any:
    """The SummaryWriter class; UserError where tensorboardX is not there. Asked before the first long step."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError("train.log.tensorboard: tensorboardX is not installed: pip install tensorboardX") from error
    return SummaryWriter


def _summary_writer(path: Path) -> Any:
    return require_tensorboard()(os.fspath(path / "tensorboard"))


def _leaves(section: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _scalars(numbers: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in numbers.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{key}", item) for key, item in value.items() if item is not None)
        elif isinstance(value, (int, float)):
            yield name, value


class Window:
    """Losses and times since the last line of metrics.jsonl."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.sums, self.counts = np.zeros(len(BUCKETS)), np.zeros(len(BUCKETS))
        self.sigmas: list[float] = []
        self.last: dict[str, Any] = {}
        self.steps, self.start = 0, time.perf_counter()

    def add(self, sums: np.ndarray, counts: np.ndarray, sigmas: list[float], **last: Any) -> None:
        """A step; last: fields of a line that are of its last step alone."""
        self.last = last
        self.sums, self.counts, self.steps = self.sums + sums, self.counts + counts, self.steps + 1
        self.sigmas += sigmas

    def numbers(self) -> dict[str, Any]:
        """The fields of a line: of its last step, mean loss of a clip, by noise level, the noise levels, seconds of a
        step."""
        with np.errstate(invalid="ignore"):
            by_sigma = {b: float(s / n) for b, s, n in zip(BUCKETS, self.sums, self.counts) if n}
        return {
            **self.last,
            "loss": float(self.sums.sum() / self.counts.sum()),
            "loss_by_sigma": by_sigma,
            "sigma": self.sigmas,
            "seconds": (time.perf_counter() - self.start) / self.steps,
        }


def bucket_sums(losses: Sequence[float], sigmas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Losses and noise levels of clips -> (sum of losses in each bucket of SIGMA_EDGES, number of clips in each)."""
    index = np.searchsorted(SIGMA_EDGES, sigmas, side="right")
    sums = np.bincount(index, weights=losses, minlength=len(BUCKETS))
    return sums, np.bincount(index, minlength=len(BUCKETS)).astype(float)
