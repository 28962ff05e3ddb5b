"""The recipe's options: their types. Values and meanings are in configs/svd_tiny_train.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gm.config import Section, check, load_config
from gm.training.settings import Optimizer, Schedule

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass
class Clips:
    fps: float
    most_bucket: float


_STAGE = {
    "size": "int", "steps": "int", "checkpoint_every": "int",
    "optimizer": Section(Optimizer), "schedule": Section(Schedule),
}
_UNET_STAGE = {
    "clips": "int", "frames": "int", "size": "int",
    "train": {
        "max_steps": "int", "epochs": "float", "loader": {"batch_size": "int"},
        "loss": {"p_mean": "float", "p_std": "float"}, "optimizer": {"learning_rate": "float"},
    },
}
SCHEMA = {
    "model": "str", "seed": "int", "clips": Section(Clips),
    "autoencoder": {**_STAGE, "batch_size": "int", "kl_weight": "float"},
    "autoencoder_full": {**_STAGE, "batch_size": "int", "kl_weight": "float"},
    "decoder": {**_STAGE, "frames": "int"},
    "tower": {**_STAGE, "batch_size": "int"},
    "train": {
        "checkpoint": {"every": "int", "keep": "int"},
        "validation": {"every": "int", "clips": "int"}, "log": {"every": "int"}, "schedule": Section(Schedule),
        "loss": {"dropout": "float"},
    },
    "unet": {name: _UNET_STAGE for name in ("image", "video_small", "video")},
}


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """The recipe from its YAML file and `key.sub=value` overrides. UserError with every fault."""
    recipe = load_config(path, overrides)
    check(recipe, SCHEMA, path)
    return recipe
