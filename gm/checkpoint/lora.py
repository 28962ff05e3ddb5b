"""Low-rank changes of layers (LoRA, Hu et al. 2021) as tensors of a file: W + alpha / rank * up @ down.

The naming is this project's own, diffusers' and PEFT's, or kohya's; the layers are named as in the original release or
as in diffusers, with dots or, kohya's way, with underscores.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from gm.checkpoint.diffusers_names import UNET as PART
from gm.checkpoint.diffusers_names import Table, structure_of
from gm.checkpoint.rules import UNET

DOWN, UP, WEIGHT, ALPHA = ".lora_down.weight", ".lora_up.weight", ".weight", ".alpha"
# (pattern of a name, which part of the change it is, the naming); the first group is the layer.
_PARTS = (
    (r"(.+)\.lora_down\.weight", "down", ""),
    (r"(.+)\.lora_up\.weight", "up", ""),
    (r"(.+)\.alpha", "alpha", ""),
    (r"(.+)\.lora_A(?:\.(?P<adapter>\w+))?\.weight", "down", "PEFT"),
    (r"(.+)\.lora_B(?:\.(?P<adapter>\w+))?\.weight", "up", "PEFT"),
    (r"(.+)\.lora(?:_linear_layer)?\.down\.weight", "down", "diffusers"),
    (r"(.+)\.lora(?:_linear_layer)?\.up\.weight", "up", "diffusers"),
    (r"(.+)_lora\.down\.weight", "down", "diffusers"),
    (r"(.+)_lora\.up\.weight", "up", "diffusers"),
)
_COMPILED = tuple((re.compile(pattern), part, naming) for pattern, part, naming in _PARTS)
_STARTS = ("base_model.model.", "unet.", UNET, "diffusion_model.")
_KOHYA = "lora_unet_"
# Of PEFT's `init_lora_weights`: those that change the weights under the low-rank ones before training.
_OWN_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
_UNREAD = "not read here; let the program that made it merge it into a whole model"
# (pattern of a name, what it is): changes of other kinds and of other models.
OTHERS = (
    (
        re.compile(r".*\.(base_layer|lora_B(\.\w+)?)\.bias"),
        f"biases that PEFT trained beside its LoRA are {_UNREAD}",
    ),
    (
        re.compile(r"lora_te\d?_.*|text_(encoder|model)\..*"),
        "it changes a text encoder, which SVD does not have: the file was made for another model",
    ),
    (
        re.compile(r".*\.(hada_w\d_\w|lokr_\w+|oft_\w+|boft_\w+|glora_\w+|lora_mid\.weight|lora_[ABE])"),
        f"LoHa, LoKr, OFT, AdaLoRA and the like are {_UNREAD}",
    ),
    (
        re.compile(r".*(\.dora_scale|\.lora_magnitude_vector(\..*)?)"),
        f"DoRA is {_UNREAD}",
    ),
)


def low_rank(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """{weight that is changed: (name of its down, name of its up)} of tensor names in this project's own naming."""
    names = set(names)
    layers = [name[: -len(DOWN)] for name in names if name.endswith(DOWN)]
    return {layer + WEIGHT: (layer + DOWN, layer + UP) for layer in sorted(layers) if layer + UP in names}


def product(down: np.ndarray, up: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """up @ down, float32, of a weight's shape: (out, in), or (out, in, *kernel) where down has the kernel."""
    flat = np.asarray(up, np.float32).reshape(len(up), -1) @ np.asarray(down, np.float32).reshape(len(down), -1)
    return flat.reshape(shape)


def merged(weight: np.ndarray, down: np.ndarray, up: np.ndarray, alpha: float) -> np.ndarray:
    """The changed weight, float32: weight (out, in), down (rank, in), up (out, rank)."""
    return np.asarray(weight, np.float32) + np.float32(alpha / len(down)) * product(down, up, np.shape(weight))


class Names:
    """What a UNet's parameters are called in files of changes.

    names: full original names of its parameters.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._full, self._underscored = {}, {}
        table = Table(structure_of(names))
        for name in names:
            if not name.startswith(UNET):
                continue
            theirs = [other for other, _ in table.diffusers(name) if other.startswith(PART + ".")]
            for short in (name[len(UNET) :], *(other[len(PART) + 1 :] for other in theirs)):
                self._full[short] = name
                if short.endswith(WEIGHT):
                    self._underscored[short[: -len(WEIGHT)].replace(".", "_")] = name

    def parameter(self, name: str) -> str:
        """The original name of a parameter that a file names in any of the ways; itself where it is not known."""
        return self._full.get(_without_start(name), name)

    def weight(self, layer: str) -> str | None:
        """The original name of the weight of a layer, None if there is no such layer."""
        if layer.startswith(_KOHYA):
            return self._underscored.get(layer[len(_KOHYA) :])
        layer = _without_start(layer).replace(".processor.", ".")
        return self._full.get(layer + WEIGHT) or self._full.get(f"{layer}.0{WEIGHT}")  # to_out_lora for to_out.0


def _without_start(name: str) -> str:
    for start in _STARTS:
        if name.startswith(start):
            name = name[len(start) :]
    return name


def is_lora(names: Iterable[str]) -> bool:
    """Whether a file with these tensor names holds low-rank changes."""
    return any(part == "down" and pattern.fullmatch(name) for name in names for pattern, part, _ in _COMPILED)


class KnownLayers(Protocol):
    """What `find_changes` asks of `Names`."""

    def weight(self, layer: str) -> str | None: ...


def find_changes(names: Iterable[str], known: KnownLayers) -> tuple[dict[str, dict[str, list[str]]], list[str], str]:
    """({weight: {"down": name, "up": name, "alpha": name}}, names that are no part of a change, naming in words).

    names: of a file's tensors; known: `Names`. A layer that the model does not have stands under its own name.
    """
    found: dict[str, dict[str, list[str]]] = {}
    others, namings = [], set()
    for name in names:
        matched = next(
            (
                (match[1], part, naming)
                for pattern, part, naming in _COMPILED
                for match in [pattern.fullmatch(name)]
                if match
            ),
            None,
        )
        if matched is None:
            others.append(name)
            continue
        layer, part, naming = matched
        target = known.weight(layer) or layer + WEIGHT
        found.setdefault(target, {}).setdefault(part, []).append(name)
        namings.add(naming or ("kohya's" if layer.startswith(_KOHYA) else "the original's"))
    return found, others, " and ".join(sorted(namings))


def adapters(names: Iterable[str]) -> list[str]:
    """The names that PEFT has given to the changes of a file, "" where it says none; one for all is usual."""
    matched = (pattern.fullmatch(name) for name in names for pattern, _, naming in _COMPILED if naming == "PEFT")
    return sorted({match["adapter"] or "" for match in matched if match})


def unread_kind(metadata: Mapping[str, str]) -> str | None:
    """Why the low-rank changes of a file are no LoRA that can be read, by PEFT's settings in its metadata, or None."""
    try:
        settings = _settings(metadata)
    except (ValueError, RecursionError):
        return None  # `scale_of` tells
    if settings.get("use_dora"):
        return f"its settings say use_dora: DoRA is {_UNREAD}"
    start = str(settings.get("init_lora_weights")).lower()
    if start.startswith(_OWN_BASES):
        return f"it belongs on weights that {start} changed, which it does not hold"
    return None


def scale_of(metadata: Mapping[str, str], name: str, rank: int, alpha: float | None = None) -> float:
    """What up @ down is multiplied by.

    metadata: of the file, whose text may be anything. name: of one of the layer's tensors in it. alpha: of the tensor
    beside the layer, None if there is none. ValueError for a number that is none.
    """
    if alpha is None and "lora_alpha" in metadata:
        alpha = _number(metadata["lora_alpha"])
    root = False
    settings = _settings(metadata)
    if settings:
        stated = settings.get("r", rank)
        if not settings.get("rank_pattern") and stated != rank:
            raise ValueError(f"the settings are of rank {stated}, the layer has {rank}: they belong to another file")
        own = _special(settings.get("alpha_pattern") or {}, _without_start(name), settings.get("lora_alpha", rank))
        alpha = _number(own) if alpha is None else alpha
        root = bool(settings.get("use_rslora"))
    alpha = rank if alpha is None else alpha
    return alpha / (math.sqrt(rank) if root else rank)


def _settings(metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's settings, which it and diffusers write as JSON; {} where there are none. ValueError for other content."""
    settings = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    if not isinstance(settings, dict):
        raise ValueError("lora_adapter_metadata is no mapping")
    return {key.split(".", 1)[-1] if key.startswith("unet.") else key: value for key, value in settings.items()}


def _special(patterns: Any, name: str, otherwise: Any) -> Any:
    """What PEFT's `alpha_pattern` says of the layer with a tensor of that name. ValueError for a regular expression,
    which out of a file could take for ever."""
    if not isinstance(patterns, dict):
        raise ValueError("alpha_pattern is no mapping")
    layer = re.split(r"\.lora[._]", name)[0]
    for pattern, value in patterns.items():
        if not re.fullmatch(r"\^?[\w.]+", pattern):
            raise ValueError(f"told by the pattern {pattern!r}: only names of layers are read")
        if layer == pattern.lstrip("^") or layer.endswith(f".{pattern}"):
            return value
    return otherwise


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"alpha is {value}")
    return number
