"""AdamW on summed gradients: mean over devices, global norm, clipping, update of float32 weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Callable

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn
from mindspore.ops import HyperMap, partial

from gm import compile_cache, ops
from gm.ops import parallel
from gm.training.parts import parts
from gm.training.settings import Optimizer
from gm.training.step import Clear, zeros_like_each


def _mean(reduce: nn.Cell, total: Parameter) -> Tensor:
    return ops.assign(total, reduce(total))


def _take(reduce: nn.Cell, weight: Parameter, mine: float) -> Tensor:
    return ops.assign(weight, reduce(weight * mine))


def _copy(parameter: Parameter, weight: Parameter) -> Tensor:
    return ops.assign(parameter, weight.astype(parameter.dtype))


class _Mean(nn.Cell):
    """Replace the gradients by their means over all devices."""

    def __init__(self, sums: ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.sums = sums
        self.reduce = parallel.Mean()
        self.map = HyperMap()

    def construct(self) -> tuple[Tensor, ...]:
        return self.map(partial(_mean, self.reduce), self.sums)


class _Squares(nn.Cell):
    """Sum of the squares of all values of some sums."""

    def __init__(self, sums: ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.sums = sums

    def construct(self) -> Tensor:
        return ops.square_sum(self.sums)


class _Update(nn.Cell):
    """The update of some weights, see `gm.ops.reference.adamw`; their sums are cleared."""

    def __init__(
        self,
        settings: Optimizer,
        weights: ParameterTuple,
        first: ParameterTuple,
        second: ParameterTuple,
        sums: ParameterTuple,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.weights, self.first, self.second, self.sums = weights, first, second, sums
        self.beta1, self.beta2 = settings.beta1, settings.beta2

    def construct(self, rate: Tensor, eps: Tensor, decay: Tensor, factor: Tensor) -> Tensor:
        groups = self.weights, self.first, self.second, self.sums
        return ops.adamw(*groups, rate, self.beta1, self.beta2, eps, decay, factor)


class _Share(nn.Cell):
    """Give every device the weights that the others have updated."""

    def __init__(self, optimizer: AdamW) -> None:
        super().__init__(auto_prefix=False)
        self.weights, self.sum = optimizer.weights, parallel.Sum()
        self.mine = tuple(map(float, optimizer.mine))
        self.map = HyperMap()

    def construct(self) -> tuple[Tensor, ...]:
        return self.map(partial(_take, self.sum), self.weights, self.mine)


class _Copy(nn.Cell):
    """Give a float16 network the weights, which are kept in float32 beside it."""

    def __init__(self, parameters: ParameterTuple, weights: ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.parameters, self.weights = parameters, weights
        self.map = HyperMap()

    def construct(self) -> tuple[Tensor, ...]:
        return self.map(_copy, self.parameters, self.weights)


class AdamW:
    """Decoupled weight decay (Loshchilov & Hutter 2019), PyTorch's order of operations, on weights with >= 2 axes.

    MindSpore 2.8 has nn.AdamWeightDecay without bias correction (5.6e-4 off after 3 steps of lr 1e-3), mint's AdamW
    without a CPU kernel, and an experimental one that takes a minute to compile. Its fused kernel does
    w -= r * (m / (sqrt(v) + e) + d * w), so with c1 = 1 - beta1**n and c2 = sqrt(1 - beta2**n) the choice
    r = lr * c2 / c1, e = eps * c2, d = decay * c1 / c2 is exactly AdamW.

    Args:
        parameters: {full name: parameter} of the network.
        sums: the sums of their gradients, float32 parameters (see `GradientSums`).
        settings: the section train.optimizer.
        read: function of a full name -> the parameter's values, for those that the network has as float16.

    Attributes:
        weights: the float32 weights, in the order of parameters: the network's own where they are float32.
        mine: which of them this device updates: all, or with settings.shard its share of them.
        moments: {"first": {name: parameter}, "second": …}: running means of the gradients of those weights and of
            their squares.
        updates: how many updates were made; a skipped step does not count.
    """

    def __init__(
        self,
        parameters: dict[str, Parameter],
        sums: ParameterTuple,
        settings: Optimizer,
        read: Callable[[str], np.ndarray] | None = None,
    ) -> None:
        self.parameters, self.sums, self.settings = parameters, sums, settings
        self.weights = ParameterTuple([p if p.dtype == ms.float32 else _master(n, read) for n, p in parameters.items()])
        sizes = [w.size for w in self.weights]
        self.mine = (
            [owner == parallel.rank() for owner in owners(sizes, parallel.size())]
            if settings.shard
            else [True] * len(sizes)
        )
        own = {name: p for (name, p), mine in zip(parameters.items(), self.mine) if mine}
        self.moments = {kind: dict(zip(own, zeros_like_each(own, f"adam.{kind}"))) for kind in ("first", "second")}
        self.updates = 0
        self._mean = _Mean(sums) if parallel.size() > 1 else None
        self._squares, self._clear = [_Squares(*part) for part in parts(sums)], Clear(sums)
        updated = ([p for p, mine in zip(group, self.mine) if mine] for group in (self.weights, sums))
        own_weights, own_sums = updated
        moments = (list(group.values()) for group in self.moments.values())
        self._updates = [_Update(settings, *part) for part in parts(own_weights, *moments, own_sums)]
        others = [total for total, mine in zip(sums, self.mine) if not mine]
        pairs = [(p, w) for p, w in zip(parameters.values(), self.weights) if p is not w]
        self._after = [_Share(self), Clear(others)] if others else []
        self._after += [_Copy(*part) for part in parts(*map(list, zip(*pairs)))] if pairs else []

    def step(self, learning_rate: float, divisor: float) -> float:
        """Update from the sums divided by `divisor` and clear them; returns the norm of the gradient before clipping.

        A norm that is not finite means that a gradient overflowed: nothing is updated then.
        """
        if self._mean is not None:
            self._mean()
        squares = [cell() for cell in self._squares]
        norm = math.sqrt(sum(float(each.asnumpy()) for each in squares)) / divisor
        if math.isfinite(norm):
            self._apply(learning_rate, self._clip(norm) / divisor)
        else:
            compile_cache.stop()  # clearing is compiled in the update's place, which comes later, after something else
            self._clear()
        return norm

    def _clip(self, norm: float) -> float:
        limit = self.settings.clip_norm
        return 1.0 if limit is None or norm <= limit else limit / norm

    def _apply(self, learning_rate: float, factor: float) -> None:
        self.updates += 1
        c1 = 1 - self.settings.beta1**self.updates
        c2 = math.sqrt(1 - self.settings.beta2**self.updates)
        rate, eps, decay = learning_rate * c2 / c1, self.settings.eps * c2, self.settings.weight_decay * c1 / c2
        for update in self._updates:
            update(*(_scalar(x) for x in (rate, eps, decay, factor)))
        cell: Any
        for cell in self._after:
            cell()

    def moment(self, kind: str, name: str) -> np.ndarray:
        """A running mean as an array, from the device that has it: all devices must ask for the same."""
        p: Any = self.moments[kind].get(name)
        if not self.settings.shard:
            return p.asnumpy()
        return parallel.total(np.zeros(self.parameters[name].shape, np.float32) if p is None else p.asnumpy())

    def copy_to_network(self) -> None:
        """Give a float16 network the weights, after they were loaded."""
        for p, w in zip(self.parameters.values(), self.weights):
            if p is not w:
                p.set_data(Tensor(w.asnumpy(), p.dtype))


def owners(sizes: Sequence[int], devices: int) -> list[int]:
    """Which device updates each weight, so that all have about as many values: the largest first, each to the device
    that has the least."""
    loads, found = [0] * devices, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        found[index] = loads.index(min(loads))
        loads[found[index]] += sizes[index]
    return found


def _master(name: str, read: Any) -> Parameter:
    return Parameter(Tensor(np.array(read(name), np.float32)), name=f"master.{name}", requires_grad=False)


def _scalar(x: float) -> Tensor:
    return Tensor(np.float32(x))
