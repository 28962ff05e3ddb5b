"""Values in another type, where they fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from gm.errors import UserError


def cast(array: np.ndarray, dtype: Any, name: str, remedy: str) -> np.ndarray:
    """`array` as `dtype`. UserError, with the remedy, for values beyond what the type can hold; NaN is passed over."""
    dtype = np.dtype(dtype)
    if array.size and np.finfo(dtype).max < np.finfo(array.dtype).max:
        limit = np.finfo(dtype).max
        largest = max(np.fmax.reduce(array, axis=None), -np.fmin.reduce(array, axis=None))
        if largest > limit:
            raise UserError(
                f"{name} holds the value {largest:g}, beyond the largest {dtype} number {limit:g}: {remedy}"
            )
    return array.astype(dtype, copy=False)
