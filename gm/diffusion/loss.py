"""Training loss (original: StandardDiffusionLoss with EDMSampling and VWeighting)."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from gm import ops
from gm.diffusion.denoiser import Denoiser


def lognormal_sigmas(normal: np.ndarray | float, p_mean: float, p_std: float) -> np.ndarray:
    """sigma = exp(p_mean + p_std * normal), float32, for standard normal draws.

    SVD draws one for each video and repeats it for the video's frames; the original's stock class draws one for each
    row of the batch, that is for each frame.
    """
    return np.exp(p_mean + p_std * np.asarray(normal, np.float64)).astype(np.float32)


def loss_weight(sigma: Tensor) -> Tensor:
    """(sigma**2 + 1) / sigma**2, so that weight * c_out**2 = 1 (SVD paper, appendix D)."""
    return (sigma * sigma + 1.0) / (sigma * sigma)


class DiffusionLoss(nn.Cell):
    """Weighted mean squared error of the denoised latents."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser

    def construct(
        self,
        latents: Tensor,
        noise: Tensor,
        sigma: Tensor,
        concat: Tensor,
        context: Tensor,
        vector: Tensor,
        t: int,
    ) -> Tensor:
        """Loss of every frame, float32 (n,); the loss of the batch is its mean.

        Args:
            latents (n, 4, h, w): 0.18215 * sample of the first stage's posterior.
            noise (n, 4, h, w): unit normal; sigma (n,): the same for all frames of a video.
            concat, context, vector, t: as in `Denoiser`.
        """
        sigma = sigma.astype(ms.float32)
        noised = latents + noise * sigma.reshape(-1, 1, 1, 1)
        denoised = self.denoiser(noised, sigma, concat, context, vector, t)
        error = (denoised - latents) ** 2
        return loss_weight(sigma) * ops.mean(error.reshape(error.shape[0], -1), 1)
