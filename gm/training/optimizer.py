"""AdamW on summed gradients: mean over devices, global norm, clipping, update of float32 weights."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from gm.ops import parallel
from gm.training.step import Clear, zeros_like_each

_adam = ops.AdamWeightDecay()


def _mean(reduce, total):
    return ops.assign(total, reduce(total))


def _square_sum(factor, total):
    g = total * factor
    return ops.reduce_sum(g * g)


def _update(rate, beta1, beta2, eps, decay, factor, weight, first, second, total, decayed):
    return _adam(weight, first, second, rate, beta1, beta2, eps, decay * decayed, total * factor)


def _copy(parameter, weight):
    return ops.assign(parameter, weight.astype(parameter.dtype))


class _Mean(nn.Cell):
    """Replace the gradients by their means over all devices."""

    def __init__(self, sums):
        super().__init__(auto_prefix=False)
        self.sums = sums
        self.reduce = parallel.Mean()
        self.map = ops.HyperMap()

    def construct(self):
        return self.map(ops.partial(_mean, self.reduce), self.sums)


class _Norm(nn.Cell):
    """Length of all gradients together, of factor * sums."""

    def __init__(self, sums):
        super().__init__(auto_prefix=False)
        self.sums = sums
        self.map = ops.HyperMap()

    def construct(self, factor):
        return ops.sqrt(ops.addn(self.map(ops.partial(_square_sum, factor), self.sums)))


class _Update(nn.Cell):
    """The update itself, one fused kernel for each weight."""

    def __init__(self, optimizer):
        super().__init__(auto_prefix=False)
        self.weights, self.first, self.second = optimizer.weights, optimizer.first, optimizer.second
        self.sums = optimizer.sums
        self.beta1, self.beta2 = optimizer.settings.beta1, optimizer.settings.beta2
        self.decayed = tuple(1.0 if len(w.shape) > 1 else 0.0 for w in optimizer.weights)
        # Weights of a float16 network are kept in float32 here and copied into it after each update.
        pairs = [(p, w) for p, w in zip(optimizer.parameters.values(), optimizer.weights) if p is not w]
        self.copies = tuple(ParameterTuple([pair[i] for pair in pairs]) for i in (0, 1)) if pairs else None
        self.map = ops.HyperMap()

    def construct(self, rate, eps, decay, factor):
        function = ops.partial(_update, rate, self.beta1, self.beta2, eps, decay, factor)
        done = self.map(function, self.weights, self.first, self.second, self.sums, self.decayed)
        if self.copies is not None:
            done = ops.depend(rate, done), self.map(_copy, self.copies[0], self.copies[1])
        return ops.depend(rate, done)


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
        first, second: the running means of gradients and of their squares.
        updates: how many updates were made; a skipped step does not count.
    """

    def __init__(self, parameters, sums, settings, read=None):
        self.parameters, self.sums, self.settings = parameters, sums, settings
        self.weights = ParameterTuple([p if p.dtype == ms.float32 else _master(n, read) for n, p in parameters.items()])
        self.first = zeros_like_each(parameters, "adam.first")
        self.second = zeros_like_each(parameters, "adam.second")
        self.updates = 0
        self._mean = _Mean(sums) if parallel.size() > 1 else None
        self._norm, self._update, self._clear = _Norm(sums), _Update(self), Clear(sums)

    def step(self, learning_rate, divisor):
        """Update from the sums divided by `divisor` and clear them; returns the norm of the gradient before clipping.

        A norm that is not finite means that a gradient overflowed: nothing is updated then.
        """
        if self._mean is not None:
            self._mean()
        norm = float(self._norm(_scalar(1 / divisor)).asnumpy())
        if math.isfinite(norm):
            self._apply(learning_rate, self._clip(norm) / divisor)
        self._clear()
        return norm

    def _clip(self, norm):
        limit = self.settings.clip_norm
        return 1.0 if limit is None or norm <= limit else limit / norm

    def _apply(self, learning_rate, factor):
        self.updates += 1
        c1 = 1 - self.settings.beta1**self.updates
        c2 = math.sqrt(1 - self.settings.beta2**self.updates)
        rate, eps, decay = learning_rate * c2 / c1, self.settings.eps * c2, self.settings.weight_decay * c1 / c2
        self._update(*(_scalar(x) for x in (rate, eps, decay, factor)))

    def copy_to_network(self):
        """Give a float16 network the weights, after they were loaded."""
        for p, w in zip(self.parameters.values(), self.weights):
            if p is not w:
                p.set_data(Tensor(w.asnumpy(), p.dtype))


def _master(name, read):
    return Parameter(Tensor(np.array(read(name), np.float32)), name=f"master.{name}", requires_grad=False)


def _scalar(x):
    return Tensor(np.float32(x))
