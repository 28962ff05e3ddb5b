"""The names of diffusers' folder layout and those of the original release, for a model of any depth.

A table of pairs, generated from the model's structure and read in both directions. Its rules as data: a ResBlock or a
transformer is called the same wherever it stands; only the numbers of the blocks differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

UNET, VAE, CLIP = "unet", "vae", "image_encoder"
PARTS = (UNET, VAE, CLIP)
_MODEL = "model.diffusion_model."
_ENCODER, _FIRST_STAGE = "conditioner.embedders.3.encoder.", "first_stage_model."
_VISUAL = "conditioner.embedders.0.open_clip.model.visual."

# (diffusers, original) below a block's own name.
_UNET_ENDS = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)
_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_UNET_RESNET = (
    *((f"spatial_res_block.{ours}", theirs) for ours, theirs in _RESNET),
    *((f"temporal_res_block.{ours}", f"time_stack.{theirs}") for ours, theirs in _RESNET),
    ("time_mixer", "time_mixer"),
)
_TRANSFORMER = (
    ("temporal_transformer_blocks", "time_stack"),
    ("transformer_blocks", "transformer_blocks"),
    ("time_pos_embed.linear_1", "time_pos_embed.0"),
    ("time_pos_embed.linear_2", "time_pos_embed.2"),
    ("norm", "norm"),
    ("proj_in", "proj_in"),
    ("proj_out", "proj_out"),
    ("time_mixer", "time_mixer"),
)
_VAE_RESNET = (
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("conv_shortcut", "nin_shortcut"),
)
_VAE_VIDEO_RESNET = (
    *((f"spatial_res_block.{ours}", theirs) for ours, theirs in _VAE_RESNET),
    *((f"temporal_res_block.{ours}", f"time_stack.{theirs}") for ours, theirs in _RESNET),
    ("time_mixer.mix_factor", "mix_factor"),
)
_VAE_ATTENTION = (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"))
_CODER_ENDS = (("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out"))
_CLIP_ENDS = (
    ("vision_model.embeddings.class_embedding", "class_embedding"),
    ("vision_model.embeddings.patch_embedding", "conv1"),
    ("vision_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("vision_model.pre_layrnorm", "ln_pre"),
    ("vision_model.post_layernorm", "ln_post"),
    ("visual_projection.weight", "proj"),
)
_CLIP_LAYER = (
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("self_attn", "attn"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)
# Older transformers wrote the numbers 0, 1, 2 … of the positions as if they were weights.
IGNORED = f"{CLIP}.vision_model.embeddings.position_ids"

# How a tensor differs between the two layouts, by its original name; everything else is the same tensor.
_CHANGES = (
    (re.compile(r".*\.mid\.attn_1\.(q|k|v|proj_out)\.weight"), "matrix"),
    (re.compile(re.escape(_VISUAL) + "proj"), "transposed"),
)
_FUSED = re.compile(r"(.*\.)in_proj_(weight|bias)")  # q, k and v of CLIP one below the other
_PROJECTION = re.compile(rf"({CLIP}\..*\.)(q_proj|k_proj|v_proj)\.(weight|bias)")
_QKV = ("q_proj", "k_proj", "v_proj")


class Structure(NamedTuple):
    """What the numbers in names depend on.

    unet_blocks: ResBlocks of a level of the UNet. attention: for each of its levels, finest first, whether it has
    transformers. vae_blocks, vae_levels: of the VAE's encoder. temporal: whether its decoder has temporal layers.
    clip_layers: of the image encoder. Zeros and () where that part is not there.
    """

    unet_blocks: int
    attention: tuple[bool, ...]
    vae_blocks: int
    vae_levels: int
    temporal: bool
    clip_layers: int


def structure_of(names: Iterable[str]) -> Structure:
    """The `Structure` of a model with these names: all in the original's, or each part in diffusers'.

    names: original ones; or diffusers' with the part in front, as in "unet.conv_in.weight".
    """
    names = set(names)
    if any(name.startswith((_MODEL, _FIRST_STAGE, "conditioner.")) for name in names):
        return _structure_of_original(names)
    levels = _count(rf"{UNET}\.down_blocks\.(\d+)\.", names)
    attention = tuple(
        any(name.startswith(f"{UNET}.down_blocks.{i}.attentions.") for name in names) for i in range(levels)
    )
    return Structure(
        _count(rf"{UNET}\.down_blocks\.0\.resnets\.(\d+)\.", names),
        attention,
        _count(rf"{VAE}\.encoder\.down_blocks\.0\.resnets\.(\d+)\.", names),
        _count(rf"{VAE}\.encoder\.down_blocks\.(\d+)\.", names),
        any(".time_mixer." in name for name in names if name.startswith(VAE + ".")),
        _count(rf"{CLIP}\.vision_model\.encoder\.layers\.(\d+)\.", names),
    )


def _structure_of_original(names: set[str]) -> Structure:
    stages = _count(re.escape(_MODEL) + r"input_blocks\.(\d+)\.", names)
    shrinking = sorted(n for n in range(stages) if f"{_MODEL}input_blocks.{n}.0.op.weight" in names)
    blocks = (shrinking[0] if shrinking else stages) - 1 if stages else 0
    first = [1 + i * (blocks + 1) for i in range(len(shrinking) + 1)] if stages else []
    encoder = rf"(?:{re.escape(_ENCODER)}|{re.escape(_FIRST_STAGE)})encoder\.down\."
    return Structure(
        blocks,
        tuple(f"{_MODEL}input_blocks.{n}.1.norm.weight" in names for n in first),
        _count(encoder + r"0\.block\.(\d+)\.", names),
        _count(encoder + r"(\d+)\.", names),
        any(name.startswith(_FIRST_STAGE) and name.endswith(".mix_factor") for name in names),
        _count(re.escape(_VISUAL) + r"transformer\.resblocks\.(\d+)\.", names),
    )


def _count(pattern: str, names: Iterable[str]) -> int:
    """How many numbers, from 0 on without a gap, the pattern's group finds."""
    found = {int(match[1]) for match in map(re.compile(pattern).match, names) if match}
    return next(n for n in range(len(found) + 1) if n not in found)


class Table:
    """The two namings of one structure. A diffusers name has its part in front, as in "unet.conv_in.weight"."""

    def __init__(self, structure: Structure) -> None:
        pairs = [*_unet(structure), *_vae(structure), *_clip(structure)]
        self._to_original, self._to_diffusers = dict(pairs), {theirs: ours for ours, theirs in pairs}

    def original(self, name: str) -> tuple[str, int | None] | None:
        """(original name, row) of a diffusers name, None if it has none.

        row: 0, 1, 2 where it is q, k or v of a tensor that holds all three one below the other, else None.
        """
        found = _PROJECTION.fullmatch(name)
        row = _QKV.index(found[2]) if found else None
        if found:
            name = f"{found[1]}in_proj_{found[3]}"
        changed = _with_other_start(name, self._to_original)
        return (changed, row) if changed else None

    def diffusers(self, name: str) -> list[tuple[str, int | None]]:
        """[(diffusers name, row)] of an original name: three where it holds q, k and v, none if it has none."""
        changed = _with_other_start(name, self._to_diffusers)
        fused = changed and _FUSED.fullmatch(changed)
        if fused:
            return [(f"{fused[1]}{projection}.{fused[2]}", row) for row, projection in enumerate(_QKV)]
        return [(changed, None)] if changed else []

    def layers(self) -> list[tuple[str, str]]:
        """[(diffusers, original)] names of blocks and layers, which whole names start with."""
        return list(self._to_original.items())


def change_of(original: str) -> str | None:
    """How diffusers' tensor differs from the one with that original name: "transposed", "matrix" where it is a matrix
    and the original's a 1x1 convolution, or None."""
    return next((change for pattern, change in _CHANGES if pattern.fullmatch(original)), None)


def _with_other_start(name: str, table: dict[str, str]) -> str | None:
    """The name with its longest start in the table replaced; None if it has none."""
    pieces = name.split(".")
    for length in range(len(pieces), 0, -1):
        found = table.get(".".join(pieces[:length]))
        if found:
            return ".".join([found, *pieces[length:]])
    return None


def _below(block: tuple[str, str], ends: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs `ends` below a pair of block names."""
    return [(f"{block[0]}.{a}", f"{block[1]}.{b}") for a, b in ends]


def _unet(structure: Structure) -> list[tuple[str, str]]:
    blocks, attention = structure.unet_blocks, structure.attention
    levels = len(attention)
    if not levels:
        return []
    ours, theirs = UNET + ".", _MODEL
    pairs = [(ours + a, theirs + b) for a, b in _UNET_ENDS]
    middle = ours + "mid_block.", theirs + "middle_block."
    for i, stage in enumerate((0, 2)):
        pairs += _below((f"{middle[0]}resnets.{i}", f"{middle[1]}{stage}"), _UNET_RESNET)
    pairs += _below((f"{middle[0]}attentions.0", f"{middle[1]}1"), _TRANSFORMER)
    for level in range(levels):
        # The original counts through all levels; on the way up they begin with the coarsest, with one ResBlock more.
        sides = (("down", "in", 1, blocks, attention[level]), ("up", "out", 0, blocks + 1, attention[-1 - level]))
        for side, put, first, count, attends in sides:
            for j in range(count):
                block = f"{ours}{side}_blocks.{level}.", f"{theirs}{put}put_blocks.{first + level * (blocks + 1) + j}."
                pairs += _below((f"{block[0]}resnets.{j}", f"{block[1]}0"), _UNET_RESNET)
                if attends:
                    pairs += _below((f"{block[0]}attentions.{j}", f"{block[1]}1"), _TRANSFORMER)
        if level < levels - 1:
            last = (level + 1) * (blocks + 1)
            pairs.append((f"{ours}down_blocks.{level}.downsamplers.0.conv", f"{theirs}input_blocks.{last}.0.op"))
            pairs.append(
                (
                    f"{ours}up_blocks.{level}.upsamplers.0.conv",
                    f"{theirs}output_blocks.{last - 1}.{2 if attention[-1 - level] else 1}.conv",
                )
            )
    return pairs


def _vae(structure: Structure) -> list[tuple[str, str]]:
    blocks, levels = structure.vae_blocks, structure.vae_levels
    if not levels:
        return []
    ours = VAE + "."
    # The encoder that the picture goes through; first_stage_model's is training's.
    pairs = [(ours + "quant_conv", _ENCODER + "quant_conv")]
    if not structure.temporal:
        pairs.append((ours + "post_quant_conv", _FIRST_STAGE + "post_quant_conv"))
    for coder, theirs in (("encoder", _ENCODER), ("decoder", _FIRST_STAGE)):
        decodes = coder == "decoder"
        resnet = _VAE_VIDEO_RESNET if decodes and structure.temporal else _VAE_RESNET
        side, here, there = "up" if decodes else "down", f"{ours}{coder}", f"{theirs}{coder}"
        pairs += [(f"{here}.{a}", f"{there}.{b}") for a, b in _CODER_ENDS]
        pairs += _below((f"{here}.mid_block.attentions.0", f"{there}.mid.attn_1"), _VAE_ATTENTION)
        for j in (0, 1):
            pairs += _below((f"{here}.mid_block.resnets.{j}", f"{there}.mid.block_{j + 1}"), resnet)
        for level in range(levels):
            # The original numbers the decoder's levels from the finest one, diffusers from the coarsest.
            block = f"{here}.{side}_blocks.{level}.", f"{there}.{side}.{levels - 1 - level if decodes else level}."
            for j in range(blocks + decodes):
                pairs += _below((f"{block[0]}resnets.{j}", f"{block[1]}block.{j}"), resnet)
            pairs.append((f"{block[0]}{side}samplers.0.conv", f"{block[1]}{side}sample.conv"))
    if structure.temporal:
        pairs.append((f"{ours}decoder.time_conv_out", f"{_FIRST_STAGE}decoder.conv_out.time_mix_conv"))
    return pairs


def _clip(structure: Structure) -> list[tuple[str, str]]:
    if not structure.clip_layers:
        return []
    pairs = [(f"{CLIP}.{a}", _VISUAL + b) for a, b in _CLIP_ENDS]
    for layer in range(structure.clip_layers):
        block = f"{CLIP}.vision_model.encoder.layers.{layer}", f"{_VISUAL}transformer.resblocks.{layer}"
        pairs += _below(block, _CLIP_LAYER)
    return pairs
