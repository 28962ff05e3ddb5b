"""Group norms of a picture that is computed tile by tile, with the statistics of the whole of it.

A norm in the middle of a network needs sums over all tiles of what the norms before it made, so the statistics are
found by repetition: the network goes over all tiles, each norm adds up what it sees and normalises by what was found in
the round before (in the first round, by its own tile). After n rounds the first n norms are exact, and the others near.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from gm import ops
from gm.networks.layers import GROUPS


def zeros(name: str, *shape: int) -> Parameter:
    """A parameter of zeros that is not trained, with a name of its own."""
    return Parameter(Tensor(np.zeros(shape, np.float32)), name=name, requires_grad=False)


class SharedStatistics(nn.Cell):
    """Where a `GroupNorm` takes its statistics from.

    Args:
        name: of the norm, for the parameters' names.
        rows: how many pictures, or videos, are normalised each by itself.
        eps: the norm's.
        mask: Parameter (s, 1) of ones and zeros: which of the s pixels of a tile are counted.
    """

    def __init__(self, name: str, rows: int, eps: float, mask: Parameter) -> None:
        super().__init__()
        self.eps, self.mask = eps, mask
        self.mean = zeros(f"{name}.mean", rows, GROUPS)
        self.rstd = zeros(f"{name}.rstd", rows, GROUPS)
        self.known = zeros(f"{name}.known", 1)  # 0 in the first round, then 1
        self.sums = zeros(f"{name}.sums", 3, rows, GROUPS)  # of ones, of the values and of their squares

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x (rows, c, ...), the last axis or two being the pixels; weight, bias (c,)."""
        rows, c = x.shape[0], x.shape[1]
        flat = x.astype(ms.float32).reshape(-1, self.mask.shape[0])
        first = ops.matmul(flat, self.mask).reshape(rows, GROUPS, -1).sum(-1)
        second = ops.matmul(flat * flat, self.mask).reshape(rows, GROUPS, -1).sum(-1)
        count = ops.zeros_like(first) + self.mask.sum() * (flat.shape[0] // (rows * GROUPS))
        ops.assign(self.sums, ops.cat((count, first, second), 0).reshape(3, rows, GROUPS))
        own = first / count
        mean = own + self.known * (self.mean - own)
        own = 1 / ops.sqrt(second / count - own * own + self.eps)
        rstd = own + self.known * (self.rstd - own)
        scale = weight.reshape(1, GROUPS, -1) * rstd.reshape(rows, GROUPS, 1)
        shift = bias.reshape(1, GROUPS, -1) - scale * mean.reshape(rows, GROUPS, 1)
        return ops.affine_per_channel(x, scale.reshape(rows, c), shift.reshape(rows, c))

    def forget(self) -> None:
        """Begin with the first round."""
        self.known.set_data(Tensor(np.zeros(1, np.float32)))

    def learn(self, sums: np.ndarray) -> None:
        """Take the statistics of the next round from sums, float64 (3, rows, GROUPS), over all tiles."""
        mean = sums[1] / sums[0]
        variance = np.maximum(sums[2] / sums[0] - mean**2, 0)
        for p, value in ((self.mean, mean), (self.rstd, 1 / np.sqrt(variance + self.eps)), (self.known, np.ones(1))):
            p.set_data(Tensor(value.astype(np.float32)))
