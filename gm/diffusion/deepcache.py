"""DeepCache (Ma, Fang, Wang 2024): in most steps only the UNet's outermost blocks are computed.

What comes from the deep blocks changes slowly from step to step. Every `interval`-th step computes all and keeps it;
the steps between take it from there (branch 0 of the original: DeepCache/svd). The embedding of the noise level is
always the step's own. Faster and not the same result: off by default.
"""

from __future__ import annotations

from typing import Callable

from mindspore import Tensor


class DeepCache:
    """In place of a `Denoiser`: after `start`, call it with the same arguments, once for each evaluation in order."""

    def __init__(self, denoiser: Callable) -> None:
        self.denoiser = denoiser
        self.start(1)

    def start(self, interval: int) -> DeepCache:
        """Begin a video, of which every interval-th evaluation is a full one; returns itself.

        The first evaluation after the batch size changes (guidance switching on or off) is a full one too.
        """
        self.interval, self.evaluations, self.deep = interval, 0, None
        return self

    def __call__(self, x: Tensor, sigma: Tensor, concat: Tensor, context: Tensor, vector: Tensor, t: int) -> Tensor:
        stale = self.deep is None or len(self.deep) != len(x)
        if stale or self.evaluations % self.interval == 0:
            self.evaluations = 1
            denoised, self.deep = self.denoiser(x, sigma, concat, context, vector, t, None, None, True)
            return denoised
        self.evaluations += 1
        return self.denoiser(x, sigma, concat, context, vector, t, None, self.deep)
