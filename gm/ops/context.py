"""Device and execution mode; the only place that sets either. `gm.ops` binds the operations."""

from __future__ import annotations

import logging
import os

import mindspore as ms

from gm.errors import UserError
from gm.ops.float32 import set_float32
from gm.ops.plugin import why_not

DEVICES = ("CPU", "GPU", "Ascend")
GRAPH_MODE, PYNATIVE_MODE = 0, 1
# Implicit products with places computed beforehand. Left to itself, cuDNN chooses a way that asks for 112 GB of work
# space for a float32 convolution at 576x1024 (H200), and MindSpore sets no limit.
_CONVOLUTION = "precomp_gemm"


def version() -> tuple[int, ...]:
    """The mindspore version as a tuple such as (2, 8, 0)."""
    return tuple(int(part) for part in ms.__version__.split(".")[:3] if part.isdigit())


def device() -> str:
    """The device in use: "CPU", "GPU" or "Ascend"."""
    return ms.get_context("device_target")


def mode() -> int:
    """GRAPH_MODE or PYNATIVE_MODE."""
    return ms.get_context("mode")


def set_device(device_target: str | None = None, mode: int = GRAPH_MODE, fast_float32: bool = False) -> None:
    """Choose device and execution mode. Call once, before any network is built.

    Args:
        device_target: "CPU", "GPU", "Ascend", or None for mindspore's own choice (the best that it finds).
        mode: 0 graph, 1 PyNative; the numbers are the same, graph mode is several times faster on CPU.
        fast_float32: let GPUs and Ascend compute float32 convolutions and products in narrower forms, see
            `gm.ops.float32`. The same for both modes and every precision; counts once in a process.

    Raises:
        UserError: a device or mode that does not exist, or that this mindspore cannot use.
    """
    if device_target not in (None, *DEVICES):
        raise UserError(f"device_target {device_target!r}: choose one of {', '.join(DEVICES)}")
    if mode not in (GRAPH_MODE, PYNATIVE_MODE):
        raise UserError(f"mode {mode!r}: 0 is graph mode, 1 is PyNative")
    if device_target is not None:
        try:
            ms.set_device(device_target)
        except (RuntimeError, ValueError) as error:
            text = str(error)
            if "has been initialized" not in text or device() != device_target:  # else mindspore chose the same
                unsupported = device_target != "CPU" and "Unsupported device target" in text
                reason = why_not(device_target, text) if unsupported else text.strip().splitlines()[0]
                raise UserError(f"device_target {device_target!r} cannot be used here: {reason}") from None
    set_float32(device(), fast_float32)
    ms.set_context(mode=mode)
    if device() == "GPU":
        _keep_nchw()
        ms.device_context.gpu.op_tuning.conv_fprop_algo(_CONVOLUTION)
    if device() == "CPU" and mode == PYNATIVE_MODE:
        # The asynchronous workers spin and steal the cores: a whole UNet is 2.3-2.8 times faster without them.
        ms.runtime.launch_blocking()
    _log_where_the_user_cannot_see(logging.getLogger("mindspore"))


def _keep_nchw() -> None:
    """Turn off the GPU back end's own turn of float16 graphs from NCHW to NHWC: it gets wrong what is added to a
    convolution's result, the bias and a value for each channel (2.8.0 on an H200: wrong by 0.6 and 0.9 of the largest
    value, 6e-4 without; docs/gpu.md)."""
    ms.set_context(disable_format_transform=True)


def _log_where_the_user_cannot_see(logger: logging.Logger) -> None:
    """Keep mindspore's Python-side warnings about its own future out of the progress bars; errors still show."""
    if "GLOG_v" not in os.environ:
        logger.setLevel(logging.ERROR)
