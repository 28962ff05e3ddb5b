"""What the frozen parts of the model are trained on, as cells that give the loss of every sample."""

from __future__ import annotations

from mindspore import Tensor, nn, ops


class AutoencoderLoss(nn.Cell):
    """Reconstruction error and a slight pull of the posterior towards the unit normal (Kingma & Welling 2014).

    Squared error, because it is what PSNR measures, and a tenth as much absolute error, which keeps edges.

    Args:
        encoder: `VaeEncoder` without quant_conv. decoder: `VaeDecoder`.
        kl_weight: of the divergence per latent value.
        t: frames of a video for the temporal decoder; None trains it on still images.
    """

    def __init__(self, encoder: nn.Cell, decoder: nn.Cell, kl_weight: float, t: int | None = None) -> None:
        super().__init__(auto_prefix=False)
        self.encoder, self.decoder, self.kl_weight, self.t = encoder, decoder, kl_weight, t

    def construct(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """pixels (n, 3, H, W) in [-1, 1], noise (n, z, h, w) unit normal -> (n,)."""
        moments = self.encoder(pixels)
        z = moments.shape[1] // 2
        mean, log_variance = moments[:, :z], ops.clamp(moments[:, z:], -30.0, 20.0)
        decoded = self.decoder(mean + ops.exp(0.5 * log_variance) * noise, self.t)
        error = (decoded - pixels).reshape(pixels.shape[0], -1)
        divergence = 0.5 * (mean * mean + ops.exp(log_variance) - 1.0 - log_variance).reshape(pixels.shape[0], -1)
        return ops.mean(error * error + 0.1 * ops.abs(error), 1) + self.kl_weight * ops.mean(divergence, 1)


class TowerLoss(nn.Cell):
    """Two views of a picture should have embeddings that are nearer to each other than to any other picture's
    (InfoNCE, as CLIP's loss with a second view in place of the caption)."""

    def __init__(self, tower: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.tower = tower

    def construct(self, first: Tensor, second: Tensor, own: Tensor) -> Tensor:
        """first, second: preprocessed views (n, 3, s, s); own: the unit matrix (n, n) -> (n,)."""
        a, b = _unit(self.tower(first)), _unit(self.tower(second))
        logits = 10.0 * ops.matmul(a, b.transpose(1, 0))
        own_logit = ops.sum(logits * own, 1)
        return 0.5 * (ops.logsumexp(logits, 1) + ops.logsumexp(logits, 0)) - own_logit


def _unit(x: Tensor) -> Tensor:
    return x * ops.rsqrt(ops.sum(x * x, 1, True) + 1e-6)
