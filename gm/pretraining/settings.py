"""The recipe's options: their types. Values and meanings are in configs/svd_tiny_train.yaml."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gm.settings import Settings, option
from gm.training.settings import Optimizer, Schedule


@dataclass(frozen=True)
class Clips(Settings):
    fps: float
    most_bucket: float


@dataclass(frozen=True)
class Stage(Settings):
    """What the stages before the UNet have in common."""

    size: int
    steps: int
    checkpoint_every: int
    optimizer: Optimizer
    schedule: Schedule


@dataclass(frozen=True)
class Autoencoder(Stage):
    batch_size: int
    kl_weight: float


@dataclass(frozen=True)
class Decoder(Stage):
    frames: int


@dataclass(frozen=True)
class Tower(Stage):
    batch_size: int


@dataclass(frozen=True)
class UnetStage(Settings):
    clips: int
    frames: int
    size: int
    train: dict[str, Any] = option("options of train.py, below train")

    def contradictions(self) -> Iterable[str]:
        if not isinstance(self.train.get("max_steps"), int):
            yield "train: needs max_steps, the steps of this stage"


@dataclass(frozen=True)
class UnetStages(Settings):
    image: UnetStage
    video_small: UnetStage
    video: UnetStage


@dataclass(frozen=True)
class Recipe(Settings):
    model: str
    seed: int
    clips: Clips
    autoencoder: Autoencoder
    autoencoder_full: Autoencoder
    decoder: Decoder
    tower: Tower
    unet: UnetStages
    train: dict[str, Any] = option("options of train.py, below train, of all stages of the UNet")
