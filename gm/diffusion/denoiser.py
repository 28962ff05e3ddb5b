"""The preconditioned denoiser D(x; sigma) (Karras et al. 2022, equation 7; original: VScalingWithEDMcNoise)."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn

from gm import ops
from gm.networks.unet import VideoUNet


def preconditioning(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in, c_noise of float32 noise levels (any shape), sigma_data 1. c_out is negative.

    SVD paper, appendix D: with these scalings the network predicts v.
    """
    total = sigma * sigma + 1.0
    c_skip = 1.0 / total
    c_out = -sigma / ops.sqrt(total)
    c_in = 1.0 / ops.sqrt(total)
    c_noise = 0.25 * ops.log(sigma)
    return c_skip, c_out, c_in, c_noise


class Denoiser(nn.Cell):
    """The network between its scalings; what is compiled as one graph. The arithmetic of sigma stays float32."""

    def __init__(self, unet: VideoUNet) -> None:
        super().__init__(auto_prefix=False)  # parameters keep their names in the checkpoint
        self.unet = unet

    def construct(
        self,
        x: Tensor,
        sigma: Tensor,
        concat: Tensor,
        context: Tensor,
        vector: Tensor,
        t: int,
        image_only: Tensor | None = None,
        deep: Tensor | None = None,
        keep_deep: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Estimate of the clean latents.

        Args:
            x (n, 4, h, w): noisy latents, n = b*t.
            sigma (n,): noise level of each frame.
            concat (n, 4, h, w): conditioning latent, neither noised nor scaled here.
            context (n, l, e), vector (n, e): see `gm.diffusion.conditioning`.
            t: frames of each video.
            image_only: None, or (n,) with 1 for frames that are still images.
            deep: None, or what an earlier call with keep_deep returned beside the estimate, to be used again.

        Returns:
            float32 (n, 4, h, w); with keep_deep also what the network's deep blocks gave.
        """
        c_skip, c_out, c_in, c_noise = preconditioning(sigma.astype(ms.float32).reshape(-1, 1, 1, 1))
        inputs = ops.cat((c_in * x, concat), 1)
        f, deep = self.unet(inputs, c_noise.reshape(-1), context, vector, t, image_only, deep)
        denoised = c_out * f.astype(ms.float32) + c_skip * x
        return (denoised, deep) if keep_deep else denoised
