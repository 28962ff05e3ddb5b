"""vae_golden: the video first stage (encoder, temporal decoder) and the frame-wise one with its quant convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gm.diffusion.latents import decode_in_chunks, kl_divergence, sample, split_moments
from gm.networks.vae import VaeDecoder, VaeEncoder
from svd_tools.golden.cells import Run, Taps, fill, gradients, tensors
from svd_tools.golden.reader import below
from svd_tools.golden.unet import probe_loss

if TYPE_CHECKING:
    from mindspore import Tensor, nn

    from svd_tools.golden.reader import Golden
    from svd_tools.golden.report import Report

FIELDS = ("ch", "ch_mult", "num_res_blocks", "z_channels")
ENCODER_PARTS, DECODER_PARTS = ("encoder.", "quant_conv."), ("decoder.", "post_quant_conv.")


def build_encoder(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> VaeEncoder:
    """The encoder of a recorded configuration; with quant_conv where the weights have one."""
    quant_conv = any(name.startswith("quant_conv.") for name in weights)
    cell = VaeEncoder(**{name: config[name] for name in FIELDS}, quant_conv=quant_conv)
    return fill(cell, {n: w for n, w in weights.items() if n.startswith(ENCODER_PARTS)}, "VAE encoder")


def build_decoder(config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> VaeDecoder:
    """The decoder of a recorded configuration: temporal unless the weights have a post_quant_conv."""
    temporal = not any(name.startswith("post_quant_conv.") for name in weights)
    cell = VaeDecoder(**{name: config[name] for name in FIELDS}, temporal=temporal)
    return fill(cell, {n: w for n, w in weights.items() if n.startswith(DECODER_PARTS)}, "VAE decoder")


def replay(golden: Golden, report: Report, amp_level: str) -> None:
    """Every output, activation and gradient of the file. The VAE is float32 at every amp_level."""
    config, inputs = golden.meta["ddconfig"], golden.inputs
    video, image = below(golden.weights, "video/"), below(golden.weights, "image/")

    encoder = build_encoder(config, video)
    moments = encoder(*tensors(inputs["img"])).asnumpy()
    report.compare("out/video_enc_moments", moments)
    mean, std = split_moments(moments)
    report.compare("out/video_enc_sample", sample(mean, std, inputs["eps"]))
    report.compare("out/video_kl_loss", np.reshape(kl_divergence(moments), 1), "loss")
    encoder = build_encoder(config, image)
    moments = encoder(*tensors(inputs["img"])).asnumpy()
    report.compare("out/image_enc_moments", moments)
    report.compare("out/image_enc_mode", split_moments(moments)[0])

    t = golden.meta["T"]
    decoder = build_decoder(config, image)
    report.compare("out/image_dec", decoder(*tensors(inputs["z"]), t).asnumpy())
    decoder = build_decoder(config, video)
    taps = Taps(decoder.decoder, below(golden.mids, "video_decoder."))
    report.compare("out/video_dec", decoder(*tensors(inputs["z"]), t).asnumpy())
    for path, value in taps.values().items():
        report.compare(f"mid/video_decoder.{path}", value)
    decoder = build_decoder(config, video)
    chunks = decode_in_chunks(decoder, inputs["z"], golden.meta["chunk"])
    report.compare("out/video_dec_chunked", chunks)
    report.compare("out/video_dec_skip_video", decoder(*tensors(inputs["z"])).asnumpy())
    _replay_tails(golden, report, config, video, t)
    _replay_gradients(golden, report, decoder, t)


def _replay_tails(
    golden: Golden, report: Report, config: Mapping[str, Any], video: Mapping[str, np.ndarray], t: int
) -> None:
    """The last norm, swish and convolution on small inputs, which show a wrong epsilon."""

    def encoder_tail(cell: nn.Cell, x: Tensor) -> Tensor:
        return cell.conv_out(cell.norm_out(x))

    def decoder_tail(cell: nn.Cell, x: Tensor) -> Tensor:
        return cell.conv_out(cell.norm_out(x), t)

    encoder, decoder = build_encoder(config, video).encoder, build_decoder(config, video).decoder
    run = Run(encoder, encoder_tail)
    report.compare("out/eps_enc_tail", run(*tensors(golden.inputs["small_enc_tail"])).asnumpy())
    run = Run(decoder, decoder_tail)
    report.compare("out/eps_dec_tail", run(*tensors(golden.inputs["small_dec_tail"])).asnumpy())


def _replay_gradients(golden: Golden, report: Report, decoder: nn.Cell, t: int) -> None:
    def loss(cell: nn.Cell, z: Tensor, probe: Tensor) -> Tensor:
        return probe_loss(cell(z, t), probe)

    value, found = gradients(decoder, loss, [golden.inputs["z"], golden.inputs["probe"]])
    report.compare("out/dec_loss", value.reshape(1), "loss")
    found["decoder.@z"] = found["@0"]
    report.compare_gradients("video_decoder.", below(found, "decoder."))
