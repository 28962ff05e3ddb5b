"""A running mean of the weights, which often gives better videos than the last weights do."""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from gm.training.parts import parts

MAX_DECAY = 0.9999


def decay_after(updates: int) -> float:
    """Decay of the n-th mean (n from 1): min(0.9999, (1 + n) / (10 + n)), so that the start is soon forgotten."""
    return min(MAX_DECAY, (1 + updates) / (10 + updates))


def _blend(share: Tensor, mean: Parameter, weight: Parameter) -> Tensor:
    return ops.assign_add(mean, (weight - mean) * share)


class _Blend(nn.Cell):
    def __init__(self, means: ParameterTuple, weights: ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.means, self.weights = means, weights
        self.map = ops.HyperMap()

    def construct(self, share: Tensor) -> tuple[Tensor, ...]:
        return self.map(ops.partial(_blend, share), self.means, self.weights)


class Ema:
    """The mean of float32 weights; `means` are parameters of its own, equal to the weights at first."""

    def __init__(self, names: list[str], weights: ParameterTuple) -> None:
        self.means = ParameterTuple(
            [
                Parameter(Tensor(np.array(w.asnumpy())), name=f"ema.{name}", requires_grad=False)
                for name, w in zip(names, weights)
            ]
        )
        self._parts = [_Blend(*part) for part in parts(self.means, weights)]

    def update(self, updates: int) -> None:
        """Take the weights after update number `updates` into the mean."""
        for part in self._parts:
            part(Tensor(np.float32(1 - decay_after(updates))))
