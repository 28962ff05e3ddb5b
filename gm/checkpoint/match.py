"""Account for every key of a checkpoint before anything is copied."""

from __future__ import annotations

import numpy as np

from gm.checkpoint.rules import original_name, unused_reason
from gm.errors import UserError

_LISTED = 20
# (how a name begins, the hint): layouts that users are likely to try
_FOREIGN_LAYOUTS = (
    (
        ("down_blocks.", "up_blocks.", "mid_block.", "encoder.down_blocks.", "decoder.up_blocks.", "vision_model."),
        "This is the diffusers layout, which splits the model into several files. Use the original single file, for "
        "instance svd.safetensors.",
    ),
    (
        ("model_ema.", "ema.", "optimizer", "adam_", "moment", "global_step", "epoch"),
        "These are extras of a training run. Save the weights of the model alone.",
    ),
)
_IMAGE_DECODER_KEY = "first_stage_model.quant_conv.weight"
_VIDEO_DECODER_KEY = "first_stage_model.decoder.conv_out.time_mix_conv.weight"


def match(checkpoint, expected):
    """Find every parameter of a model in a checkpoint.

    Args:
        checkpoint: an open checkpoint (`formats.open_checkpoint`).
        expected: dict from each parameter's original name to its shape.

    Returns a dict from each expected name to the name in the checkpoint. Every key of the checkpoint is in it or is
    unused by a written rule (`rules.unused_reason`). Otherwise raises one UserError that lists what is missing,
    unexpected, of the wrong shape, not floating-point, or there twice.
    """
    sources, unexpected = {}, []
    for source in checkpoint.names():
        name = original_name(source)
        if name in expected:
            sources.setdefault(name, []).append(source)
        elif unused_reason(name) is None:
            unexpected.append(source)
    found = {name: names[0] for name, names in sources.items()}
    faults = {
        "missing": [name for name in expected if name not in sources],
        "unexpected": unexpected,
        "of the wrong shape": [
            f"{source}: {checkpoint.shape(source)}, the model has {tuple(expected[name])}"
            for name, source in found.items()
            if checkpoint.shape(source) != tuple(expected[name])
        ],
        "not floating-point": [
            f"{source}: {checkpoint.dtype(source)}"
            for source in found.values()
            if not np.issubdtype(checkpoint.dtype(source), np.floating)
        ],
        "there more than once": [" and ".join(names) for names in sources.values() if len(names) > 1],
    }
    if any(faults.values()):
        raise UserError(_message(checkpoint, expected, sources, faults))
    return found


def _message(checkpoint, expected, sources, faults):
    lines = [f"{checkpoint.path} does not fit the model:"]
    for kind, items in faults.items():
        if not items:
            continue
        lines.append(f"{len(items)} {'key' if len(items) == 1 else 'keys'} {kind}:")
        lines += [f"  {item}" for item in items[:_LISTED]]
        if len(items) > _LISTED:
            lines.append(f"  … and {len(items) - _LISTED} more")
    return "\n".join(lines + _hints(checkpoint, expected, sources))


def _hints(checkpoint, expected, sources):
    """What the pattern of faults says about the file."""
    names = {original_name(name) for name in checkpoint.names()}
    unknown = [name for name in names if name not in expected and unused_reason(name) is None]
    hints = [hint for starts, hint in _FOREIGN_LAYOUTS if any(name.startswith(starts) for name in unknown)]
    if _IMAGE_DECODER_KEY in names and _IMAGE_DECODER_KEY not in expected:
        hints.append(
            "This looks like an image-decoder checkpoint: use configs/svd_image_decoder.yaml or "
            "configs/svd_xt_image_decoder.yaml."
        )
    if _VIDEO_DECODER_KEY in names and _VIDEO_DECODER_KEY not in expected:
        hints.append("This looks like a video-decoder checkpoint: use configs/svd.yaml or configs/svd_xt.yaml.")
    if not sources and not hints:
        hints.append("None of the model's keys are in it: this is not an SVD checkpoint.")
    return hints
