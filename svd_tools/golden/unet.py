"""unet_golden: the whole UNet, its activations and the gradients of a probe loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gm.networks.unet import VideoUNet
from gm.precision import to_numpy
from svd_tools.golden.cells import Taps, fill, gradients, tensors
from svd_tools.golden.report import NORMS

if TYPE_CHECKING:
    from mindspore import Tensor, nn

    from svd_tools.golden.reader import Golden
    from svd_tools.golden.report import Report

PREFIX = "model.diffusion_model."
FIELDS = (
    "in_channels",
    "model_channels",
    "out_channels",
    "num_res_blocks",
    "attention_resolutions",
    "channel_mult",
    "num_head_channels",
    "context_dim",
    "adm_in_channels",
)


def build(config: Mapping[str, Any], weights: Mapping[str, np.ndarray], amp_level: str = "O0") -> VideoUNet:
    """The UNet of a recorded configuration with the recorded weights."""
    cell = VideoUNet(**{name: config[name] for name in FIELDS if name in config})
    return fill(cell, weights, "UNet", amp_level, PREFIX)


def probe_loss(out: Tensor, probe: Tensor) -> Tensor:
    """sum(out * probe) / sqrt(number of elements): the scalar that recorded gradients belong to."""
    return (out * probe).sum() / out.size**0.5


def replay(golden: Golden, report: Report, amp_level: str) -> None:
    """Every output, activation and gradient of the file."""
    t, inputs = golden.meta["T"], golden.inputs
    x, c_noise, vector = inputs["x"], inputs["timesteps"], inputs["y"]

    def run(unet: nn.Cell, context: np.ndarray, image_only: np.ndarray | None = None) -> np.ndarray:
        out, _ = unet(*tensors(x, c_noise, context, vector), t, *tensors(image_only))
        return to_numpy(out)

    unet = build(golden.meta["config"], golden.weights, amp_level)
    taps = Taps(unet, golden.mids)
    report.compare("out/main", run(unet, inputs["context"]))
    for path, value in taps.values().items():
        report.compare(f"mid/{path}", value)

    unet = build(golden.meta["config"], golden.weights, amp_level)
    if "out/ctx1" in report.open:
        report.compare("out/ctx1", run(unet, inputs["context1"]))
    if "out/mixed" in report.open:
        report.compare("out/mixed", run(unet, inputs["context"], inputs["image_only_indicator_mixed"].reshape(-1)))
    if "out/all_image" in report.open:
        report.compare("out/all_image", run(unet, inputs["context"], np.ones(len(x))))
    if "out/eps_out_head" in report.open:
        last = golden.mids[f"output_blocks.{len(unet.output_blocks) - 1}"]
        (small,) = tensors(last[:t] * 2.0**-10)
        report.compare("out/eps_out_head", to_numpy(unet.out(small.astype(unet.out[2].weight.dtype))))
    if amp_level == "O0":
        _replay_gradients(golden.inputs, report, unet, t)
    else:
        report.leave_out("out/loss", NORMS, *(f"grad/{name}" for name in golden.grads))


def _replay_gradients(inputs: Mapping[str, np.ndarray], report: Report, unet: nn.Cell, t: int) -> None:
    def loss(cell: nn.Cell, x: Tensor, context: Tensor, vector: Tensor, c_noise: Tensor, probe: Tensor) -> Tensor:
        return probe_loss(cell(x, c_noise, context, vector, t)[0], probe)

    arrays = [inputs[name] for name in ("x", "context", "y", "timesteps", "probe")]
    value, found = gradients(unet, loss, arrays)
    report.compare("out/loss", value.reshape(1), "loss")
    found.update({"@x": found["@0"], "@context": found["@1"], "@y": found["@2"]})
    report.compare_gradients("", found)
