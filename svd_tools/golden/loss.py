"""loss_golden: training loss with one sigma for each video, and for each frame, and their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gm.diffusion.denoiser import Denoiser
from gm.diffusion.loss import DiffusionLoss, lognormal_sigmas
from svd_tools.golden.cells import gradients, tensors
from svd_tools.golden.unet import build

if TYPE_CHECKING:
    from mindspore import Tensor, nn

    from svd_tools.golden.reader import Golden
    from svd_tools.golden.report import Report


def replay(golden: Golden, report: Report, amp_level: str) -> None:
    """Every mode ("per_video", "per_frame") that the file holds."""
    meta, inputs = golden.meta, golden.inputs
    unet = build(meta["config"], golden.other(meta["weights"]).weights)
    cell = DiffusionLoss(Denoiser(unet))
    t = meta["T"]

    def loss(
        cell: nn.Cell, latents: Tensor, noise: Tensor, sigma: Tensor, concat: Tensor, context: Tensor, vector: Tensor
    ) -> Tensor:
        return cell(latents, noise, sigma, concat, context, vector, t).mean()

    for mode in sorted(name[len("normal_") :] for name in inputs if name.startswith("normal_")):
        sigma = lognormal_sigmas(inputs[f"normal_{mode}"], meta["p_mean"], meta["p_std"])
        report.compare(f"out/{mode}_sigmas", sigma)
        arrays = [inputs["latents"], inputs["noise"], sigma, inputs["concat"], inputs["crossattn"], inputs["vector"]]
        per_item = cell(*tensors(*arrays), t).asnumpy()
        report.compare(f"out/{mode}_loss_per_item", per_item, "loss")
        value, found = gradients(cell, loss, arrays)
        found = {name[len("denoiser.unet.") :] if not name.startswith("@") else name: g for name, g in found.items()}
        report.compare(f"out/{mode}_loss", np.reshape(value, 1), "loss")
        report.compare_gradients(f"{mode}/", found)
