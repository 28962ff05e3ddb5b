"""Which parameters are float16 (or bfloat16) under `--amp_level=O2`, and which may stay so in any case.

A layer computes in the dtype of its input; the networks cast what they are given to that of their biases."""

from __future__ import annotations

import re
from collections.abc import Sequence

import mindspore as ms
import numpy as np

from gm import ops
from gm.errors import UserError
from gm.options import AMP_LEVELS, DTYPES

BFLOAT16 = "O2 bfloat16"  # the level inside the program that stands for both options

# (what the full parameter name contains, why it stays float32); every other parameter becomes narrow.
# Norm statistics, softmax and the arithmetic of sigma are float32 at every level: `gm.ops` and the denoiser see to it.
FLOAT32 = (
    (r"^first_stage_model\.", "the original runs the VAE with autocast off: its activations leave float16's range"),
    (r"^conditioner\.embedders\.3\.", "VAE encoder of the conditioner: the same"),
    (
        r"(^|\.)(norm\d?|norm_in|norm_out|ln_\w+|in_layers\.0|out_layers\.0|out\.0)\.(weight|bias)$",
        "norms multiply their float32 statistics by it before the result is rounded",
    ),
    (r"mix_factor$", "one number, whose sigmoid costs nothing in float32"),
)


def level(amp_level: str, dtype: str | None = None) -> str:
    """The options amp_level and dtype as one value, which the rest of the program calls amp_level.

    bfloat16 has float32's range: no loss scale is needed, and results are 8 times coarser than float16's.

    Raises:
        UserError: an option that does not exist, a dtype without "O2", or bfloat16 on a device that cannot compute it.
    """
    check_amp_level(amp_level)
    if dtype is None:
        return amp_level
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    if amp_level != "O2":
        raise UserError(f"dtype {dtype} belongs to amp_level O2; amp_level {amp_level} computes in float32")
    if dtype == "float16":
        return amp_level
    reason = ops.why_no_bfloat16()
    if reason:
        raise UserError(f"dtype bfloat16: {reason}. It is for Ascend 910B and later; choose float16")
    return BFLOAT16


def check_amp_level(amp_level: str) -> None:
    """Raise a UserError unless it is one of `AMP_LEVELS`, or what `level` makes of them."""
    if amp_level not in (*AMP_LEVELS, BFLOAT16):
        raise UserError(f"amp_level {amp_level!r}: choose O0 (float32) or O2 (float16 for UNet and CLIP)")


def parameter_dtype(name: str, amp_level: str) -> ms.Type:
    """mindspore dtype of the parameter with that full checkpoint name, at amp_level "O0" (all float32) or "O2"."""
    check_amp_level(amp_level)
    if amp_level == "O0" or any(re.search(pattern, name) for pattern, _ in FLOAT32):
        return ms.float32
    return ms.bfloat16 if amp_level == BFLOAT16 else ms.float16


def needs_loss_scale(amp_level: str) -> bool:
    """Whether gradients can leave the dtype's range: float16 alone has a narrow one."""
    return amp_level == "O2"


def numpy_name(dtype: ms.Type) -> str:
    """NumPy's name of the type that a parameter's values are read as: float32 for bfloat16, which NumPy lacks."""
    return "float32" if dtype == ms.bfloat16 else str(dtype).lower()


def to_numpy(tensor: ms.Tensor) -> np.ndarray:
    """A tensor's values as float32 where NumPy has no such dtype (bfloat16), else as they are."""
    return (tensor.astype(ms.float32) if tensor.dtype == ms.bfloat16 else tensor).asnumpy()


def kept_narrow(name: str, shape: Sequence[int]) -> bool:
    """Whether low_memory may keep the parameter in the float16 of its file: a weight that its layer widens when it is
    called (`gm.ops.widened`), so that the result is the same to the last bit."""
    return name.endswith("weight") and len(shape) > 1
