"""Encoding what a run's cache lacks before it trains."""

from __future__ import annotations

import functools
from pathlib import Path

from gm.data.outputs import make_folder
from gm.ops import parallel
from gm.training.draws import validation_draws
from gm.training.examples import Encoders
from gm.training.owner import owned
from gm.training.settings import precision


def fill_cache(plan):
    """Encode what the cache of a `Plan` lacks, this device its share of it. UserError where another run is doing so."""
    train = plan.train
    load = functools.lru_cache(lambda: Encoders(plan.config, plan.base, precision(train)))
    todo = _missing(plan)
    if parallel.mean([float(any(missing for _, missing, _ in todo))])[0]:
        make_folder(train.cache)
        busy = f"another run is filling {train.cache}: wait for it, or name another --train.cache"
        with owned(Path(train.cache) / ".lock", busy):
            for clips, missing, draws in todo:
                clips.fill(missing, load, draws, train.loader)
            parallel.mean([0.0])  # nobody reads before all have written


def _missing(plan):
    """[(`gm.training.cache.CachedClips`, positions that this device makes, function of a position -> `Draws`)]."""
    train, share, todo = plan.train, {"first": parallel.rank(), "every": parallel.size()}, []
    for part, clips in enumerate(plan.training.values()):
        todo.append((clips, clips.missing(**share), functools.partial(plan.part_draws, part)))
    for part, (size, clips) in enumerate(plan.held_out.items()):
        missing = clips.missing(min(train.validation.clips, len(clips)), **share)
        todo.append((clips, missing, functools.partial(_held_out_draws, plan, part, size)))
    return todo


def _held_out_draws(plan, part, size, clip):
    return validation_draws(plan.train.seed, clip, 0, 1.0, plan.train.loss, *plan.shapes(size), part)
