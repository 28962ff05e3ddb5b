"""pipeline_golden: the whole way from a picture to frames, with every state of the sampler."""

import numpy as np

from gm.data.images import to_signed
from gm.data.videos import to_uint8
from gm.diffusion.clip_preprocess import preprocess
from gm.diffusion.conditioning import condition
from gm.diffusion.denoiser import Denoiser
from gm.diffusion.guidance import guided, linear_scales
from gm.diffusion.latents import decode_in_chunks, split_moments
from gm.diffusion.sampling import euler, initial_latents
from gm.diffusion.schedules import karras_sigmas
from gm.pipeline import denoise_with
from svd_tools.golden import clip, unet, vae
from svd_tools.golden.cells import tensors
from svd_tools.golden.reader import below


def replay(golden, report, amp_level):
    """Conditioning, noise levels, every step, latents and frames."""
    meta, inputs = golden.meta, golden.inputs
    t = meta["T"]
    files = {name: golden.other(file_name) for name, file_name in meta["weights"].items()}
    tower = clip.build(meta["clip_config"], files["clip"].weights, amp_level)
    encoder = vae.build_encoder(meta["ddconfig"], below(files["vae"].weights, "image/"))
    denoiser = Denoiser(unet.build(meta["unet_config"], files["unet"].weights, amp_level))
    kind = "image/" if meta.get("image_decoder") else "video/"
    decoder = vae.build_decoder(meta["ddconfig"], below(files["vae"].weights, kind))

    image = to_signed(inputs["image_uint8"])
    embedding = tower(*tensors(preprocess(image, meta["clip_config"]["vision_cfg"]["image_size"]))).asnumpy()
    noised = image + np.float32(meta["cond_aug"]) * inputs["cond_noise"]
    latent = split_moments(encoder(*tensors(noised)).asnumpy())[0]
    width = meta["unet_config"]["adm_in_channels"] // 3
    fps = meta["fps_id"] + 1  # recorded as what the network is told
    cond = condition(embedding, latent, fps, meta["motion_bucket_id"], meta["cond_aug"], width, t)
    for branch, values in (("c", cond), ("uc", cond.null())):
        for part, value in zip(("crossattn", "concat", "vector"), values):
            report.compare(f"out/{branch}_{part}", value)

    sigmas = karras_sigmas(meta["steps"])
    report.compare("out/sigmas", sigmas)
    scales = linear_scales(meta["min_scale"], meta["max_scale"], t)
    denoise = guided(denoise_with(denoiser, t), cond, scales)
    for step in euler(denoise, initial_latents(inputs["noise"], sigmas), sigmas):
        report.compare(f"out/x_{step.index}", step.latents, "sampler")
        report.compare(f"out/denoised_{step.index}", step.denoised, "sampler")
    report.compare("out/z", step.latents, "sampler")

    frames = decode_in_chunks(decoder, step.latents / np.float32(meta["scale_factor"]), meta["decoding_t"])
    report.compare("out/frames", frames, "sampler")
    if np.isfinite(frames).all():  # otherwise there are no bytes, which counts as not replayed
        report.compare("out/frames_uint8", to_uint8(frames), "bytes")
