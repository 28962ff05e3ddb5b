"""Account for every key of a checkpoint before anything is copied."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from gm.checkpoint.reader import Reader
from gm.checkpoint.rules import DELTA_KIND, original_name, unused_reason
from gm.errors import UserError

_LISTED, _LISTED_BELOW_HINTS = 20, 5
_FEW = 0.1  # share of shapes
_BASE = "image_to_video.py --SVD.base, train.py --train.base, the tools --base"
# (pattern of a name, the hint): files that users are likely to give as a checkpoint
_MISTAKEN = (
    (
        re.compile(r".*[._](lora|lora_down|lora_up|lora_A|lora_B|hada_w1_a|lokr_w1)\b.*"),
        "This is a LoRA, which changes a model: give it as --SVD.delta, and the model as --SVD.checkpoint.",
    ),
    (
        re.compile(r"(optimizer|adam_|moment|exp_avg|global_step|epoch|weights/).*"),
        "These are extras of a training run. Save the weights of the model alone.",
    ),
    (
        re.compile(r"(transformer_blocks|double_blocks|single_transformer_blocks|img_in|x_embedder|blocks)\..*"),
        "This looks like a model of another kind (a transformer, such as SD3, Flux, Wan or CogVideoX), not SVD.",
    ),
    (
        re.compile(r".*\.motion_modules?\..*"),
        "This looks like AnimateDiff's motion module, which belongs to Stable Diffusion 1.5 or SDXL, not to SVD.",
    ),
    (
        re.compile(r"conditioner\.embedders\.0\.open_clip\.model\.visual\.vision_model\..*"),
        "This looks like a whole SVD saved by ComfyUI, which names the image encoder's tensors otherwise and leaves "
        "out the conditioning's encoder: save its UNet alone there (ModelSave), and name the published file to "
        f"complete it ({_BASE}).",
    ),
    (
        re.compile(r"(cond_stage_model|conditioner\.embedders\.[01]\.(transformer|model))\..*"),
        "This looks like a text-to-image model (Stable Diffusion), not SVD.",
    ),
)
_IMAGE_DECODER_KEY = "first_stage_model.quant_conv.weight"
_VIDEO_DECODER_KEY = "first_stage_model.decoder.conv_out.time_mix_conv.weight"
_PARTS = (
    ("UNet", "model.diffusion_model."),
    ("VAE", "first_stage_model."),
    ("VAE", "conditioner.embedders.3."),
    ("image encoder", "conditioner.embedders.0."),
)


def parts_of(names: Iterable[str]) -> set[str]:
    """Which of "UNet", "VAE", "image encoder" original names belong to, those that are never used left out."""
    used = [name for name in names if unused_reason(name) is None]
    return {part for part, start in _PARTS if any(name.startswith(start) for name in used)}


def match(checkpoint: Reader, expected: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Find every parameter of a model in a checkpoint.

    Args:
        checkpoint: an open one (`model_file.open_model`).
        expected: dict from each parameter's original name to its shape.

    Returns a dict from each expected name to the name in the checkpoint. Every key of the checkpoint is in it or is
    unused by a written rule (`rules.unused_reason`). Otherwise raises one UserError that lists what is missing,
    unexpected, of the wrong shape, not floating-point, or there twice.
    """
    sources: dict[str, list[str]] = {}
    unexpected = []
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


def _message(
    checkpoint: Reader,
    expected: Mapping[str, tuple[int, ...]],
    sources: dict[str, list[str]],
    faults: dict[str, list[str]],
) -> str:
    description = f" ({checkpoint.description})" if checkpoint.description else ""
    lines = [f"{checkpoint.path}{description} does not fit the model:"]
    hints = _hints(checkpoint, expected, sources)
    if not hints and sources and len(faults["of the wrong shape"]) > _FEW * len(sources):
        hints = [
            "Many shapes are another model's: is the config the right one (--version, --SVD.config, --config, "
            "--svd_config)?"
        ]
    listed = _LISTED if len(hints) == 0 else _LISTED_BELOW_HINTS
    for kind, items in faults.items():
        if not items:
            continue
        lines.append(f"{len(items)} {'key' if len(items) == 1 else 'keys'} {kind}:")
        lines += [f"  {item}" for item in items[:listed]]
        if len(items) > listed:
            lines.append(f"  … and {len(items) - listed} more")
    return "\n".join(lines + hints)


def _hints(checkpoint: Reader, expected: Mapping[str, tuple[int, ...]], sources: dict[str, list[str]]) -> list[str]:
    """What the pattern of faults says about the file."""
    names = {original_name(name) for name in checkpoint.names()}
    unknown = [name for name in names if name not in expected and unused_reason(name) is None]
    hints = [hint for pattern, hint in _MISTAKEN if any(pattern.fullmatch(name) for name in unknown)]
    if hints:
        return hints
    if checkpoint.metadata.get("format") == DELTA_KIND:
        return [
            f"This is the trained part of a model alone, which belongs on {checkpoint.metadata.get('base_name')}: "
            "give it as --SVD.delta, and that file as --SVD.checkpoint."
        ]
    if _IMAGE_DECODER_KEY in names and _IMAGE_DECODER_KEY not in expected:
        hints.append(
            "This looks like an image-decoder checkpoint: use configs/svd_image_decoder.yaml or "
            "configs/svd_xt_image_decoder.yaml."
        )
    if _VIDEO_DECODER_KEY in names and _VIDEO_DECODER_KEY not in expected:
        hints.append("This looks like a video-decoder checkpoint: use configs/svd.yaml or configs/svd_xt.yaml.")
    if hints:
        return hints
    if not sources:
        return ["None of the model's keys are in it: this is not an SVD checkpoint."]
    missing, there = parts_of(name for name in expected if name not in sources), parts_of(sources)
    if missing - there and there:
        lacking = " and ".join(sorted(missing - there))
        return [
            f"It holds the {' and '.join(sorted(there))} without the {lacking}: name a whole model to complete it "
            f"({_BASE})."
        ]
    return []
