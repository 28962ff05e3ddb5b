"""The device layer: every operation of the networks, in the form that is best for the device in use.

`set_device` chooses device and mode and binds the operations; before it is called they are the reference forms. Graph
mode reads this module's names when it compiles, so the binding has to happen before a network first runs.
`python -m gm.ops` prints the choice and the reason for each.
"""

from __future__ import annotations

import os
from typing import Callable

from mindspore.ops import (
    arange,
    assign,
    broadcast_to,
    cat,
    chunk,
    cos,
    matmul,
    maximum,
    mean,
    sigmoid,
    sin,
    sqrt,
    tile,
    zeros_like,
)

from gm import interrupts
from gm.activations import Setting
from gm.memory import attention_scores, available_memory
from gm.ops import context, cuda, float32, fused, gpu, native, reference
from gm.ops.context import DEVICES, GRAPH_MODE, PYNATIVE_MODE, device, version
from gm.ops.float32 import describe_float32
from gm.ops.reference import (
    adamw,
    add_linear,
    add_linear_to_channels,
    add_to_tokens,
    affine_per_channel,
    attention,
    attention_over_pixels,
    conv2d,
    feed_forward,
    gelu,
    group_norm,
    group_norm_silu,
    layer_norm,
    linear,
    linear_to_tokens,
    log,
    mix,
    silu,
    square_sum,
    temporal_conv,
    transpose,
    upsample_nearest,
    widened,
)
from gm.ops.table import asked_forms, choose, describe

__all__ = [
    "DEVICES",
    "GRAPH_MODE",
    "PYNATIVE_MODE",
    "adamw",
    "add_linear",
    "add_linear_to_channels",
    "add_to_tokens",
    "affine_per_channel",
    "arange",
    "assign",
    "attention",
    "attention_over_pixels",
    "bind",
    "broadcast_to",
    "cat",
    "choose",
    "chunk",
    "conv2d",
    "cos",
    "describe",
    "describe_float32",
    "device",
    "feed_forward",
    "gelu",
    "group_norm",
    "group_norm_silu",
    "layer_norm",
    "linear",
    "linear_to_tokens",
    "log",
    "matmul",
    "maximum",
    "mean",
    "memory_setting",
    "mix",
    "set_device",
    "set_memory_budget",
    "sigmoid",
    "silu",
    "sin",
    "sqrt",
    "square_sum",
    "temporal_conv",
    "tile",
    "transpose",
    "upsample_nearest",
    "version",
    "why_no_bfloat16",
    "widened",
    "zeros_like",
]

_USUAL_SCORES = reference.MAX_SCORES


def bind(chosen: dict[str, Callable]) -> None:
    """Make {operation: function} the operations of this module."""
    globals().update(chosen)


def set_device(device_target: str | None = None, mode: int = GRAPH_MODE, fast_float32: bool = False) -> None:
    """Choose device and execution mode (see `gm.ops.context.set_device`) and bind the fastest operations for them."""
    context.set_device(device_target, mode, fast_float32)
    library = compiled_library()
    if library is not None and device() == "GPU":
        gpu.use(library)
    elif library is not None:
        fused.use(library)
        interrupts.use(library)
    chip = float32.ascend_chip() if device() == "Ascend" else ""
    forms = asked_forms(os.environ.get("SVD_FORMS", ""))
    bind(choose(device(), version(), library is not None, chip, forms))


def compiled_library() -> str | None:
    """Path of the kernels that are compiled for the device in use, or None where there are none."""
    libraries: dict[str, Callable[[], str | None]] = {"CPU": native.library, "GPU": cuda.library}
    return libraries.get(device(), lambda: None)()


def why_no_bfloat16() -> str | None:
    """Why bfloat16 cannot be computed on the device in use, or None where it can."""
    return float32.why_no_bfloat16(device())


def memory_setting() -> Setting:
    """What of the choices made here decides how much memory networks take: `gm.activations.Setting`."""
    kernels = device() != "CPU" or native.library() is not None  # other devices' own operations hold no scores either
    return Setting(context.mode() == GRAPH_MODE, kernels)


def set_memory_budget(budget: int | None = None) -> int:
    """Choose how many scores attention holds at once; after `set_device` and before a network first runs.

    The result depends on it up to rounding. Graph mode writes every piece out: many small ones take long to compile.
    The compiled kernels hold none, whatever is chosen.

    Args:
        budget: bytes that the program may take, see `gm.memory.attention_scores`. None: on the CPU what the machine has
            left, but no more scores than the usual; elsewhere the usual.

    Returns the number of scores.
    """
    scores = _USUAL_SCORES
    if budget is not None:
        scores = attention_scores(budget)
    elif device() == "CPU":
        left = available_memory()
        scores = scores if left is None else min(scores, attention_scores(left))
    reference.MAX_SCORES = scores
    return scores
