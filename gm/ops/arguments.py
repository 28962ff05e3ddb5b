"""How a compiled kernel is told a number: it takes tensors alone, and these are constants of the graph."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, ops


@ops.constexpr
def constant(value: float) -> Tensor:
    """float32 (1,) of that value."""
    return Tensor(np.array([value], np.float32))


@ops.constexpr
def of_length(count: int) -> Tensor:
    """Zeros float32 (count,): a tensor whose length is the number."""
    return Tensor(np.zeros(count, np.float32))


@ops.constexpr
def complement(share: float) -> Tensor:
    """float32 (1,) of 1 - share, which a graph would subtract in float32: 5e-5 off for 0.999."""
    return Tensor(np.array([1 - share], np.float32))
