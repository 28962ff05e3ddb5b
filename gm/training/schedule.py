"""How the learning rate changes over a run, and how long a run is."""

from __future__ import annotations

import math

from gm.training.settings import Schedule


def learning_rate(step: int, peak: float, schedule: Schedule, total: int) -> float:
    """Learning rate of step 0, 1, …: a linear warm-up to `peak`, then constant or half a cosine.

    schedule: the section train.schedule. total: steps of the whole run; the cosine is at end_factor * peak in the last.
    """
    if step < schedule.warmup_steps:
        return peak * (step + 1) / (schedule.warmup_steps + 1)
    if schedule.name == "constant":
        return peak
    rest = total - 1 - schedule.warmup_steps
    progress = min((step - schedule.warmup_steps) / rest, 1.0) if rest > 0 else 1.0
    return peak * (schedule.end_factor + (1 - schedule.end_factor) * 0.5 * (1 + math.cos(math.pi * progress)))


def total_steps(
    epochs: float, max_steps: int | None, clips: int, clips_per_step: int, step: int = 0, samples: int = 0
) -> int:
    """Steps until `epochs` passes over the clips are complete, at most `max_steps` where that is given.

    step, samples: steps done, and clips shown in them.
    """
    left = round(max(0.0, epochs * clips - samples), 6)  # 1.1 * 10 is 11.000000000000002
    steps = step + math.ceil(left / clips_per_step)
    return steps if max_steps is None else min(steps, max_steps)
