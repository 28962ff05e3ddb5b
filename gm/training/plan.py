"""A run before anything is loaded: its base, its clips, its numbers and its cache."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from omegaconf import OmegaConf

from gm.data.outputs import make_folder
from gm.ops import parallel
from gm.training.base import encoders_hash, open_base
from gm.training.cache import CachedClips
from gm.training.data import open_data
from gm.training.draws import training_draws, validation_draws
from gm.training.examples import Encoders
from gm.training.log import require_tensorboard
from gm.training.owner import owned
from gm.training.schedule import total_steps
from gm.training.settings import check_size, precision


class Plan:
    """A run before anything is loaded: base, clips and numbers. Raises UserError for all that can be known so early.

    data: function of the section train -> (training clips, held-out clips or None), as `gm.training.data.open_data`.
    """

    def __init__(self, settings, config, data=open_data):
        self.settings, self.train, self.config = settings, settings.train, config
        check_size(settings, config.model)
        if self.train.log.tensorboard:
            require_tensorboard()
        self.base = open_base(config, self.train)
        self.dataset, self.held_out = data(self.train)
        self.clips_hash = _clips_hash(self.dataset, self.train.dataset.init_args.data_dir)
        self.global_batch = self.train.loader.batch_size * parallel.size()
        self.go_on_from(0, 0)
        data, vae = self.train.dataset.init_args, config.model.vae
        factor = 2 ** (len(vae.ch_mult) - 1)
        self.latent_shape = (data.frames, vae.z_channels, data.height // factor, data.width // factor)
        self.pixel_shape = (1, 3, data.height, data.width)
        if self.train.cache is not None:
            self._use_cache()

    def go_on_from(self, step, samples):
        """Set `total`, the steps of the whole run. Its first `step` steps showed `samples` clips, perhaps in batches of
        another size."""
        self.total = total_steps(
            self.train.epochs, self.train.max_steps, len(self.dataset),
            self.global_batch * self.train.optimizer.accumulate, step, samples,
        )

    def _use_cache(self):
        folder, loss = Path(self.train.cache), self.train.loss
        made_with = {
            "encoders": encoders_hash(self.base), "amp_level": precision(self.train),
            "cond_aug": [loss.cond_aug_mean, loss.cond_aug_std],
        }
        self.dataset = CachedClips(self.dataset, folder / "training", self.train.cache_epochs, made_with)
        if self.held_out is not None:
            self.held_out = CachedClips(self.held_out, folder / "validation", 1, made_with)

    def warnings(self):
        """Sentences that the user should see."""
        data, trained = self.train.dataset.init_args, self.config.sampling
        if (data.height, data.width) == (trained.height, trained.width):
            return []
        return [f"the model was trained at {trained.height}x{trained.width} (height x width), the clips are "
                f"{data.height}x{data.width} (train.dataset.init_args.height and width)"]

    def training_draws(self, position):
        return training_draws(self.train.seed, position, self.train.loss, self.latent_shape, self.pixel_shape)

    def fill_cache(self):
        """Encode what the cache lacks, this device its share of it. UserError where another run is doing so."""
        load = functools.lru_cache(lambda: Encoders(self.config, self.base, precision(self.train)))

        def held_out_draws(clip):
            return validation_draws(self.train.seed, clip, 0, 1.0, self.train.loss, self.latent_shape, self.pixel_shape)

        share = {"first": parallel.rank(), "every": parallel.size()}
        missing, missing_held_out = self.dataset.missing(**share), []
        if self.held_out is not None:
            count = min(self.train.validation.clips, len(self.held_out))
            missing_held_out = self.held_out.missing(count, **share)
        if parallel.mean([float(bool(missing or missing_held_out))])[0]:
            make_folder(self.train.cache)
            busy = f"another run is filling {self.train.cache}: wait for it, or name another --train.cache"
            with owned(Path(self.train.cache) / ".lock", busy):
                self.dataset.fill(missing, load, self.training_draws, self.train.loader)
                if self.held_out is not None:
                    self.held_out.fill(missing_held_out, load, held_out_draws, self.train.loader)
                parallel.mean([0.0])  # nobody reads before all have written

    def fixed(self):
        """What a checkpoint and the run that resumes from it must have in common."""
        return {
            "train.seed": self.train.seed, "train.temporal_only": self.train.temporal_only, "train.ema": self.train.ema,
            "train.lora": OmegaConf.to_container(self.train.lora) if self.train.lora.rank else None,
            "number of training clips": len(self.dataset),
            "training clips (names, lengths, labels)": self.clips_hash,
            "train.pretrained": self.base.record["base_hash"],
        }


def _clips_hash(dataset, folder):
    """Of what the list of clips says, whatever folder they lie in; None of clips that are drawn."""
    rows = [(os.path.relpath(clip.path, folder), *clip.label) for clip in getattr(dataset, "clips", ())]
    return hashlib.sha256(repr(rows).encode(errors="surrogateescape")).hexdigest()[:16] if rows else None
