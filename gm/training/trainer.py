"""What a run is made of, and what one step of it does."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from gm.data.loader import ClipLoader
from gm.diffusion.loss import DiffusionLoss
from gm.errors import UserError
from gm.ops import parallel
from gm.precision import needs_loss_scale
from gm.sizes import embedding_width
from gm.training.draws import Draws
from gm.training.ema import Ema
from gm.training.examples import Encoded, Encoders, Example, encode, join, make_example, tensors
from gm.training.export import export
from gm.training.log import RunFolder
from gm.training.lora import add_lora, initial_lora, lora_alpha
from gm.training.loss_scale import LossScale
from gm.training.optimizer import AdamW
from gm.training.plan import Plan
from gm.training.sample import SampleVideo
from gm.training.settings import precision
from gm.training.state import TrainingState, checkpoints, step_of
from gm.training.step import GradientSums, recompute_blocks, trainable_parameters
from gm.training.validation import Validation

_MOST_SKIPPED = 30  # steps in a row without an update: float16 needs 24 halvings at the very most
_log = logging.getLogger(__name__)


class Trainer:
    """A loaded run, of a `Plan`: `accumulate` and `update` are a step."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.train = plan, plan.train
        amp_level = precision(self.train)
        denoiser = plan.base.load("unet", amp_level)
        denoiser.set_train(True)
        if self.train.recompute:
            recompute_blocks(denoiser.unet)
        lora = self.train.lora
        if lora.rank:
            parameters = add_lora(denoiser, lora, self.train.temporal_only, self.train.seed)
        else:
            parameters = trainable_parameters(denoiser, self.train.temporal_only)
        self.encoders = Encoders(plan.config, plan.base, amp_level) if self.train.cache is None else None
        self.loss = DiffusionLoss(denoiser)
        self.gradients = GradientSums(self.loss, parameters)
        self.optimizer = AdamW(parameters, self.gradients.sums, self.train.optimizer, self.initial_value)
        self.ema = Ema(list(parameters), self.optimizer.weights) if self.train.ema else None
        self.loss_scale = LossScale(self.train.loss_scale, dynamic=needs_loss_scale(amp_level))
        self.state = TrainingState(self.optimizer, self.ema, self.loss_scale, plan.fixed(), plan.told())
        self.validation = None
        if plan.held_out:
            self.validation = Validation(self.loss, plan.held_out, self.encode, self.example, plan.shapes, self.train)
        self.samples = None
        if self.train.sample.every is not None and parallel.rank() == 0:
            self.samples = SampleVideo(plan.config, plan.base, denoiser, self.train)
        self.skipped_in_a_row = 0
        self.exported: list[Path] | None = None  # the paths of the weights written last

    def initial_value(self, name: str) -> np.ndarray:
        """Of a trained parameter, float32, by its full name."""
        lora = self.train.lora
        return (
            initial_lora(name, lora.rank, self.plan.base.shapes, self.train.seed)
            if lora.rank
            else self.plan.base.read(name)
        )

    def export(self, folder: RunFolder) -> None:
        """Write the weights as train.save says."""
        names, weights = list(self.optimizer.parameters), self.optimizer.weights
        alpha = lora_alpha(self.train.lora)
        self.exported = export(folder.weights, self.train.save, self.plan.base, names, weights, self.ema, alpha)

    def encode(self, sample: dict[str, Any], draws: Draws) -> Encoded:
        if self.encoders is None:
            return Encoded(*(sample[name] for name in Encoded._fields))
        return encode(self.encoders, sample, draws)

    def example(self, encoded: Encoded, draws: Draws) -> Example:
        return make_example(encoded, draws, embedding_width(self.plan.config.model))

    def resume(self, folder: RunFolder) -> Path | None:
        """Continue where train.resume says; returns the checkpoint's path or None."""
        if self.train.resume is None:
            return None
        if self.train.resume == "latest":
            return self.state.load_latest(folder.checkpoints)
        self.state.load(self.train.resume)
        later = [path for path in checkpoints(folder.checkpoints) if step_of(path) > self.state.step]
        if later:
            raise UserError(
                f"{self.train.resume} is of step {self.state.step}, but {later[-1]} is later: move later ones away, "
                "or choose another --train.output_dir"
            )
        return Path(self.train.resume)

    def go_back_to_a_batch(self) -> None:
        """Batches begin at multiples of their size, which may have changed since the checkpoint. Clips that are shown
        again for that are counted again too: else the run would end, or change the size once more, with clips left
        out."""
        again = self.state.samples % self.plan.global_batch
        if again:
            _log.warning("the batch size changed since the checkpoint: %d clips will be shown again", again)
            self.state.samples -= again

    def loader(self) -> ClipLoader:
        settings, done = self.train.loader, self.state.samples
        return ClipLoader(
            self.plan.dataset,
            settings.batch_size,
            parallel.rank(),
            parallel.size(),
            settings.workers,
            settings.prefetch,
            done // self.plan.global_batch,
            settings.max_failed_share,
        )

    def batch_example(self, loader: ClipLoader, batch: dict[str, Any]) -> Example:
        """Example of one of the loader's batches."""
        examples = []
        for i, position in enumerate(loader.positions(batch["batch"])):
            draws = self.plan.training_draws(position)
            sample = {name: values[i] for name, values in batch.items() if name != "batch"}
            examples.append(self.example(self.encode(sample, draws), draws))
        return join(examples)

    def accumulate(self, loader: ClipLoader, batches: Iterator[dict[str, Any]]) -> tuple[list[float], list[float]]:
        """Gradients of the batches of one step -> (losses, sigmas) of this device's clips."""
        scale = Tensor(np.float32(self.loss_scale.scale))
        t = self.train.dataset.init_args.frames
        losses: list[float] = []
        sigmas: list[float] = []
        for _ in range(self.train.optimizer.accumulate):
            example = self.batch_example(loader, next(batches))
            found = self.gradients(scale, *tensors(example), t).asnumpy()
            losses += found.reshape(-1, t).mean(1).tolist()
            sigmas += example.sigma[::t].tolist()
        return losses, sigmas

    def update(self, rate: float) -> float:
        """The optimizer's part of a step; returns the gradient's norm."""
        norm = self.optimizer.step(rate, self.loss_scale.scale * self.train.optimizer.accumulate)
        overflow = not math.isfinite(norm)
        self.loss_scale.update(overflow)
        self.state.skipped += overflow
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if overflow else 0
        if self.ema is not None and not overflow:
            self.ema.update(self.optimizer.updates)
        self.state.step += 1
        self.state.samples += self.plan.clips_of_a_step
        if self.skipped_in_a_row >= _MOST_SKIPPED:
            raise UserError(
                f"step {self.state.step}: the gradient was not finite {self.skipped_in_a_row} times in a row. Resume "
                "from an earlier checkpoint with a lower --train.optimizer.learning_rate, or use --train.amp_level=O0"
            )
        return norm
