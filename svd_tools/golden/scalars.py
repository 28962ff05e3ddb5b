"""scalars_golden: embeddings, noise levels, preconditioning, guidance scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gm.diffusion.conditioning import vector_embedding
from gm.diffusion.denoiser import preconditioning
from gm.diffusion.guidance import linear_scales
from gm.diffusion.loss import loss_weight
from gm.diffusion.schedules import karras_sigmas
from gm.networks.embeddings import sinusoidal
from svd_tools.golden.cells import Run, tensors

if TYPE_CHECKING:
    from mindspore import Tensor

    from svd_tools.golden.reader import Golden
    from svd_tools.golden.report import Report


def replay(golden: Golden, report: Report, amp_level: str) -> None:
    """Every output; the part of a name behind an underscore gives the case (sigmas_25, guidance_1.0_2.5_14)."""
    meta, inputs = golden.meta, golden.inputs
    width = meta["outdim"]
    sigma = inputs["sigmas"]
    scalings = dict(zip(("c_skip", "c_out", "c_in", "c_noise"), _preconditioning(sigma)))
    for stage in sorted(report.open):
        name = stage.split("/")[1]
        kind, _, case = name.rpartition("_")
        if name in scalings:
            ours = scalings[name]
        elif name == "vector":
            ours = vector_embedding(inputs["fps_id"], inputs["motion_bucket_id"], inputs["cond_aug"], width)
        elif name.startswith("emb_"):
            ours = sinusoidal(inputs[name[len("emb_") :]], width)
        elif name.startswith("c_noise_emb_"):
            ours = sinusoidal(scalings["c_noise"], int(case))
        elif name.startswith("frame_emb_"):
            ours = sinusoidal(np.arange(len(golden.outputs[name])), int(case))
        elif kind == "sigmas":
            ours = karras_sigmas(int(case), meta["sigma_min"], meta["sigma_max"], meta["rho"])
        elif name.startswith("guidance_"):
            low, high, frames = name.split("_")[1:]
            ours = linear_scales(float(low), float(high), int(frames)).reshape(1, -1)
        elif name == "w_v":
            ours = loss_weight(sigma)
        elif kind == "w_edm":
            data = float(case)
            ours = (sigma**2 + data**2) / (sigma * data) ** 2
        else:
            continue
        report.compare(stage, ours)


def _scalings(cell: None, sigma: Tensor) -> tuple[Tensor, ...]:
    return preconditioning(sigma)


def _preconditioning(sigma: np.ndarray) -> list[np.ndarray]:
    return [value.asnumpy() for value in Run(None, _scalings)(*tensors(sigma))]
