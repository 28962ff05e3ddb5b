"""Dynamic loss scale of float16 training."""

from __future__ import annotations

from gm.training.settings import LossScaling

MIN_SCALE, MAX_SCALE = 1.0, 2.0**24


class LossScale:
    """The factor on the loss: halved when a gradient overflows, doubled after growth_steps steps without that.

    scale: the factor. good: steps since the last change. With `dynamic` False (float32) it stays 1.
    """

    def __init__(self, settings: LossScaling, dynamic: bool) -> None:
        self.growth_steps = settings.growth_steps
        self.dynamic = dynamic
        self.scale = float(settings.initial) if dynamic else 1.0
        self.good = 0

    def update(self, overflow: bool) -> None:
        """Take note of a step."""
        if not self.dynamic:
            return
        if overflow:
            self.scale, self.good = max(self.scale / 2, MIN_SCALE), 0
            return
        self.good += 1
        if self.good >= self.growth_steps:
            self.scale, self.good = min(self.scale * 2, MAX_SCALE), 0
