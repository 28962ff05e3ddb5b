"""Graphs that a run of training compiles, kept for the next one with the same settings: see `gm.compile_cache`."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from typing import Any

from gm import ops
from gm.compile_cache import chosen, compile_cache
from gm.console import versions
from gm.ops import parallel, reference
from gm.settings import plain
from gm.training.trainer import Trainer

# Settings that no graph holds. Those of the optimizer, but for the learning rate, are constants in it.
_NUMBERS = (
    "base",
    "cache",
    "cache_epochs",
    "checkpoint",
    "dataset.init_args.data_dir",
    "dataset.init_args.flip",
    "dataset.init_args.metadata",
    "dataset.init_args.step",
    "dataset.init_args.verify_files",
    "epochs",
    "loader.max_failed_share",
    "loader.prefetch",
    "loader.workers",
    "log",
    "loss",
    "loss_scale",
    "max_steps",
    "optimizer.learning_rate",
    "output_dir",
    "pretrained",
    "resume",
    "sample.every",
    "sample.seed",
    "save",
    "schedule",
    "seed",
    "use_ema",
    "validation.data_dir",
    "validation.every",
    "validation.metadata",
    "validation.share",
    "validation.sigmas",
)


def kept_graphs(trainer: Trainer, asked: str | None) -> AbstractContextManager[Any]:
    """A context in which graphs come from the cache or go there. asked: the option --compile_cache.

    None are kept where their order is not known beforehand: with clips of several sizes, and with several devices.
    """
    plan = trainer.plan
    place, named = chosen(asked, ops.device(), plan.settings.environment.mode)
    if len({*plan.training, *plan.held_out}) > 1 or parallel.size() > 1:
        place = None
    return compile_cache(place, lambda: conditions(trainer), named)


def what_takes_long(trainer: Trainer, kept: bool) -> str | None:
    """A line for the user on the first step of a run that compiles; kept: what the context of `kept_graphs` gives."""
    compiles = trainer.plan.settings.environment.mode == ops.GRAPH_MODE and not kept
    return "graph mode: compiling the networks; the first step takes long" if compiles else None


def conditions(trainer: Trainer) -> list[Any]:
    """All that decides which graphs a run compiles, and in what order, but for the sources."""
    plan = trainer.plan
    settings = plain(plan.settings)
    for name in _NUMBERS:
        *sections, last = f"train.{name}".split(".")
        section = settings
        for each in sections:
            section = section[each]
        section.pop(last)
    dtypes = hashlib.sha256(repr([(name, str(plan.base.dtype(name))) for name in sorted(plan.base.shapes)]).encode())
    held_out = [min(plan.train.validation.clips, len(clips)) for clips in plan.held_out.values()]
    return [
        settings,
        versions(),
        plain(plan.config),
        ops.compiled_library(),
        dtypes.hexdigest(),
        plan.train.cache is None,
        held_out,
        trainer.samples and trainer.samples.image.shape,
        reference.MAX_SCORES,
        order(trainer),
    ]


def order(trainer: Trainer) -> list[str]:
    """Names of what the run compiles, in that order, as long as it is not one thing alone that is left."""
    train, done, total = trainer.train, trainer.state.step, trainer.plan.total

    def first(every: int) -> int:
        return min((done // every + 1) * every, total)

    before = ["validation"] if done == 0 and trainer.validation is not None else []
    later = [(first(train.validation.every), "validation")] if trainer.validation is not None else []
    end = later[0][0] if later and not before else 0
    if trainer.samples is not None:
        every = train.sample.every or total
        # Those before the validation is compiled: the decoder of each sample is loaded, and compiled, anew.
        later += [(step, "sample") for step in (first(every), *range(first(every) + every, end, every))]
    return [*before, "step", *(name for _, name in sorted(later, key=lambda item: item[0]))]
