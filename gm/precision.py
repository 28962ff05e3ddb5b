"""Which parameters are float16 under `--amp_level=O2`, and which may stay so in any case.

A layer computes in the dtype of its input; the networks cast what they are given to that of their biases."""

from __future__ import annotations

import re

import mindspore as ms

from gm.errors import UserError

AMP_LEVELS = ("O0", "O2")

# (what the full parameter name contains, why it stays float32); every other parameter becomes float16.
# Norm statistics, softmax and the arithmetic of sigma are float32 at every level: `gm.ops` and the denoiser see to it.
FLOAT32 = (
    (r"^first_stage_model\.", "the original runs the VAE with autocast off: its activations leave float16's range"),
    (r"^conditioner\.embedders\.3\.", "VAE encoder of the conditioner: the same"),
    (r"(^|\.)(norm\d?|norm_in|norm_out|ln_\w+|in_layers\.0|out_layers\.0|out\.0)\.(weight|bias)$",
     "norms multiply their float32 statistics by it before the result is rounded"),
    (r"mix_factor$", "one number, whose sigmoid costs nothing in float32"),
)


def check_amp_level(amp_level):
    """Raise a UserError unless it is one of `AMP_LEVELS`."""
    if amp_level not in AMP_LEVELS:
        raise UserError(f"amp_level {amp_level!r}: choose O0 (float32) or O2 (float16 for UNet and CLIP)")


def parameter_dtype(name, amp_level):
    """mindspore dtype of the parameter with that full checkpoint name, at amp_level "O0" (all float32) or "O2"."""
    check_amp_level(amp_level)
    if amp_level == "O0" or any(re.search(pattern, name) for pattern, _ in FLOAT32):
        return ms.float32
    return ms.float16


def kept_narrow(name, shape):
    """Whether low_memory may keep the parameter in the float16 of its file: a weight that its layer widens when it is
    called (`gm.ops.widened`), so that the result is the same to the last bit."""
    return name.endswith("weight") and len(shape) > 1
