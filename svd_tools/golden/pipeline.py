"""pipeline_golden: the whole way from a picture to frames, with every state of the sampler."""

from __future__ import annotations

from collections.abc import Generator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from gm.data.videos import to_uint8
from gm.diffusion.denoiser import Denoiser
from gm.diffusion.schedules import SCHEDULES
from gm.options import Options
from gm.pipeline import ImageToVideo
from gm.weights import ModelWeights
from svd_tools.golden import clip, unet, vae
from svd_tools.golden.reader import below

if TYPE_CHECKING:
    from mindspore import nn

    from gm.model_config import ModelConfig
    from svd_tools.golden.reader import Golden
    from svd_tools.golden.report import Report


class Recorded(ModelWeights):
    """The weights that a recording names, in the place of a checkpoint's."""

    def __init__(self, config: ModelConfig, golden: Golden) -> None:
        super().__init__(config)
        self.meta = golden.meta
        self.recordings = {name: golden.other(file_name) for name, file_name in golden.meta["weights"].items()}

    def loading(
        self, name: str, amp_level: str = "O0", narrow: bool = False
    ) -> Generator[tuple[int, int], None, nn.Cell]:
        """The component `name` of a model with its recorded values, at once."""
        yield from ()
        if name == "unet":
            return Denoiser(unet.build(self.meta["unet_config"], self.recordings["unet"].weights, amp_level))
        if name == "clip":
            return clip.build(self.meta["clip_config"], self.recordings["clip"].weights, amp_level)
        kind = "image/" if name == "condition_encoder" or self.meta.get("image_decoder") else "video/"
        weights = below(self.recordings["vae"].weights, kind)
        if name == "condition_encoder":
            return vae.build_encoder(self.meta["ddconfig"], weights)
        return vae.build_decoder(self.meta["ddconfig"], weights)


class Replayed(ImageToVideo):
    """The pipeline itself, with the recorded weights and, in the place of a seed's, the recorded noise."""

    def __init__(self, golden: Golden, amp_level: str) -> None:
        meta = golden.meta
        model = {"unet": meta["unet_config"], "vae": meta["ddconfig"], "clip": meta["clip_config"]["vision_cfg"]}
        config: Any = SimpleNamespace(
            model=SimpleNamespace(**{part: SimpleNamespace(**section) for part, section in model.items()})
        )
        super().__init__(config, Recorded(config, golden), amp_level=amp_level)
        self.recorded_noise = golden.inputs["cond_noise"], golden.inputs["noise"]

    def noise(self, image: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
        return self.recorded_noise


def replay(golden: Golden, report: Report, amp_level: str) -> None:
    """Conditioning, noise levels, every step, latents and frames."""
    meta, image = golden.meta, golden.inputs["image_uint8"]
    options = Options(
        num_frames=meta["T"],
        sampling_steps=meta["steps"],
        min_guidance=meta["min_scale"],
        max_guidance=meta["max_scale"],
        fps=meta["fps_id"] + 1,  # recorded as what the network is told
        motion_bucket_id=meta["motion_bucket_id"],
        noise_aug_strength=meta["cond_aug"],
        decode_chunk_size=meta["decoding_t"],
    )
    pipeline = Replayed(golden, amp_level)
    conditioning = pipeline.condition(image, options)
    for branch, values in (("c", conditioning), ("uc", conditioning.null())):
        for part, value in zip(("crossattn", "concat", "vector"), values):
            report.compare(f"out/{branch}_{part}", value)

    report.compare("out/sigmas", SCHEDULES[options.schedule](options.sampling_steps))
    for step in pipeline.steps(image, options):
        report.compare(f"out/x_{step.index}", step.latents, "sampler")
        report.compare(f"out/denoised_{step.index}", step.denoised, "sampler")
    report.compare("out/z", step.latents, "sampler")

    frames = pipeline.decode(step.latents, options)
    report.compare("out/frames", frames, "sampler")
    if np.isfinite(frames).all():  # otherwise there are no bytes, which counts as not replayed
        report.compare("out/frames_uint8", to_uint8(frames), "bytes")
