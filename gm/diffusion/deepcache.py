"""DeepCache (Ma, Fang, Wang 2024): in most steps only the UNet's outermost blocks are computed.

What comes from the deep blocks changes slowly from step to step. Every `interval`-th step computes all and keeps it;
the steps between take it from there (branch 0 of the original: DeepCache/svd). The embedding of the noise level is
always the step's own. Faster and not the same result: off by default.
"""

from __future__ import annotations

from typing import Callable

from mindspore import Tensor


class DeepCache:
    """In place of a `Denoiser` for one film: call it with the same arguments, once for each evaluation in order.

    What it keeps is that film's, so that each has one of its own, also the two of a video that is denoised from either
    end. Every interval-th evaluation is a full one, and so is the first after the batch size changes (guidance
    switching on or off).
    """

    def __init__(self, denoiser: Callable, interval: int) -> None:
        self.denoiser, self.interval = denoiser, interval
        self.evaluations, self.deep = 0, None

    def __call__(self, x: Tensor, sigma: Tensor, concat: Tensor, context: Tensor, vector: Tensor, t: int) -> Tensor:
        stale = self.deep is None or len(self.deep) != len(x)
        if stale or self.evaluations % self.interval == 0:
            self.evaluations = 1
            denoised, self.deep = self.denoiser(x, sigma, concat, context, vector, t, None, None, True)
            return denoised
        self.evaluations += 1
        return self.denoiser(x, sigma, concat, context, vector, t, None, self.deep)
