"""Videos with a picture at either end, without training: Time Reversal Fusion (Feng et al. 2024, arXiv 2403.14611).

The network knows what follows a picture. What comes before one is what follows it in a film that runs backwards; so in
every step the video is denoised twice, forward from the first picture and, reversed in time, from the last one, and
the two estimates are fused: each counts the more, the nearer a frame is to its picture. The paper adds new noise within
each step, to let the two agree; the sampler lcm does the same between the steps.

ViBiDSampler (Yang et al. 2024, arXiv 2410.05651) lets the two take turns instead, with new noise between them.
`benchmarks/in_between.py` measures both; on svd_tiny its first frame was 7 dB farther from its picture.
"""

from __future__ import annotations

import numpy as np

from gm.diffusion.sampling import Denoise


def reverse(frames: np.ndarray, t: int | None = None) -> np.ndarray:
    """An array of frames, the last one first, in memory of its own. t: frames of each video where there are several,
    each of which is reversed."""
    videos = frames.reshape(-1, t or len(frames), *frames.shape[1:])
    return np.ascontiguousarray(videos[:, ::-1]).reshape(frames.shape)


def between(forward: Denoise, backward: Denoise, t: int) -> Denoise:
    """A denoiser of videos of t frames, (x, sigma) -> D, from two that each know one picture.

    Args:
        forward: denoiser that knows the picture at the first frame; its weight falls from 1 there to 0 at the last.
        backward: denoiser that knows the picture at the last frame, and sees the frames in reversed order.
    """
    weight = np.linspace(1, 0, t, dtype=np.float32).reshape(t, 1, 1, 1)

    def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
        there, back = forward(x, sigma), reverse(backward(reverse(x, t), sigma), t)
        weights = np.tile(weight, (len(x) // t, 1, 1, 1))
        return weights * there + (1 - weights) * back

    return denoise
