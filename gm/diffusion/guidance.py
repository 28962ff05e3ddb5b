"""Classifier-free guidance whose scale changes along the frames (original: LinearPredictionGuider and its kin)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

import numpy as np

from gm.diffusion.sampling import Denoise

if TYPE_CHECKING:
    from mindspore import Tensor

    from gm.diffusion.conditioning import Conditioning
    from gm.ops.pair import Pair

_EDGE = 0.1  # share of the frames over which a trapezoid rises, and falls
# A limit and a noise level that differ by less, as a share, are the same: levels are float32, and are told with six
# digits. Those of 1000 steps, the most that there are, differ by a thousandth.
_SAME = 1e-5


def linear_scales(min_guidance: float, max_guidance: float, t: int) -> np.ndarray:
    """float32 (t, 1, 1, 1): from min_guidance at the first frame to max_guidance at the last."""
    return np.linspace(min_guidance, max_guidance, t, dtype=np.float32).reshape(t, 1, 1, 1)


def triangle_scales(min_guidance: float, max_guidance: float, t: int) -> np.ndarray:
    """float32 (t, 1, 1, 1): from min_guidance up to max_guidance in the middle and down again (original:
    TrianglePredictionGuider, of one period)."""
    height = 1 - np.abs(np.linspace(-1, 1, t)) if t > 1 else np.zeros(1)
    return (min_guidance + (max_guidance - min_guidance) * height).astype(np.float32).reshape(t, 1, 1, 1)


def trapezoid_scales(min_guidance: float, max_guidance: float, t: int) -> np.ndarray:
    """float32 (t, 1, 1, 1): max_guidance, but for a tenth of the frames at either end, which lead from and to
    min_guidance (original: TrapezoidPredictionGuider, whose middle is 1 whatever the scales are: a slip)."""
    scales = np.full(t, max_guidance, np.float32)
    edge = int(t * _EDGE)
    scales[:edge] = np.linspace(min_guidance, max_guidance, edge)
    scales[t - edge :] = scales[:edge][::-1]
    return scales.reshape(t, 1, 1, 1)


def constant_scales(_: float, max_guidance: float, t: int) -> np.ndarray:
    """float32 (t, 1, 1, 1): max_guidance at all frames."""
    return np.full((t, 1, 1, 1), max_guidance, np.float32)


SHAPES = {
    "linear": linear_scales,
    "triangle": triangle_scales,
    "trapezoid": trapezoid_scales,
    "constant": constant_scales,
}


def within(sigma: np.ndarray | float, sigma_min: float | None, sigma_max: float | None) -> np.ndarray:
    """Whether guidance applies at noise levels, of any shape; None: no limit. A level that is a limit is within."""
    low = -np.inf if sigma_min is None else sigma_min * (1 - _SAME)
    high = np.inf if sigma_max is None else sigma_max * (1 + _SAME)
    return (low <= np.asarray(sigma)) & (np.asarray(sigma) <= high)


def guided(
    denoiser: Callable[..., Tensor],
    conditioning: Conditioning,
    scales: np.ndarray,
    t: int,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    together: bool = True,
    pair: Pair | None = None,
) -> Denoise:
    """A denoiser of videos, D = D_null + scale * (D_cond - D_null), with the signature (x, sigma) -> D.

    Args:
        denoiser: `gm.diffusion.denoiser.Denoiser`, or what is called as it is.
        conditioning: `Conditioning` of n = b*t frames. scales (n, 1, 1, 1): guidance scale of every frame.
        t: frames of each video.
        sigma_min, sigma_max: guidance at these noise levels alone (Kynkäänniemi et al. 2024); None: no limit.
        together: both halves as one batch, the unconditional one first; False: one after the other, in half the memory.
        pair: None, or the `gm.ops.pair.Pair` of two devices, of which each computes one half.

    Where every scale is 1, or outside the limits, the result is D_cond and the unconditional half is left out.
    """
    from mindspore import Tensor  # this module's table of shapes is read before MindSpore is wanted

    halves = [] if np.all(scales == 1) else [conditioning.null(), conditioning]
    if halves and pair is not None:
        halves = [halves[pair.rank]]
    elif halves and together:
        halves = [halves[0].join(halves[1])]

    def denoise_guided(x: np.ndarray, sigma: float) -> np.ndarray:
        guides = halves and within(sigma, sigma_min, sigma_max)
        found = []
        for part in halves if guides else [conditioning]:
            rows = np.tile(x, (len(part.vector) // len(x), 1, 1, 1))
            inputs = rows, np.full(len(rows), sigma, np.float32), part.concat, part.context, part.vector
            found.append(denoiser(*map(Tensor, inputs), t).asnumpy())
        if not guides:
            return found[0]
        null, cond = pair.both(found[0]) if pair is not None else np.split(np.concatenate(found), 2)
        with np.errstate(invalid="ignore"):  # infinities: who takes the result looks for them
            return null + scales * (cond - null)

    return denoise_guided
