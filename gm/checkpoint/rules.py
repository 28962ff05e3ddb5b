"""The name maps as data: which keys of a checkpoint are unused, and how other names become the original ones."""

from __future__ import annotations

import re

UNET = "model.diffusion_model."  # what the original names of the UNet's parameters begin with
DELTA_KIND = "svd-mindspore delta"  # what the metadata of a trained part alone says under "format"

# (pattern of the whole original name, why the model does without it)
UNUSED_KEYS = (
    (
        r"conditioner\.embedders\.0\.open_clip\.model\."
        r"(positional_embedding|text_projection|logit_scale|token_embedding\.weight|ln_final\.(weight|bias))",
        "left over from CLIP's text tower: the video is conditioned on an image, never on text",
    ),
    (
        r"conditioner\.embedders\.3\.encoder\.decoder\..+",
        "decoder of the conditioning autoencoder: only its encoder is ever called",
    ),
    (
        r"conditioner\.embedders\.3\.encoder\.post_quant_conv\.(weight|bias)",
        "belongs to the unused decoder of the conditioning autoencoder",
    ),
)

# (pattern, replacement, where it comes from), applied in this order. All of them leave original names as they are.
NAME_RULES = (
    (
        r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.",
        "",
        "PyTorch's wrappers around a model: data parallel, compiled, sharded, recomputing",
    ),
    (r"\._backbone(?=\.)", "", "the older MindSpore port's trainer wraps cells for automatic mixed precision"),
    (r"(?<=\.conv_out)\.conv3d(?=\.)", ".time_mix_conv", "the older port's name of the decoder's last convolution"),
    (r"(?<=\.token_embedding)\.embedding_table$", ".weight", "MindSpore's name in nn.Embedding"),
    (r"\.gamma$", ".weight", "MindSpore's name in nn.GroupNorm and nn.LayerNorm"),
    (r"\.beta$", ".bias", "MindSpore's name in nn.GroupNorm and nn.LayerNorm"),
)

_UNUSED = tuple((re.compile(pattern), reason) for pattern, reason in UNUSED_KEYS)
_RULES = tuple((re.compile(pattern), replacement) for pattern, replacement, _ in NAME_RULES)


def original_name(name: str) -> str:
    """The original release's name of a parameter that the older MindSpore port may have renamed."""
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    return name


def unused_reason(name: str) -> str | None:
    """Why the parameter with this original name is not used, or None if no rule says that it is unused."""
    for pattern, reason in _UNUSED:
        if pattern.fullmatch(name):
            return reason
    return None
