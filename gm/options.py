"""The values that a user may choose, one dataclass for each of model, sampling and files. No mindspore here.

The command line, its help and the page are made from the fields (`gm.inference_options`, `gm.web.settings`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gm.diffusion.guidance import SHAPES
from gm.diffusion.sampling import SAMPLERS
from gm.diffusion.schedules import SCHEDULES
from gm.errors import UserError
from gm.memory import parse_size
from gm.settings import About, Decides, Settings, option

DEVICES = ("CPU", "GPU", "Ascend")
_DEVICE_NAMES = {"cpu": "CPU", "gpu": "GPU", "cuda": "GPU", "ascend": "Ascend", "npu": "Ascend"}
AMP_LEVELS = ("O0", "O2")
DTYPES = ("float16", "bfloat16")  # of O2
OUTPUT_TYPES = ("mp4", "gif", "frames", "latents")
OVERLAP = 4  # frames, where none are asked for

# What an option decides, where it is not all. RESULT: numbers that compiled graphs are given; GRAPHS: how it is
# computed, with the same result up to rounding.
RESULT, GRAPHS, NOTHING = Decides.RESULT, Decides.GRAPHS, Decides.NOTHING
# Groups of the help, in its order, and an option of each.
HEADLINES = ("what most people need", "weights", "motion and likeness", "memory", "speed", "device")
usual, weights, motion, memory, speed, hardware = (functools.partial(option, group=group) for group in HEADLINES)
# Of the weights' files; numbers that the model is told; what is written, and where.
weights_file = functools.partial(weights, called="--SVD.{}", decides=RESULT)
told = functools.partial(motion, decides=RESULT)
written = functools.partial(usual, decides=NOTHING)


def device(text: str) -> str:
    """MindSpore's name of a device from anybody's, in capitals or not: cuda -> GPU, npu -> Ascend."""
    if text.lower() not in _DEVICE_NAMES:
        raise UserError(f"{text!r}: give CPU, GPU (or cuda) or Ascend (or npu)")
    return _DEVICE_NAMES[text.lower()]


@dataclass(frozen=True)
class Options(Settings):
    """How a video is sampled, each field by the name of its command-line option.

    The largest values are far beyond what any model has seen (frames: 14 to 25, steps: the noise levels of 1000 steps
    are a thousandth apart) and below what arithmetic in float32 or NumPy's generators bear.

    Raises:
        UserError: naming every value that cannot be.
    """

    called = "--SVD.{}"
    num_frames: int = usual("frames of the video (svd 14, svd_xt 25)", least=1, most=1000, also="--num_frames")
    sampling_steps: int = usual(
        "steps of the sampler (svd 25, svd_xt 30), each one evaluation of the network; heun: two, one in the last",
        least=1,
        most=1000,
        also="--num_steps",
    )
    min_guidance: float = motion("guidance scale of the first frame (svd 1.0, svd_xt 1.5)", least=-1e3, most=1e3)
    max_guidance: float = motion("guidance scale of the last frame (svd 2.5, svd_xt 3.0)", least=-1e3, most=1e3)
    fps: float = told("frames per second that the model is told; good values are 5 to 30 (7)", above=0, most=1e3)
    motion_bucket_id: float = told("amount of motion, 0 to 255 (127)", least=0, most=1e4, also="--motion_bucket_id")
    noise_aug_strength: float = told(
        "noise on the conditioning picture: more is less like it (0.02)", least=0, most=1e3, also="--cond_aug"
    )
    decode_chunk_size: int = memory(
        "frames decoded at a time; fewer need less memory, and the temporal decoder's result depends on it (14)",
        least=1,
        most=10**6,
        also="--decoding_t",
    )
    seed: int = usual(
        "seed of the noise; the k-th video of a picture uses seed + k", 23, least=0, called="--{}", decides=RESULT
    )
    schedule: str = speed(
        "noise levels: SVD's are karras; ays are NVIDIA's Align Your Steps, made for 10 steps",
        "karras",
        choices=SCHEDULES,
    )
    sampler: str = speed(
        "euler is SVD's; lcm is for models distilled for it, such as AnimateLCM's, and svd_tiny's own",
        "euler",
        choices=SAMPLERS,
    )
    guidance_sigma_min: float | None = speed("no guidance below this noise level: half the work there", None)
    guidance_sigma_max: float | None = speed("no guidance above this noise level", None)
    guidance_shape: str = motion(
        "how the scale goes over the frames: from the first to the last (linear), to the last in the middle and back "
        "(triangle), nearly at once (trapezoid), throughout (constant)",
        "linear",
        choices=SHAPES,
    )
    cache_interval: int = speed(
        "DeepCache: only every so many evaluations compute the whole network; faster, not the same",
        1,
        least=1,
        most=1000,
    )
    decode_tile: int | None = memory(
        "pixels of the square tiles that frames are decoded in, by default whole; less memory, several times slower",
        None,
        least=64,
        most=10**6,
    )
    encode_tile: int | None = memory("the same for the picture's encoding", None, least=64, most=10**6)

    def contradictions(self) -> Iterable[str]:
        low, high = self.guidance_sigma_min, self.guidance_sigma_max
        if low is not None and high is not None and low > high:
            yield (
                f"guidance_sigma_min {low:g} is above guidance_sigma_max {high:g}: guidance would never apply; to "
                "turn it off set both scales to 1"
            )

    def changed(self, **changes: Any) -> Options:
        """These options with changes; None leaves a value as it is. UserError for what cannot be."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def guidance_scales(self) -> np.ndarray:
        """float32 (num_frames, 1, 1, 1): the scale of every frame."""
        return SHAPES[self.guidance_shape](self.min_guidance, self.max_guidance, self.num_frames)

    def guided(self) -> bool:
        """Whether the unconditional half of guidance is computed at all."""
        return bool(np.any(self.guidance_scales() != 1))

    def warnings(self) -> Iterable[str]:
        """What is allowed but outside the model's training, as the original warns; sentences."""
        if self.motion_bucket_id > 255:
            yield f"motion_bucket_id {self.motion_bucket_id:g} is above 255, the most that the model has seen"
        if not 5 <= self.fps <= 30:
            yield f"fps {self.fps:g} is outside 5 to 30, which the model has seen"


@dataclass(frozen=True)
class ModelSettings(Settings):
    """Which model, and how it is held and computed.

    base, use_ema: see `gm.checkpoint.model_file.open_model`. delta: see `gm.checkpoint.delta_file.parse_deltas`.
    fast_float32: see `gm.ops.float32`. memory_budget: in bytes. guidance_devices: see `gm.ops.pair`.

    Raises:
        UserError: naming every value that cannot be.
    """

    config: str | Path = weights_file(
        "YAML file of the model and its default settings, in place of configs/<version>.yaml"
    )
    checkpoint: str | Path = weights_file(
        "weights, known by their content: the original .safetensors, a diffusers folder, a UNet alone with --SVD.base, "
        "the older port's .ckpt, what svd_tools/convert.py made; by default <version>.safetensors or "
        "<version>_fp16.safetensors of --checkpoints_dir"
    )
    delta: str | Path | None = weights_file(
        "changes put on the checkpoint's weights: what train.py saved alone, LoRA files; one, or "
        "[a.safetensors:0.8,b.safetensors] with strengths",
        None,
    )
    base: str | Path | None = weights_file(
        "a whole model that completes the checkpoint where that is a part of one", None
    )
    use_ema: bool = weights_file("take the running mean (EMA) that lies beside the weights in the checkpoint", False)
    device_target: str | None = hardware(
        "CPU, GPU (or cuda) or Ascend (or npu); by default the best that MindSpore finds",
        None,
        choices=DEVICES,
        parse=device,
        also="--device",
        decides=GRAPHS,
    )
    mode: int = hardware("0 graph mode (compiles first, then fast), 1 PyNative", 0, choices=(0, 1), decides=GRAPHS)
    amp_level: str = hardware("O0 float32; O2 float16 for UNet and CLIP", "O0", choices=AMP_LEVELS)
    dtype: str | None = hardware("of O2 (float16); bfloat16: Ascend 910B and later", None, choices=DTYPES)
    low_memory: bool = memory(
        "hold one part of the model at a time, float16 weights as they are, and half of a step; slower, the same "
        "result up to rounding",
        False,
        decides=GRAPHS,
    )
    fast_float32: bool = hardware(
        "let GPUs (TF32) and Ascend (HF32; on 910A float16) narrow float32 convolutions and products: faster, wrong by "
        "about 5e-4 of the largest value",
        False,
    )
    memory_budget: int | None = memory(
        "8GB, 500MB or bytes: attention's scores take a sixteenth of it, 1 GB at most; by default of what is left on a "
        "CPU's machine, 256 MB at most; the same result up to rounding; without effect where compiled kernels hold no "
        "scores",
        None,
        parse=parse_size,
        decides=NOTHING,
    )
    guidance_devices: int = speed(
        "2: two devices make one video, each one half of guidance, in half the time; started by msrun --worker_num=2",
        1,
        choices=(1, 2),
        decides=GRAPHS,
    )


@dataclass(frozen=True)
class VideoSettings(Settings):
    """What is made of a picture, and where it goes.

    sampling: changes of the config's `Options` by name; None leaves a value as it is. height, width: see
    `gm.sizes.choose_size`. end_image, loop: see `gm.diffusion.between`. segments: see `gm.segments`. skip_done: see
    `gm.done`.

    Raises:
        UserError: naming every value that cannot be.
    """

    # Recorded as the `Options` that they lead to.
    sampling: dict[str, object] = field(default_factory=dict, metadata={"about": About(decides=NOTHING)})
    num_videos: int = written("videos for each picture", 1, least=1, most=10**6)
    height: int | None = usual(
        "height in pixels; by default the picture's own, see docs/inference.md on sizes", None, decides=RESULT
    )
    width: int | None = usual("width in pixels; the same", None, decides=RESULT)
    output_dir: str | Path = written(
        "folder for the results; made if it is not there", "outputs", also="--output_folder"
    )
    output_fps: float | None = usual(
        "frames per second of the written video; by default SVD.fps", None, least=0.01, most=1000, decides=RESULT
    )
    output_type: str = written(  # which the video's name tells
        "what is written; frames: a folder of PNG; latents: .npy", "mp4", choices=OUTPUT_TYPES
    )
    watermark: bool = usual(
        "put the original's invisible mark on the frames, of 65536 pixels (256x256) or more", False, decides=RESULT
    )
    memory_check: str = memory(
        "off: try also what, by the estimate of memory, will not fit", "on", choices=("on", "off"), decides=NOTHING
    )
    end_image: str | Path | None = usual(
        "a picture that the video ends with, in twice the time; with a folder, all of them do", None, decides=RESULT
    )
    loop: bool = usual("the video ends with the picture that it begins with, in twice the time", False)
    segments: int = usual(
        "a longer video of so many, each going on from the one before; --latents_in is the first", 1, least=1, most=1000
    )
    overlap: int | None = usual(
        f"frames that a segment shares with the one before, by default {OVERLAP}", None, least=1
    )
    segment_motion: str | None = usual("SVD.motion_bucket_id of each segment, such as 160,60", None, decides=RESULT)
    segment_fps: str | None = usual(
        "SVD.fps of each segment; the file plays at SVD.fps, or --output_fps", None, decides=RESULT
    )
    skip_done: bool = written(
        "leave out what an earlier run has made in the same folder: the same picture, seed and settings, all files as "
        "they were written",
        False,
    )
    batch: int = speed(
        "videos of one size, of several seeds or pictures, that are sampled at once; the same result up to rounding, "
        "in more memory",
        1,
        least=1,
        most=1000,
        decides=GRAPHS,
    )

    def contradictions(self) -> Iterable[str]:
        known = Options.__dataclass_fields__
        unknown = [name for name in self.sampling if name not in known]
        if unknown:
            yield f"sampling has no {', '.join(unknown)}: there are {', '.join(known)}"
        if self.end_image and self.loop:
            yield "--loop ends with the picture itself and --end_image with another one: give one of them"
        told = [name for name in ("overlap", "segment_motion", "segment_fps") if getattr(self, name) is not None]
        if self.segments == 1 and told:
            yield f"--{told[0]} is for longer videos: give --segments=2 or more with it"
        if self.segments > 1 and (self.end_image or self.loop):
            yield "--segments and --loop or --end_image: a longer video has no end that could be given"
        if self.watermark and self.output_type == "latents":
            yield (
                "watermark marks frames, and --output_type=latents has none: give it where they are decoded, with "
                "--latents_in"
            )
        if self.batch > 1 and self.segments > 1:
            yield "--batch and --segments: the videos of a longer one are made one after the other"
