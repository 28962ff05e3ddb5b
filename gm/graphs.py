"""Which graphs a job compiles, and in what order: all that decides it, for `gm.compile_cache`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gm import ops
from gm.batches import Batches
from gm.errors import UserError
from gm.options import ModelSettings, Options, VideoSettings
from gm.settings import Decides, indifferent

if TYPE_CHECKING:
    from gm.job import Job

# Of what is recorded, what graphs do not depend on.
INDIFFERENT = {"command", "weights", *indifferent(Decides.GRAPHS, ModelSettings, VideoSettings, Options)}


def conditions(job: Job, paths: Iterable[str | Path]) -> list[Any]:
    """Of a `gm.job.Job` with these pictures: every setting but the numbers that only go through the networks."""
    batches: list[list[tuple[int, int]]] = []
    waiting: Batches[tuple[int, int]] = Batches(job.settings.batch)
    for path in paths:
        with contextlib.suppress(UserError):  # it is told when its turn comes
            source = job.plan(path)
            batches += [waiting.add(source.size, source.size) for *_, there, _ in job.look(source) if not there]
    sizes = [(*batch[0], len(batch)) for batch in (*batches, *waiting.rest()) if batch] * job.settings.segments
    if not job.model.settings.low_memory:  # which makes the networks anew for every video
        sizes = list(dict.fromkeys(sizes))
    return _conditions(job, sizes)


def conditions_of_any(job: Job) -> list[Any] | None:
    """`conditions` of whatever pictures come, for one of several devices; None where they decide."""
    height, width = job.settings.height, job.settings.width
    if height is None or width is None or job.model.settings.low_memory or job.settings.batch > 1:
        return None
    return _conditions(job, [(height, width, 1)])


def _conditions(job: Job, sizes: list[tuple[int, int, int]]) -> list[Any]:
    """sizes: (height, width, videos) of what is sampled."""
    settings = {name: value for name, value in job.record().items() if name not in INDIFFERENT}
    done = job.settings.output_type != "latents", bool(job.settings.end_image)  # what else is computed
    narrow = sorted(job.pipeline.narrow())
    return [settings, ops.compiled_library(), done, sizes, narrow]
