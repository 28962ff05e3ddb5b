"""A run before anything is loaded: its base, its clips, its numbers and its cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable

from gm.data.calibration import of_list
from gm.data.clips import CONTENT, content_of
from gm.data.sized_clips import SizedClips
from gm.model_config import ModelConfig
from gm.ops import parallel
from gm.settings import plain
from gm.sizes import latent_shape
from gm.training.base import encoders_hashes, open_base
from gm.training.cache import CachedClips
from gm.training.data import open_data
from gm.training.draws import Draws, training_draws
from gm.training.log import by_name, require_tensorboard
from gm.training.schedule import total_steps
from gm.training.settings import Train, TrainingSettings, check_size, precision, size_name, sizes


class Plan:
    """A run before anything is loaded: base, clips and numbers. Raises UserError for all that can be known so early.

    data: function of the section train -> (training clips, held-out clips), as `gm.training.data.open_data`.

    Attributes:
        calibration: `gm.data.calibration.Calibration` of the clips' list, or None.
        training, held_out: {(height, width): data set}, of a cache where there is one. dataset: the stream that the
            training clips make together, `gm.data.sized_clips.SizedClips`.
    """

    def __init__(
        self, settings: TrainingSettings, config: ModelConfig, data: Callable[[Train], tuple[Any, ...]] = open_data
    ) -> None:
        self.settings, self.train, self.config = settings, settings.train, config
        check_size(settings, config.model)
        if self.train.log.tensorboard:
            require_tensorboard()
        self.base = open_base(config, self.train)
        self.training, self.held_out = data(self.train)
        self.calibration = of_list(self.train.dataset.init_args.metadata)
        self.clips_hash = _clips_hash(self.training.values(), self.train.dataset.init_args.data_dir)
        if self.train.cache is not None:
            self._use_cache(Path(self.train.cache))
        self.global_batch = self.train.loader.batch_size * parallel.size()
        self.dataset = SizedClips(self.training, self.global_batch, self.train.seed)
        self.go_on_from(0, 0)

    @property
    def clips_of_a_step(self) -> int:
        """Over all devices: what a learning rate is for, and no setting tells alone."""
        return self.global_batch * self.train.optimizer.accumulate

    def go_on_from(self, step: int, samples: int) -> None:
        """Set `total`, the steps of the whole run. Its first `step` steps showed `samples` clips, perhaps in batches of
        another size."""
        self.total = total_steps(
            self.train.epochs,
            self.train.max_steps,
            len(self.dataset),
            self.clips_of_a_step,
            step,
            samples,
        )

    def _use_cache(self, place: Path) -> None:
        loss = self.train.loss
        few, every = encoders_hashes(self.base)
        made_with = {
            "encoders": few,
            "encoders (every tensor)": every,
            "model.clip.head_width": self.config.model.clip.head_width,  # which no shape tells
            "environment.fast_float32": self.settings.environment.fast_float32,
            "amp_level": precision(self.train),
            "cond_aug": [loss.cond_aug_mean, loss.cond_aug_std],
        }

        def cached(parts: dict[tuple[int, int], Any], kind: str, epochs: int) -> dict[tuple[int, int], CachedClips]:
            folder, several = place / kind, self.train.dataset.init_args.sizes is not None
            return {
                size: CachedClips(part, folder / size_name(size) if several else folder, epochs, made_with)
                for size, part in parts.items()
            }

        self.training = cached(self.training, "training", self.train.cache_epochs)
        self.held_out = cached(self.held_out, "validation", 1)

    def warnings(self) -> list[str]:
        """Sentences that the user should see."""
        data, trained = self.train.dataset.init_args, self.config.sampling
        if data.sizes is not None:
            return [
                f"no training clip is nearest to {size_name(size)} (train.dataset.init_args.sizes)"
                for size in sizes(data)
                if size not in self.training
            ]
        if (data.height, data.width) == (trained.height, trained.width):
            return []
        return [
            f"the model was trained at {trained.height}x{trained.width} (height x width), the clips are "
            f"{data.height}x{data.width} (train.dataset.init_args.height and width)"
        ]

    def describe_sizes(self) -> list[str]:
        """Lines about the sizes of the clips; none where there is one."""
        if len(self.training) < 2:
            return []
        counts = [
            f"{size_name(size)}: {len(part)} clips to train on, {len(self.held_out.get(size, ()))} held out"
            for size, part in self.training.items()
        ]
        return [
            *counts,
            f"each batch has one of these {len(counts)} sizes; in graph mode the network is compiled once "
            "for each, when it first comes",
        ]

    def shapes(self, size: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(latent_shape (t, z, h, w), pixel_shape (1, 3, H, W)) of a sample of `size`."""
        return (self.train.dataset.init_args.frames, *latent_shape(self.config.model, size)), (1, 3, *size)

    def training_draws(self, position: int) -> Draws:
        """Draws of the sample at `position` of `dataset`."""
        return self.part_draws(*self.dataset.place(position))

    def part_draws(self, part: int, place: int) -> Draws:
        """Draws of the sample at position `place` of the stream of the part-th size alone."""
        shapes = self.shapes(list(self.training)[part])
        return training_draws(self.train.seed, place, self.train.loss, *shapes, part)

    def fixed(self) -> dict[str, Any]:
        """What a checkpoint and the run that resumes from it must have in common."""
        several = {} if len(self.training) == 1 else {"clips of a batch, over all devices": self.global_batch}
        return {
            **several,
            "train.seed": self.train.seed,
            "train.temporal_only": self.train.temporal_only,
            "train.ema": self.train.ema,
            "train.lora": plain(self.train.lora) if self.train.lora.rank else None,
            "number of training clips": len(self.dataset),
            "training clips (names, lengths, labels)": self.clips_hash,
            "train.pretrained": self.base.record["base_hash"],
            "train.pretrained (every tensor)": self.base.values_hash(self.base.shapes),
        }

    def told(self) -> dict[str, Any]:
        """What a resumed run may change, and says so where it has."""
        found = {**by_name(self.settings, self.config), "clips of a step, over all devices": self.clips_of_a_step}
        parts = (*self.training.values(), *self.held_out.values())
        clips = [clip for part in parts for clip in getattr(part, "clips", ())]
        if clips and parallel.rank() == 0:  # of a cache it is the cache that asks for the same
            found[CONTENT] = content_of(clips)
        return found


def _clips_hash(datasets: Iterable[Any], folder: str) -> str | None:
    """Of what the list of clips says, whatever folder they lie in; None of clips that are drawn."""
    rows = [
        (os.path.relpath(clip.path, folder), *clip.label)
        for dataset in datasets
        for clip in getattr(dataset, "clips", ())
    ]
    return hashlib.sha256(repr(rows).encode(errors="surrogateescape")).hexdigest()[:16] if rows else None
