"""watermark_golden: the invisible watermark on one frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gm.data.watermark import embed_watermark

if TYPE_CHECKING:
    from svd_tools.golden.reader import Golden
    from svd_tools.golden.report import Report


def replay(golden: Golden, report: Report, amp_level: str) -> None:
    """The marked frames, truncated to integers, and a crop of the first one before that."""
    frames = golden.inputs["frames_uint8"].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    marked = embed_watermark(frames)
    report.compare("out/frames_uint8", (marked * 255).astype(np.uint8).transpose(0, 2, 3, 1), "bytes")
    top, bottom, left, right = golden.meta["crop"]
    report.compare("out/frame0_float_crop", marked[0, :, top:bottom, left:right])
