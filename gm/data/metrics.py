"""How good a generated video is, as far as it can be told from its frames alone: no downloaded weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from gm.data.flow import follow, one_more, picture_flow, same_points, visible
from gm.data.motion import bucket, motion_score

# name -> what it says, in the order of the table
MEANINGS = {
    "first_frame_psnr": "dB, first frame against the input picture",
    "first_frame_ssim": "structural similarity of the same, 1 is equal",
    "motion_score": "mean motion, % of the shortest side per second",
    "motion_bucket": "the motion_bucket_id of that score (gm/data/motion.py)",
    "motion_right": "mean motion to the right, % of the shortest side per second",
    "motion_down": "mean motion downwards, the same unit",
    "flicker": "jumps of the mean brightness, of 255",
    "warping_error": "of 255, each frame against the next one brought back along the flow, where both see the point",
    "occluded": "share of the points that the warping error leaves out",
    "colour_drift": "distance of mean colours, first to last frame, CIE Lab",
    "followed_colour_drift": "the same over the points that both show, along the measured flow: no change of content",
    "followed_chroma_drift": "how coloured the same points are: mean chroma of CIE Lab, last over first frame, log2",
    "sharpness_drift": "fine detail, last frame over first, log2: -1 is half as much",
    "loop_closure": "dB, last frame against the first",
    "followed_closure": "dB, the same with the first frame moved along the measured flow",
}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures; infinite for equal ones."""
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity of two uint8 pictures (h, w, 3), on grey values (Wang et al. 2004): Gaussian window
    of deviation 1.5, constants 0.01 and 0.03."""
    x, y = (cv2.cvtColor(np.ascontiguousarray(one), cv2.COLOR_RGB2GRAY).astype(np.float64) for one in (a, b))

    def blur(z: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(z, (11, 11), 1.5)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    both = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(found.mean())


def sharpness(picture: np.ndarray) -> float:
    """Mean absolute Laplacian of the grey values of a uint8 picture."""
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())


def evaluate(
    frames: np.ndarray | Sequence[np.ndarray], fps: float, image: np.ndarray | None = None
) -> dict[str, float]:
    """{name of MEANINGS: number} of a video.

    frames uint8 (t, h, w, 3) RGB, at least two; image: uint8 (h, w, 3), the input picture at the video's size, or None
    (no first_frame_… then). ValueError for less than two frames or an image of another size.
    """
    if len(frames) < 2:
        raise ValueError(f"a video needs at least 2 frames, got {len(frames)}")
    found = {}
    if image is not None:
        if image.shape != frames[0].shape:
            raise ValueError(f"the picture is {image.shape}, the frames are {frames[0].shape}")
        found = {"first_frame_psnr": psnr(frames[0], image), "first_frame_ssim": ssim(frames[0], image)}
    score = motion_score(frames, fps)
    found.update(motion_score=score, motion_bucket=bucket(score))
    return {**found, **_along_the_flow(frames, fps), **_drift(frames)}


def _along_the_flow(frames: np.ndarray | Sequence[np.ndarray], fps: float) -> dict[str, float]:
    errors, hidden, motion = [], [], []
    back_to_first = np.zeros((*frames[0].shape[:2], 2), np.float32)
    for now, then in zip(frames, frames[1:]):
        forward, backward = picture_flow(now, then), picture_flow(then, now)
        seen = visible(forward, backward)
        difference = np.abs(follow(then, forward).astype(np.float32) - now).mean(-1)
        errors.append(float(difference[seen].mean()) if seen.any() else math.nan)
        hidden.append(1 - float(seen.mean()))
        motion.append(forward.mean((0, 1)))
        back_to_first = one_more(back_to_first, backward)
    right, down = 100 * fps * np.mean(motion, 0) / min(frames[0].shape[:2])
    return {
        "motion_right": float(right),
        "motion_down": float(down),
        "warping_error": float(np.nanmean(errors)),
        "occluded": float(np.mean(hidden)),
        "loop_closure": psnr(frames[-1], frames[0]),
        "followed_closure": psnr(frames[-1], follow(frames[0], back_to_first)),
        **same_points_drift(frames[0], frames[-1], back_to_first),
    }


def same_points_drift(first: np.ndarray, last: np.ndarray, to_first: np.ndarray) -> dict[str, float]:
    """The followed drifts of `MEANINGS`, NaN where the frames have no point in common. Arguments as of
    `gm.data.flow.same_points`."""
    names, points = ("followed_colour_drift", "followed_chroma_drift"), same_points(first, last, to_first)
    if points is None:
        return dict.fromkeys(names, math.nan)
    means = (colours.mean(0, dtype=np.float64) for colours in points)
    before, after = (chroma(colours) + 1 for colours in points)  # 1 is grey to every eye: a grey picture has no drift
    return dict(zip(names, (colour_distance(*means), math.log2(after / before))))


def _drift(frames: np.ndarray | Sequence[np.ndarray]) -> dict[str, float]:
    brightness = np.array([frame.mean() for frame in frames])
    jumps = np.diff(brightness, 2) if len(frames) > 2 else np.zeros(1)
    tiny = 1e-3  # a frame of one colour has no detail at all
    return {
        "flicker": float(np.sqrt(np.mean(jumps**2))),
        "colour_drift": colour_distance(*(frame.mean((0, 1)) for frame in (frames[0], frames[-1]))),
        "sharpness_drift": math.log2((sharpness(frames[-1]) + tiny) / (sharpness(frames[0]) + tiny)),
    }


def chroma(colours: np.ndarray) -> float:
    """Mean distance from grey of colours uint8 (n, 3), in CIE Lab: C*ab of CIE 15, the saturation's part that does not
    depend on the brightness."""
    lab = cv2.cvtColor(colours.reshape(1, -1, 3).astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB)
    return float(np.hypot(lab[..., 1], lab[..., 2]).mean())


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Of two colours (3,) of 0 to 255, in CIE Lab: below 2.3 it is not seen (Mahy et al. 1994)."""
    a, b = (cv2.cvtColor((c.reshape(1, 1, 3) / 255).astype(np.float32), cv2.COLOR_RGB2LAB) for c in (a, b))
    return float(np.linalg.norm(a - b))
