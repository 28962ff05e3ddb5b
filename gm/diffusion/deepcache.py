"""DeepCache (Ma, Fang, Wang 2024): in most steps only the UNet's outermost blocks are computed.

What comes from the deep blocks changes slowly from step to step. Every `interval`-th step computes all and keeps it;
the steps between take it from there (branch 0 of the original: DeepCache/svd). The embedding of the noise level is
always the step's own. Faster and not the same result: off by default.
"""

from __future__ import annotations

from gm import ops
from gm.diffusion.denoiser import Denoiser, preconditioning


class _Full(Denoiser):
    """The denoiser, which also returns what the deep blocks gave."""

    def construct(self, x, sigma, concat, context, vector, t):
        c_skip, c_out, c_in, c_noise = preconditioning(sigma.reshape(-1, 1, 1, 1))
        f, deep = self.unet.with_deep(ops.cat((c_in * x, concat), 1), c_noise.reshape(-1), context, vector, t)
        return c_out * f.astype(x.dtype) + c_skip * x, deep


class _Shallow(Denoiser):
    """The denoiser from what the deep blocks gave in an earlier step."""

    def construct(self, deep, x, sigma, concat, context, vector, t):
        c_skip, c_out, c_in, c_noise = preconditioning(sigma.reshape(-1, 1, 1, 1))
        f = self.unet.shallow(deep, ops.cat((c_in * x, concat), 1), c_noise.reshape(-1), context, vector, t)
        return c_out * f.astype(x.dtype) + c_skip * x


class DeepCache:
    """In place of a `Denoiser`: after `start`, call it with the same arguments, once for each evaluation in order."""

    def __init__(self, denoiser):
        self.full, self.shallow = _Full(denoiser.unet), _Shallow(denoiser.unet)
        self.start(1)

    def start(self, interval):
        """Begin a video, of which every interval-th evaluation is a full one; returns itself.

        The first evaluation after the batch size changes (guidance switching on or off) is a full one too.
        """
        self.interval, self.evaluations, self.deep = interval, 0, None
        return self

    def __call__(self, x, sigma, concat, context, vector, t):
        stale = self.deep is None or len(self.deep) != len(x)
        if stale or self.evaluations % self.interval == 0:
            self.evaluations = 1
            denoised, self.deep = self.full(x, sigma, concat, context, vector, t)
            return denoised
        self.evaluations += 1
        return self.shallow(self.deep, x, sigma, concat, context, vector, t)

