"""The run: its folder, what it goes on from, the loop over its steps and what that leaves behind."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np

from gm.checkpoint.formats import open_checkpoint
from gm.console import say
from gm.data import calibration
from gm.errors import UserError, memory_faults
from gm.files import require_space
from gm.memory import advice
from gm.model_config import ModelConfig
from gm.ops import parallel
from gm.training import memory
from gm.training.data import open_data
from gm.training.filling import fill_cache
from gm.training.graphs import kept_graphs, what_takes_long
from gm.training.log import Log, RunFolder, Window, bucket_sums, differences
from gm.training.owner import owned
from gm.training.plan import Plan
from gm.training.schedule import learning_rate
from gm.training.settings import Train, TrainingSettings
from gm.training.shares import together
from gm.training.signals import StopOnSignal
from gm.training.state import TrainingState, checkpoints
from gm.training.trainer import Trainer


def train(
    settings: TrainingSettings,
    config: ModelConfig,
    argv: Sequence[str] = (),
    data: Callable[[Train], tuple[Any, ...]] = open_data,
    memory_check: bool = True,
    compile_cache: str | None = "off",
) -> int:
    """Train as the settings say, on the clips of `data` (see `Plan`). Returns the exit status.

    settings, config: of `gm.training.settings.load_settings` and `gm.model.load_model_config`. argv: the command, for
    the run's records. memory_check: UserError where the estimate says that the memory does not suffice. compile_cache:
    where graphs are kept, see `gm.compile_cache.chosen`.
    """
    plan = Plan(settings, config, data)
    folder = RunFolder(plan.train.output_dir)
    if plan.train.resume is not None and plan.train.resume != "latest":
        open_checkpoint(plan.train.resume)  # a fault is told before anything is made
    if parallel.rank() == 0:
        folder.make()
    with owned(
        folder.lock, f"another run is writing to {folder.path}: wait for it, or choose another --train.output_dir"
    ):
        if plan.train.resume is None and checkpoints(folder.checkpoints):
            raise UserError(
                f"{folder.path} already holds a run: go on with it by --train.resume=latest, or choose another "
                "--train.output_dir"
            )
        if memory_check:
            memory.check(plan)
        fill_cache(plan)
        return _Run(plan, folder, argv).run(compile_cache)


class _Run:
    """A run that is under way: a `Plan` with its trainer, folder and log."""

    def __init__(self, plan: Plan, folder: RunFolder, argv: Sequence[str]) -> None:
        self.plan, self.train, self.folder = plan, plan.train, folder
        self.first = parallel.rank() == 0
        self.trainer = Trainer(plan)
        self.source = self.trainer.resume(folder)
        self.state = self.trainer.state
        _require_equal_steps(self.state)
        plan.go_on_from(self.state.step, self.state.samples)
        if self.state.step < plan.total:
            self.trainer.go_back_to_a_batch()
            plan.go_on_from(self.state.step, self.state.samples)
        if self.first:
            self._prepare(argv)
        self.log = Log(folder, plan.total, self.state.step, self.train.log.tensorboard) if self.first else None

    def run(self, compile_cache: str | None) -> int:
        """All steps that are left; returns the exit status."""
        plan, state, trainer = self.plan, self.state, self.trainer
        needs = advice(memory.needed(plan))
        try:
            with StopOnSignal() as stop, memory_faults(needs), kept_graphs(trainer, compile_cache) as kept:
                line = what_takes_long(trainer, kept)
                if line and self.first and state.step < plan.total:
                    say(line)
                stopped = self._steps(stop)
        finally:
            if self.log is not None:
                self.log.close()
        if state.step and not trainer.optimizer.updates:
            raise UserError(
                f"none of the {state.step} steps changed the weights, as none had a finite gradient. Look for NaN in "
                "the weights of train.pretrained; in float16, go on with more --train.max_steps and "
                "--train.resume=latest, as the loss scale falls, or use --train.amp_level=O0"
            )
        if not self.first:
            return 0  # the others end well: a launcher kills all when one does not
        if state.skipped:
            print(f"{state.skipped} of {state.step} steps made no update, as their gradients were not finite")
        if trainer.exported is None:  # there was no step left to do
            trainer.export(self.folder)
        print("weights: " + ", ".join(map(str, trainer.exported or ())))
        if stopped and state.step < plan.total:
            print(
                f"stopped after step {state.step} of {plan.total}; go on with the same command and "
                "--train.resume=latest"
            )
            return 128 + (stop.number or signal.SIGTERM)
        return 0

    def _prepare(self, argv: Sequence[str]) -> None:
        """The folder's records and what the user is told, before the first step."""
        plan, folder = self.plan, self.folder
        changes = self._changes()
        if self.state.step < plan.total:
            self._require_space()
        folder.describe(plan.settings, plan.config, argv)
        if plan.calibration is not None:
            plan.calibration.save(folder.path / calibration.NAME)
        folder.cut_metrics(self.state.step if self.source is not None else None)
        self._announce(changes)

    def _changes(self) -> list[str]:
        """Lines, one for each setting with another value than in the run that the checkpoint is of."""
        if self.source is None:
            return []
        if self.state.settings_before is not None and self.state.settings is not None:
            return differences(self.state.settings_before, self.state.settings)
        # Older ones do not tell: what was last written down beside them, in a folder that may be another run's.
        return RunFolder(self.source.resolve().parent.parent).changes(self.plan.settings, self.plan.config)

    def _require_space(self) -> None:
        """UserError where the disk is too small for the checkpoints to come: one more than are kept, for a moment."""
        base = self.plan.base
        count = max(1, self.train.checkpoint.keep + 1 - len(checkpoints(self.folder.checkpoints)))
        trained = sum(4 * weight.size for weight in self.trainer.optimizer.weights)
        whole = sum(math.prod(shape) * np.dtype(base.dtype(name)).itemsize for name, shape in base.shapes.items())
        exported = (whole if self.train.save == "full" else trained) * (2 if self.train.ema else 1)
        require_space(self.folder.path, count * self.state.size() + exported)

    def _announce(self, changes: list[str]) -> None:
        plan, weights = self.plan, self.trainer.optimizer.weights
        print(f"base: {plan.base.describe()}")
        values = sum(weight.size for weight in weights)
        print(
            f"{values:,} trainable values in {len(weights)} tensors; {len(plan.dataset)} clips, "
            f"{plan.total} steps of {plan.clips_of_a_step} clips"
        )
        if plan.train.pretrained is None:
            say(
                "warning: no --train.pretrained: all starts from random values, and only the UNet is trained, not "
                "the encoders",
            )
        for line in plan.describe_sizes():
            print(line)
        for warning in plan.warnings():
            say(f"warning: {warning}")
        if self.source is not None:
            print(f"resumed from {self.source}, step {self.state.step}")
            for change in changes:
                say(f"warning: {change}")
        elif plan.train.resume is not None:
            print("no checkpoint to resume from yet: starting at step 0")

    def _steps(self, stop: StopOnSignal) -> bool:
        """The loop; returns whether it was stopped by a signal."""
        train, state, trainer, total = self.train, self.state, self.trainer, self.plan.total
        if state.step == 0:
            self._validate()
        loader = trainer.loader()
        batches = iter(loader)
        window, saved, stopped = Window(), state.step, False
        try:
            while state.step < total and not stopped:
                start = time.perf_counter()
                rate = learning_rate(state.step, train.optimizer.learning_rate, train.schedule, total)
                losses, sigmas = trainer.accumulate(loader, batches)
                norm = trainer.update(rate)
                stop.unsaved = True
                stopped = self._note(window, losses, sigmas, rate, norm, stop, start)
                if state.step % train.validation.every == 0 or state.step == total:
                    self._validate()
                    window.start = time.perf_counter()
                if train.sample.every and (state.step % train.sample.every == 0 or state.step == total):
                    self._sample()
                    window.start = time.perf_counter()
                if state.step % train.checkpoint.every == 0 or state.step == total or stopped:
                    saved = self._save()
                    stop.unsaved = False
        except UserError:  # such as too many clips that cannot be decoded: the steps so far are whole
            # The other devices know nothing of it, and go on: moments that they share out cannot be gathered any more.
            if state.step > saved and not state.spread:
                with contextlib.suppress(UserError):  # perhaps it is what failed
                    self._write(window)
                self._save()
            raise
        finally:
            batches.close()
        return stopped

    def _note(
        self,
        window: Window,
        losses: list[float],
        sigmas: list[float],
        rate: float,
        norm: float,
        stop: StopOnSignal,
        start: float,
    ) -> bool:
        """Metrics of a step, over all devices; returns whether any of them was asked to stop."""
        sums, counts = bucket_sums(losses, sigmas)
        levels = np.zeros(len(sigmas) * parallel.size())
        levels[parallel.rank() :: parallel.size()] = sigmas  # in the order of the clips, see gm/data/clips.py
        total = parallel.total(np.concatenate([sums, counts, levels, [stop.requested]]).astype(np.float32))
        sums, counts, levels = np.split(total[:-1], [len(sums), 2 * len(sums)])
        sigmas = levels.tolist()
        state, log, loss_scale = self.state, self.log, self.trainer.loss_scale
        window.add(
            sums,
            counts,
            sigmas,
            step=state.step,
            lr=rate,
            grad_norm=norm,
            skipped=state.skipped,
            loss_scale=loss_scale.scale,
        )
        if log is not None:
            # Not where float16's loss scale is only finding its size.
            if not math.isfinite(norm) and not (loss_scale.dynamic and math.isfinite(sums.sum())):
                log.skipped(state.step, sums.sum(), sigmas)
            log.advance(sums.sum() / counts.sum(), counts.sum() / (time.perf_counter() - start))
            # Also with every checkpoint: a run that goes on from it knows nothing of the steps before.
            due = any(state.step % every == 0 for every in (self.train.log.every, self.train.checkpoint.every))
            if due or state.step == self.plan.total or total[-1]:
                self._write(window)
        return bool(total[-1])

    def _write(self, window: Window) -> None:
        """A line of metrics.jsonl for the steps since the last one, if there are any."""
        if self.log is not None and window.steps:
            numbers = window.numbers()
            window.clear()
            self.log.write("train", **numbers)

    def _validate(self) -> None:
        if self.trainer.validation is None:
            return
        found = self.trainer.validation.run()
        if self.log is not None:
            self.log.write("validation", self.state.step, **found)
            self.log.say(f"step {self.state.step}: validation loss {found['loss']:.4f}")

    def _sample(self) -> None:
        """A video by the first device, for which the others wait."""
        with together(self.folder.path):
            if self.trainer.samples and self.log:
                self.log.say(f"sample video: {self.trainer.samples.write(self.folder.samples, self.state.step)}")

    def _save(self) -> int:
        self.state.save(self.folder.checkpoints, self.train.checkpoint.keep)
        if self.log is not None:
            self.trainer.export(self.folder)
        return self.state.step


def _require_equal_steps(state: TrainingState) -> None:
    """UserError on every device where one of them resumes from another step, or none: their weights would differ."""
    first = parallel.mean([state.step if parallel.rank() == 0 else 0])[0] * parallel.size()
    if parallel.mean([float(state.step != round(first))])[0]:
        raise UserError(
            f"this device is at step {state.step}, the first one at {first:.0f}: all servers must see the same "
            "--train.output_dir, in a folder that they share"
        )
