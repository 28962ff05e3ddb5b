"""Dense optical flow (Farnebäck 2003, as OpenCV has it) between two pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

WORK_SIDE = 256  # shortest side, in pixels, of the pictures between which flow is computed
# OpenCV divides by (determinant + 1e-3), which is not small against faint texture on 0..255. With 16 a pan of 40 % per
# second over a desert scores 35 instead of 5; with 100 the dither noise of GIFs counts as motion.
_CONTRAST = 16.0


def working_copy(picture: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) RGB -> float32 grey picture whose shortest side is WORK_SIDE, for `dense_flow`."""
    height, width = picture.shape[:2]
    scale = WORK_SIDE / min(height, width)
    size = (max(WORK_SIDE, round(width * scale)), max(WORK_SIDE, round(height * scale)))
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
    shrunk = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return shrunk.astype(np.float32) * np.float32(_CONTRAST)


def dense_flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Flow between two working copies, float32 (h, w, 2) of (right, down) in their pixels: what is at x in `before`
    is at x + flow(x) in `after`."""
    # 5 levels: motion of up to about a fifth of the side. Window and polynomial as in OpenCV's documentation.
    return cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 5, 15, 3, 5, 1.2, 0)


def picture_flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """As `dense_flow`, for pictures uint8 (h, w, 3), at their size and in their pixels."""
    height, width = before.shape[:2]
    flow = dense_flow(working_copy(before), working_copy(after))
    scale = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
    return cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) * scale


def camera_flow(frames: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """(right, down, growth) of what is seen, means over neighbouring frames uint8 (t, h, w, 3): the shift as a share of
    the shortest side, and by how much distances from the middle grow, both for each frame.

    Least squares: of all flows that shift and enlarge the picture, the one nearest to what is measured. Plain areas
    have no flow, so that a picture with many of them seems to move less.
    """
    height, width = frames[0].shape[:2]
    side = min(height, width)
    x, y = np.meshgrid((np.arange(width) - (width - 1) / 2) / side, (np.arange(height) - (height - 1) / 2) / side)
    found = []
    for now, then in zip(frames, frames[1:]):
        flow = picture_flow(now, then) / side
        growth = (flow[..., 0] * x + flow[..., 1] * y).sum() / (x * x + y * y).sum()
        found.append([*flow.mean((0, 1)), growth])
    return np.mean(found, 0)


def follow(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """What `picture` (h, w, c) shows at x + flow(x), for every x: undoes the motion `flow` from x to the picture.

    Linear interpolation; outside the picture its edge.
    """
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(picture, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def inside(flow: np.ndarray) -> np.ndarray:
    """Where x + flow(x) is in the picture, bool (h, w)."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    there_x, there_y = x + flow[..., 0], y + flow[..., 1]
    return (there_x >= 0) & (there_x <= width - 1) & (there_y >= 0) & (there_y <= height - 1)


def visible(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Where a point is seen in both pictures, bool (h, w): following the flow there and back leads to where one began
    (Sundaram, Brox, Keutzer 2010), and not out of the picture."""
    back = follow(backward, forward)
    gap = ((forward + back) ** 2).sum(-1)
    return inside(forward) & (gap <= 0.01 * ((forward**2).sum(-1) + (back**2).sum(-1)) + 0.5)


def one_more(to_first: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """The flow from a frame to the first one, float32 (h, w, 2), from that of the frame before it (`to_first`) and the
    flow from it to the frame before (`backward`)."""
    return backward + follow(to_first, backward)


def same_points(first: np.ndarray, last: np.ndarray, to_first: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Colours uint8 (n, 3) of the points that two frames uint8 (h, w, 3) both show, in the first frame and in the last;
    None where they have no point in common. to_first: the flow from the last one to the first.

    What differs between them is no change of content, such as a camera brings that moves over the picture.
    """
    both = inside(to_first)
    return (follow(first, to_first)[both], last[both]) if both.any() else None
