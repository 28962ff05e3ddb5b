"""Encoding what a run's cache lacks before it trains."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Callable

from gm.data.outputs import make_folder
from gm.ops import parallel
from gm.training.cache import CachedClips
from gm.training.draws import Draws, validation_draws
from gm.training.examples import Encoders
from gm.training.owner import owned
from gm.training.plan import Plan
from gm.training.settings import precision
from gm.training.shares import shares


def fill_cache(plan: Plan) -> None:
    """Encode what the cache of a `Plan` lacks, this device its share of it; nothing where the run has none. UserError
    where another run is doing so."""
    train = plan.train
    if train.cache is None:
        return
    load = functools.lru_cache(lambda: Encoders(plan.config, plan.base, precision(train)))
    todo = _missing(plan)
    if parallel.mean([float(any(missing for _, missing, _ in todo))])[0]:
        make_folder(train.cache)
        count = sum(len(missing) for _, missing, _ in todo)
        busy = f"another run is filling {train.cache}: wait for it, or name another --train.cache"
        with owned(Path(train.cache) / ".lock", busy):
            for clips, _, _ in todo:
                clips.claim(clean=parallel.rank() == 0)
            with shares(train.cache, count) as share:
                for clips, missing, draws in todo:
                    clips.fill(missing, load, draws, train.loader, share.advance)


def _missing(plan: Plan) -> list[tuple[CachedClips, list[int], Callable[[int], Draws]]]:
    """[(`gm.training.cache.CachedClips`, positions that this device makes, function of a position -> `Draws`)]."""
    sets = [
        (clips, clips.epochs * len(clips), functools.partial(plan.part_draws, part))
        for part, clips in enumerate(plan.training.values())
    ]
    sets += [
        (clips, min(plan.train.validation.clips, len(clips)), functools.partial(_held_out_draws, plan, part, size))
        for part, (size, clips) in enumerate(plan.held_out.items())
    ]
    todo: list[tuple[CachedClips, list[int], Callable[[int], Draws]]] = []
    before = 0
    for clips, count, draws in sets:
        first = (parallel.rank() - before) % parallel.size()  # dealt out over all sets: small ones to different devices
        todo.append((clips, clips.missing(count, first, parallel.size()), draws))
        before += count
    return todo


def _held_out_draws(plan: Plan, part: int, size: tuple[int, int], clip: int) -> Draws:
    return validation_draws(plan.train.seed, clip, 0, 1.0, plan.train.loss, *plan.shapes(size), part)
