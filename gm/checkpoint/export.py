"""A model's weights, or a LoRA, in others' layouts: which files there are and what is in them, no tensor read yet."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from gm.checkpoint.delta_file import Delta
from gm.checkpoint.diffusers_names import CLIP, PARTS, UNET, VAE, Table, change_of, structure_of
from gm.checkpoint.lora import DOWN, UP, WEIGHT
from gm.checkpoint.rules import UNET as START
from gm.checkpoint.view import MATRIX, ROWS, TRANSPOSED, Source, View

MINDSPORE, ORIGINAL, DIFFUSERS = "mindspore", "original", "diffusers"
LAYOUTS = (MINDSPORE, ORIGINAL, DIFFUSERS)
LORA_FILE = "pytorch_lora_weights.safetensors"
_STEMS = {UNET: "diffusion_pytorch_model", VAE: "diffusion_pytorch_model", CLIP: "model"}
_CHANGES = {"transposed": TRANSPOSED, "matrix": MATRIX, None: None}


class Lora(NamedTuple):
    """A LoRA under other names. tensors: {name: (name in the file it comes from, or None, number where there is none)};
    metadata: of the file."""

    tensors: dict
    metadata: dict


def diffusers_parts(view: View) -> dict[str, View]:
    """{part: `View`} of a model, or of parts of one, under diffusers' names; view: with the original's names."""
    table = Table(structure_of(view.names()))
    parts: dict[str, dict[str, Source]] = {}
    for name in view.names():
        for ours, row in table.diffusers(name):
            part, _, short = ours.partition(".")
            change = _CHANGES[change_of(name)] if row is None else ROWS[row]
            parts.setdefault(part, {})[short] = Source.of(view, name, change=change)
    return {part: View(view.path, parts[part]) for part in PARTS if part in parts}


def weights_path(part: str) -> str:
    """Where diffusers looks for the weights of a part, below a model's folder."""
    return f"{part}/{_STEMS[part]}.safetensors"


def without_place(names: Iterable[str]) -> list[str]:
    """Names of a model that a diffusers folder has no place for: of training's own encoder."""
    table = Table(structure_of(names))
    return [name for name in names if not table.diffusers(name)]


def lora_tensors(delta: Delta, names: Iterable[str], layout: str) -> Lora:
    """The `Lora` of a `gm.checkpoint.delta_file.Delta` in a layout.

    names: of the model's parameters. "original" is kohya's naming over the original's layers, which programs for single
    files read; "diffusers" is PEFT's over diffusers' layers; "mindspore" is this project's own.
    """
    table, alphas = Table(structure_of(names)), {}
    tensors: dict[str, tuple[str | None, np.ndarray | None]] = {}
    for target, (down, up, scale) in delta.low_rank.items():
        rank = delta.file.shape(down)[0]
        layer = target[: -len(WEIGHT)]
        if layout == DIFFUSERS:
            layer = table.diffusers(target)[0][0][: -len(WEIGHT)]
            tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"] = (down, None), (up, None)
        else:
            layer = "lora_unet_" + layer[len(START) :].replace(".", "_") if layout == ORIGINAL else layer
            tensors[layer + DOWN], tensors[layer + UP] = (down, None), (up, None)
            tensors[layer + ".alpha"] = (None, np.array(scale * rank, np.float32))
        alphas[layer] = (rank, scale * rank)
    metadata = {"format": "pt"}
    if layout == DIFFUSERS:
        metadata["lora_adapter_metadata"] = json.dumps(_adapter(alphas), sort_keys=True)
    return Lora(tensors, metadata)


def _adapter(alphas: dict[str, tuple[int, float]]) -> dict[str, Any]:
    """PEFT's settings of {layer with its part in front: (rank, alpha)}, as diffusers keeps them in a file's header."""
    layers = {layer.partition(".")[2]: values for layer, values in alphas.items()}
    rank, alpha = next(iter(layers.values()))
    settings = {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(layers),
        "bias": "none",
        "peft_type": "LORA",
        "rank_pattern": {layer: values[0] for layer, values in layers.items() if values[0] != rank},
        "alpha_pattern": {layer: values[1] for layer, values in layers.items() if values[1] != alpha},
        "use_dora": False,
        "use_rslora": False,
    }
    return {f"{UNET}.{name}": value for name, value in settings.items()}
