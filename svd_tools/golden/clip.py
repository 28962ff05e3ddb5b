"""clip_golden: preprocessing and image tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gm.data.images import to_signed
from gm.diffusion.clip_preprocess import preprocess
from gm.networks.clip import ClipVision
from gm.precision import to_numpy
from svd_tools.golden.cells import Taps, fill, tensors

if TYPE_CHECKING:
    from svd_tools.golden.reader import Golden
    from svd_tools.golden.report import Report

PREFIX = "conditioner.embedders.0.open_clip.model.visual."
SMALL = 2.0**-9  # the eps_ probe makes the inputs of the first norm so small that its epsilon shows
SMALL_WEIGHTS = ("class_embedding", "positional_embedding", "conv1.weight")


def build(config: Mapping[str, Any], weights: Mapping[str, np.ndarray], amp_level: str = "O0") -> ClipVision:
    """The image tower of a recorded open_clip configuration."""
    vision = config["vision_cfg"]
    names = ("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio")
    cell = ClipVision(embed_dim=config["embed_dim"], **{name: vision[name] for name in names})
    return fill(cell, weights, "CLIP image tower", amp_level, PREFIX)


def synthetic_image(height: int, width: int) -> np.ndarray:
    """The integer test picture that the files were recorded with: uint8 (h, w, 3)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    channels = [(x * (3 + 2 * c) + y * (5 + c) + (x * y) // (7 + c)) % 256 for c in range(3)]
    return np.stack(channels, -1).astype(np.uint8)


def activation_path(name: str) -> str:
    """The recorded name of an activation as a path in our network."""
    return name.replace("resblock", "transformer.resblocks.") if name.startswith("resblock") else name


def replay(golden: Golden, report: Report, amp_level: str) -> None:
    """Every output and activation of the file; activations belong to the first size."""
    size = golden.meta["config"]["vision_cfg"]["image_size"]
    paths = {activation_path(name): name for name in golden.mids}
    plain = build(golden.meta["config"], golden.weights, amp_level)
    for i, (height, width) in enumerate(golden.meta["sizes"]):
        label = f"{height}x{width}"
        pixels = preprocess(to_signed(synthetic_image(height, width)), size)
        for stage, ours in ((f"out/pre_{label}", pixels), (f"out/pre_crop_{label}", pixels[:, :, ::4, ::4])):
            if stage in report.open:
                report.compare(stage, ours, "preprocessing")
        tower, taps = plain, None
        if i == 0:
            tower = build(golden.meta["config"], golden.weights, amp_level)
            taps = Taps(tower, {path: golden.mids[name] for path, name in paths.items()})
        if f"out/embed_{label}" in report.open:
            report.compare(f"out/embed_{label}", to_numpy(tower(*tensors(pixels)))[:, None])
        for path, value in taps.values().items() if taps else ():
            report.compare(f"mid/{paths[path]}", value)
        if f"out/eps_embed_{label}" in report.open:
            weights = {n: w * SMALL if n in SMALL_WEIGHTS else w for n, w in golden.weights.items()}
            small = build(golden.meta["config"], weights, amp_level)
            report.compare(f"out/eps_embed_{label}", to_numpy(small(*tensors(pixels)))[:, None])
