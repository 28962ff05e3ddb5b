"""The recipe's options: their types. Values and meanings are in configs/svd_tiny_train.yaml."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gm.settings import Settings, count, option
from gm.sizes import LONGEST_SIDE
from gm.training.settings import Optimizer, Schedule

_side = functools.partial(count, "pixels of a picture's side", most=LONGEST_SIDE)
_MOST = 10**6  # clips of a batch, frames of a clip: beyond any model


@dataclass(frozen=True)
class Clips(Settings):
    fps: float = option("frames per second", above=0)
    most_bucket: float = option("motion bucket of the fastest clips", above=0)


@dataclass(frozen=True)
class Stage(Settings):
    """What the stages before the UNet have in common."""

    optimizer: Optimizer
    schedule: Schedule
    size: int = _side()
    steps: int = count("in all")
    checkpoint_every: int = count("steps between checkpoints")

    def contradictions(self) -> Iterable[str]:
        if self.optimizer.accumulate > 1 or self.optimizer.shard:
            yield "optimizer: accumulate and shard are of the stages of the UNet alone"


@dataclass(frozen=True)
class Autoencoder(Stage):
    batch_size: int = count("pictures of a batch", most=_MOST)
    kl_weight: float = option("pull of the posterior towards the unit normal", least=0)


@dataclass(frozen=True)
class Decoder(Stage):
    frames: int = count("of a clip", most=_MOST)


@dataclass(frozen=True)
class Tower(Stage):
    batch_size: int = count("pictures of a batch", most=_MOST)


@dataclass(frozen=True)
class UnetStage(Settings):
    clips: int = count("that are drawn", most=10**9)
    frames: int = count("of a clip; 1 makes pairs of pictures", most=_MOST)
    size: int = _side()
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
    clips: Clips
    autoencoder: Autoencoder
    autoencoder_full: Autoencoder
    decoder: Decoder
    tower: Tower
    unet: UnetStages
    seed: int = option("of every random number", least=0)
    train: dict[str, Any] = option("options of train.py, below train, of all stages of the UNet")
