"""blocks_golden: single layers, with probes that show a wrong epsilon, and gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from gm.networks.attention import SpatialVideoTransformer
from gm.networks.layers import Upsample
from gm.networks.resblock import VideoResBlock
from gm.networks.unet import Downsample
from gm.networks.vae import TemporalOutput, VaeAttention, VaeDownsample, VaeResBlock, VaeVideoResBlock
from svd_tools.golden.cells import Run, Taps, fill, gradients, tensors
from svd_tools.golden.reader import below
from svd_tools.golden.unet import probe_loss

if TYPE_CHECKING:
    import numpy as np
    from mindspore import Tensor, nn

    from svd_tools.golden.reader import Golden
    from svd_tools.golden.report import Report


def replay(golden: Golden, report: Report, amp_level: str) -> None:
    """Every output, activation and gradient of the file; single layers are float32 at every amp_level."""
    _replay_resblock(golden, report)
    _replay_transformer(golden, report)
    _replay_vae(golden, report)
    for name, cell in (("down", Downsample(golden.meta["cin"])), ("up", Upsample(golden.meta["cin"]))):
        if f"out/{name}" in report.open:
            fill(cell, below(golden.weights, f"{name}/"), name)
            report.compare(f"out/{name}", cell(*tensors(golden.inputs["x"])).asnumpy())


def _spatial(cell: nn.Cell, *args: Tensor) -> Tensor:
    return cell.spatial(*args)


def _time_stack(cell: nn.Cell, *args: Tensor) -> Tensor:
    return cell.time_stack(*args)


def _to_4d(x: np.ndarray) -> np.ndarray:
    """(b, c, t, h, w) as the networks hold it: (b, c, t, h*w)."""
    return x.reshape(*x.shape[:3], -1)


def _replay_resblock(golden: Golden, report: Report) -> None:
    meta, inputs = golden.meta, golden.inputs
    t = meta["T"]

    def build() -> nn.Cell:
        cell = VideoResBlock(meta["cin"], meta["emb"], meta["cout"])
        return fill(cell, below(golden.weights, "vres/"), "vres")

    x, emb, mixed = inputs["x"], inputs["emb"], inputs["ioi_mixed"].reshape(-1)
    cell = build()
    report.compare("out/vres", cell(*tensors(x, emb), t).asnumpy())
    report.compare("out/vres_mixed", cell(*tensors(x, emb), t, *tensors(mixed)).asnumpy())
    report.compare("out/vres_spatial", Run(cell, _spatial)(*tensors(x, emb)).asnumpy())
    small, emb_first = inputs["small_cin"], emb[:t]
    report.compare("out/eps_vres_spatial", Run(cell, _spatial)(*tensors(small, emb_first)).asnumpy())
    small = inputs["small_cout_5d"]
    ours = Run(cell, _time_stack)(*tensors(_to_4d(small), emb_first)).asnumpy()
    report.compare("out/eps_vres_time_stack", ours.reshape(small.shape))

    stage = "mid/vres.time_stack_bcthw"
    recorded = golden.mids["vres.time_stack_bcthw"]
    cell = build()
    taps = Taps(cell, {"time_stack": _to_4d(recorded)})
    cell(*tensors(x, emb), t)
    report.compare(stage, taps.values()["time_stack"].reshape(recorded.shape))

    def loss(cell: nn.Cell, x: Tensor, emb: Tensor, probe: Tensor) -> Tensor:
        return probe_loss(cell(x, emb, t), probe)

    _replay_gradients(report, "vres", build(), loss, {"@x": x, "@emb": emb, "probe": inputs["probe_r"]})


def _replay_transformer(golden: Golden, report: Report) -> None:
    meta, inputs = golden.meta, golden.inputs
    t = meta["T"]
    weights = below(golden.weights, "svt/")
    channels = meta["heads"] * meta["dim_head"]

    def build(weights: Mapping[str, np.ndarray] = weights) -> nn.Cell:
        return fill(SpatialVideoTransformer(channels, meta["ctx"], meta["heads"]), weights, "svt")

    x, context, mixed = inputs["xt"], inputs["context"], inputs["ioi_mixed"].reshape(-1)
    cell = build()
    taps = Taps(cell, below(golden.mids, "svt."))
    report.compare("out/svt", cell(*tensors(x, context), t).asnumpy())
    for path, value in taps.values().items():
        report.compare(f"mid/svt.{path}", value)
    cell = build()
    report.compare("out/svt_mixed", cell(*tensors(x, context), t, *tensors(mixed)).asnumpy())
    report.compare("out/eps_svt_groupnorm", cell.norm(*tensors(inputs["small_xt"])).asnumpy())
    small = {n: w * 2.0**-9 if n.startswith("proj_in.") else w for n, w in weights.items()}
    report.compare("out/eps_svt_layernorm", build(small)(*tensors(x[:t], context[:t]), t).asnumpy())

    def loss(cell: nn.Cell, x: Tensor, context: Tensor, probe: Tensor) -> Tensor:
        return probe_loss(cell(x, context, t), probe)

    _replay_gradients(report, "svt", cell, loss, {"@x": x, "@context": context, "probe": inputs["probe_t"]})


def _replay_vae(golden: Golden, report: Report) -> None:
    meta, inputs = golden.meta, golden.inputs
    t, cin, cout = meta["T"], meta["cin"], meta["cout"]
    x = inputs["x"]

    def build(name: str, cell: nn.Cell) -> nn.Cell:
        return fill(cell, below(golden.weights, f"{name}/"), name)

    res = build("vae_res", VaeResBlock(cin, cout))
    report.compare("out/vae_res", res(*tensors(x)).asnumpy())
    report.compare("out/eps_vae_res", res(*tensors(inputs["small_cin"])).asnumpy())
    video = build("vae_vres", VaeVideoResBlock(cin, cout))
    report.compare("out/vae_vres", video(*tensors(x), t).asnumpy())
    report.compare("out/vae_vres_skip", video(*tensors(x)).asnumpy())
    small = inputs["small_cout_5d"]
    ours = Run(video, _time_stack)(*tensors(_to_4d(small))).asnumpy()
    report.compare("out/eps_vae_time_stack", ours.reshape(small.shape))
    conv = build("vae_conv3d", TemporalOutput(cin, len(golden.weights["vae_conv3d/bias"])))
    report.compare("out/vae_conv3d", conv(*tensors(x), t).asnumpy())
    attention = build("vae_attn", VaeAttention(cin))
    report.compare("out/vae_attn", attention(*tensors(x)).asnumpy())
    report.compare("out/eps_vae_attn", attention(*tensors(inputs["small_cin"])).asnumpy())
    report.compare("out/vae_down", build("vae_down", VaeDownsample(cin))(*tensors(x)).asnumpy())
    report.compare("out/vae_up", build("vae_up", Upsample(cin))(*tensors(x)).asnumpy())


def _replay_gradients(
    report: Report, name: str, cell: nn.Cell, loss: Callable[..., Tensor], inputs: Mapping[str, np.ndarray]
) -> None:
    """inputs: {recorded name: array} in the order of the loss's arguments."""
    _, found = gradients(cell, loss, list(inputs.values()))
    found.update({label: found[f"@{i}"] for i, label in enumerate(inputs)})
    report.compare_gradients(f"{name}.", found)
