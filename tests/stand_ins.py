"""Plain functions in the place of networks."""

import numpy as np
from mindspore import Tensor

from gm.diffusion.conditioning import Conditioning


def denoiser_of(denoise):
    """A function (x, sigma, conditioning) -> D of arrays in the place of a `gm.diffusion.denoiser.Denoiser`."""

    def construct(x, sigma, concat, context, vector, t):
        x, sigma, concat, context, vector = (part.asnumpy() for part in (x, sigma, concat, context, vector))
        return Tensor(denoise(x, sigma, Conditioning(context, concat, vector)).astype(np.float32))

    return construct
