"""The loss of held-out clips at fixed noise levels, with the same frames and noise each time: comparable over a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable

import numpy as np

from gm.diffusion.loss import DiffusionLoss
from gm.ops import parallel
from gm.training.draws import Draws, validation_draws
from gm.training.examples import Encoded, Example, tensors
from gm.training.settings import Train, size_name
from gm.training.shares import together


class Validation:
    """Losses of the current weights.

    Args:
        loss: the `DiffusionLoss` cell that training uses.
        held_out: {(height, width): `ClipDataset`}; every device takes its share of the first `clips` of each.
        encode: function (clip's sample, draws) -> `Encoded`.
        example: function (`Encoded`, draws) -> `Example`.
        shapes: function (size) -> (latent_shape, pixel_shape) of a sample.
    """

    def __init__(
        self,
        loss: DiffusionLoss,
        held_out: dict[tuple[int, int], Any],
        encode: Callable[[dict[str, Any], Draws], Encoded],
        example: Callable[[Encoded, Draws], Example],
        shapes: Callable[[tuple[int, int]], tuple[tuple[int, ...], tuple[int, ...]]],
        train: Train,
    ) -> None:
        self.loss, self.held_out, self.shapes, self.train = loss, held_out, shapes, train
        self.encode, self.example = encode, example
        self._examples: list[tuple[int, int, int, Example]] | None = None

    def _prepared(self) -> list[tuple[int, int, int, Example]]:
        """Encoded once and kept: latents are 48 times smaller than pixels."""
        if self._examples is None:
            self._examples = []
            clips = [
                (part, size, dataset, clip)
                for part, (size, dataset) in enumerate(self.held_out.items())
                for clip in range(min(self.train.validation.clips, len(dataset)))
            ]
            for clip in clips[parallel.rank() :: parallel.size()]:
                self._examples += self._of_clip(*clip)
        return self._examples

    def _of_clip(
        self, part: int, size: tuple[int, int], dataset: Any, clip: int
    ) -> Iterator[tuple[int, int, int, Example]]:
        """(part, noise level's index, frames, example) of a clip at each noise level."""
        encoded = None
        for index, sigma in enumerate(self.train.validation.sigmas):
            draws = validation_draws(self.train.seed, clip, index, sigma, self.train.loss, *self.shapes(size), part)
            encoded = encoded or self.encode(dataset.at(clip), draws)
            yield part, index, dataset.frames, self.example(encoded, draws)

    def run(self) -> dict[str, Any]:
        """{"loss": mean over noise levels, "loss_at": {sigma: mean over clips}}, and where the clips are of several
        sizes "loss_of_size": {such as "576x1024": as "loss" of these clips alone}."""
        sigmas = list(self.train.validation.sigmas)
        sums, counts = np.zeros((2, len(self.held_out), len(sigmas)))
        with together(self.train.output_dir):  # some have a clip more than others, or none
            for part, index, frames, example in self._prepared():
                sums[part, index] += self.loss(*tensors(example), frames).asnumpy().mean()
                counts[part, index] += 1
        sums, counts = parallel.mean(np.ravel([sums, counts])).reshape(2, *sums.shape)
        means = sums.sum(0) / counts.sum(0)
        found = {"loss": float(means.mean()), "loss_at": {f"{s:g}": float(m) for s, m in zip(sigmas, means)}}
        if len(self.held_out) > 1:
            of_size = (sums / counts).mean(1)
            found["loss_of_size"] = {size_name(size): float(mean) for size, mean in zip(self.held_out, of_size)}
        return found
