"""One stage: a loss, the parameters it trains and batches drawn by step number. Can be cut off and resumed anywhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import numpy as np
from mindspore import Parameter, Tensor, nn

from gm.errors import UserError
from gm.training.log import Log, RunFolder
from gm.training.loss_scale import LossScale
from gm.training.optimizer import AdamW
from gm.training.owner import owned
from gm.training.schedule import learning_rate
from gm.training.settings import LossScaling
from gm.training.signals import StopOnSignal
from gm.training.state import TrainingState
from gm.training.step import GradientSums

if TYPE_CHECKING:
    from gm.pretraining.settings import Stage

_NO_SCALE = LossScaling(initial=1.0, growth_steps=1)  # float32 needs none


class Stopped(Exception):
    """A signal ended a stage early; its state is saved. Arguments: the stage's folder, the exit status."""


class Phase(NamedTuple):
    """A loss cell, {full name: parameter} to train, function of the step's number -> arrays for the loss."""

    loss: nn.Cell
    parameters: dict[str, Parameter]
    batch: Callable[[int], tuple[np.ndarray, ...]]


def run_stage(folder: str | Path, phase: Phase, settings: Stage, record: Mapping[str, Any]) -> None:
    """Train `phase` for settings.steps steps, or the rest of them.

    Args:
        folder: of the stage; gets checkpoints, metrics.jsonl.
        settings: a section of the recipe with steps, checkpoint_every, optimizer and schedule.
        record: {name: value} that a resumed stage must have in common with the one that was interrupted.

    Raises:
        Stopped: after a signal (see `gm.interrupts`), with the state saved. UserError: a loss that is no longer finite.
    """
    run = RunFolder(Path(folder))
    run.make()
    with owned(run.lock, f"another run is writing to {run.path}: wait for it, or choose another --output_dir"):
        _run(run, phase, settings, record)


def _run(folder: RunFolder, phase: Phase, settings: Stage, record: Mapping[str, Any]) -> None:
    gradients = GradientSums(phase.loss, phase.parameters)
    optimizer = AdamW(phase.parameters, gradients.sums, settings.optimizer)
    state = TrainingState(optimizer, None, LossScale(_NO_SCALE, dynamic=False), dict(record))
    state.load_latest(folder.checkpoints)
    folder.cut_metrics(state.step)
    log = Log(folder, settings.steps, state.step, tensorboard=False)
    try:
        with StopOnSignal() as stop:
            while state.step < settings.steps:
                start = time.perf_counter()
                rate = learning_rate(state.step, settings.optimizer.learning_rate, settings.schedule, settings.steps)
                inputs = (Tensor(np.ascontiguousarray(part, np.float32)) for part in phase.batch(state.step))
                loss = float(gradients(Tensor(np.float32(1)), *inputs).asnumpy().mean())
                norm = optimizer.step(rate, 1)
                if not np.isfinite(norm):
                    raise UserError(f"step {state.step}: the gradient is not finite; lower the learning rate")
                state.step += 1
                stop.unsaved = True
                seconds = time.perf_counter() - start
                log.advance(loss, 1 / seconds)
                log.write("train", state.step, loss=loss, lr=rate, grad_norm=norm, seconds=seconds)
                if state.step % settings.checkpoint_every == 0 or state.step == settings.steps or stop.requested:
                    state.save(folder.checkpoints, 1)
                    stop.unsaved = False
                if stop.requested:
                    raise Stopped(str(folder.path), 128 + (stop.number or 0))
    finally:
        log.close()
