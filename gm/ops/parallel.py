"""Several devices, one process for each: which of them this is, and means over all of them."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import numpy as np
from mindspore import Tensor, communication, nn, ops

from gm.errors import UserError

_ready = False


def init() -> None:
    """Join the other workers that MindSpore's launcher (msrun) started. Call once, after `gm.ops.set_device`.

    Raises:
        UserError: this process was not started by a launcher, or the workers do not find each other.
    """
    global _ready
    if "MS_WORKER_NUM" not in os.environ and "RANK_TABLE_FILE" not in os.environ:
        raise UserError(
            "environment.distributed=True: start the workers with MindSpore's launcher, "
            "msrun --worker_num=2 --local_worker_num=2 --join=True python train.py …"
        )
    try:
        communication.init()
    except RuntimeError as error:
        raise UserError(f"the workers cannot reach each other: {str(error).strip().splitlines()[0]}") from error
    _ready = True


def rank() -> int:
    """Number of this process, from 0."""
    return communication.get_rank() if _ready else 0


def size() -> int:
    """How many processes there are."""
    return communication.get_group_size() if _ready else 1


class Sum(nn.Cell):
    """The sum over all processes of a tensor that each of them has with the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = ops.AllReduce() if size() > 1 else None

    def construct(self, x: Tensor) -> Tensor:
        if self.sum is None:
            return x
        return self.sum(x)


class Mean(Sum):
    """The mean instead."""

    def __init__(self) -> None:
        super().__init__()
        self.size = size()

    def construct(self, x: Tensor) -> Tensor:
        if self.sum is None:
            return x
        return self.sum(x) / self.size


@functools.lru_cache(maxsize=2)
def _cell(kind: type[Sum]) -> Sum:
    return kind()  # one for all calls: graph mode compiles each cell anew


def mean(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Numbers (a sequence of floats) -> their means over all processes, float32 array."""
    values = np.asarray(values, np.float32)
    return values if size() == 1 else _cell(Mean)(Tensor(values)).asnumpy()


def total(array: np.ndarray) -> np.ndarray:
    """The sum over all processes of a float32 array that each of them has with the same shape."""
    return array if size() == 1 else _cell(Sum)(Tensor(array)).asnumpy()
