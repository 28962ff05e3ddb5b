"""The loss of held-out clips at fixed noise levels, with the same frames and noise each time: comparable over a run."""

from __future__ import annotations

import numpy as np

from gm.ops import parallel
from gm.training.draws import validation_draws
from gm.training.examples import tensors


class Validation:
    """Losses of the current weights.

    Args:
        loss: the `DiffusionLoss` cell that training uses.
        dataset: the held-out `ClipDataset`; each device takes its share of the first `clips` of them.
        encode: function (clip's sample, draws) -> `Encoded`.
        example: function (`Encoded`, draws) -> `Example`.
        shapes: (latent_shape, pixel_shape) of a sample.
    """

    def __init__(self, loss, dataset, encode, example, shapes, train):
        self.loss, self.dataset, self.shapes, self.train = loss, dataset, shapes, train
        self.encode, self.example = encode, example
        self._examples = None

    def _prepared(self):
        """Encoded once and kept: latents are 48 times smaller than pixels."""
        if self._examples is None:
            self._examples = []
            clips = range(parallel.rank(), min(self.train.validation.clips, len(self.dataset)), parallel.size())
            for clip in clips:
                encoded = None
                for index, sigma in enumerate(self.train.validation.sigmas):
                    draws = validation_draws(self.train.seed, clip, index, sigma, self.train.loss, *self.shapes)
                    encoded = encoded or self.encode(self.dataset.at(clip), draws)
                    self._examples.append((index, self.example(encoded, draws)))
        return self._examples

    def run(self):
        """{"loss": mean over noise levels, "loss_at": {sigma: mean over clips}}."""
        sigmas = list(self.train.validation.sigmas)
        sums, counts = np.zeros(len(sigmas)), np.zeros(len(sigmas))
        for index, example in self._prepared():
            losses = self.loss(*tensors(example), self.dataset.frames).asnumpy()
            sums[index] += losses.mean()
            counts[index] += 1
        total = parallel.mean([*sums, *counts])
        means = total[: len(sigmas)] / total[len(sigmas):]
        return {"loss": float(means.mean()), "loss_at": {f"{s:g}": float(m) for s, m in zip(sigmas, means)}}
