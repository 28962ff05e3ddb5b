"""The values that a user may choose, checked: of the model, of sampling, of the files. No mindspore here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gm.diffusion.guidance import SHAPES
from gm.diffusion.sampling import SAMPLERS
from gm.diffusion.schedules import SCHEDULES
from gm.errors import UserError

OUTPUT_TYPES = ("mp4", "gif", "frames", "latents")
OVERLAP = 4  # frames, where none are asked for
# (option, smallest, largest value). The largest are far beyond what any model has seen (frames: 14 to 25, steps: the
# noise levels of 1000 steps are a thousandth apart) and below what arithmetic in float32 or NumPy's generators bear.
_WHOLE = (
    ("num_frames", 1, 1000), ("sampling_steps", 1, 1000), ("decode_chunk_size", 1, 10**6), ("seed", 0, 2**63 - 1),
    ("cache_interval", 1, 1000), ("decode_tile", 64, 10**6), ("encode_tile", 64, 10**6),
)
_NUMBERS = (
    ("motion_bucket_id", 0, 1e4), ("noise_aug_strength", 0, 1e3), ("fps", -math.inf, 1e3),
    ("min_guidance", -1e3, 1e3), ("max_guidance", -1e3, 1e3),
)


@dataclass(frozen=True)
class Options:
    """How a video is sampled. Every field has the name of its command-line option.

    num_frames: frames of the video. sampling_steps: steps of the sampler, one evaluation of the network each (heun:
    two, in the last step one). min_guidance, max_guidance: guidance scale of the first and the last frame, where
    guidance_shape is linear; it is one of `gm.diffusion.guidance.SHAPES`. fps: frames per second that the model is
    told. motion_bucket_id: amount of motion, 0 to 255. noise_aug_strength: sigma of the noise on the conditioning
    picture. decode_chunk_size: frames that the VAE decodes at a time (more need more memory; the temporal decoder's
    result depends on it). seed: of the noise. schedule: of the noise levels, one of `SCHEDULES`. sampler: one of
    `SAMPLERS`. guidance_sigma_min, guidance_sigma_max: noise levels outside of which there is no guidance, None for
    no limit. cache_interval: every so many evaluations of the network are full ones (`gm.diffusion.deepcache`), 1 for
    all. decode_tile, encode_tile: side in pixels of the tiles that frames are decoded in and that the picture is
    encoded in (`gm.networks.tiles`), None for whole.

    Raises:
        UserError: naming every value that cannot be.
    """

    num_frames: int
    sampling_steps: int
    min_guidance: float
    max_guidance: float
    fps: float
    motion_bucket_id: float
    noise_aug_strength: float
    decode_chunk_size: int
    seed: int = 23
    schedule: str = "karras"
    sampler: str = "euler"
    guidance_sigma_min: float | None = None
    guidance_sigma_max: float | None = None
    guidance_shape: str = "linear"
    cache_interval: int = 1
    decode_tile: int | None = None
    encode_tile: int | None = None

    def __post_init__(self):
        faults = [f"{name} {value}: must be a finite number" for name, value in vars(self).items()
                  if isinstance(value, (float, np.floating)) and not np.isfinite(value)]
        for name, known in (("schedule", SCHEDULES), ("sampler", SAMPLERS), ("guidance_shape", SHAPES)):
            if getattr(self, name) not in known:
                faults.append(f"{name} {getattr(self, name)!r}: must be one of {', '.join(known)}")
        faults += self._limit_faults()
        if None not in (self.guidance_sigma_min, self.guidance_sigma_max) \
                and self.guidance_sigma_min > self.guidance_sigma_max:
            faults.append(f"guidance_sigma_min {self.guidance_sigma_min:g} is above guidance_sigma_max "
                          f"{self.guidance_sigma_max:g}: guidance would never apply; to turn it off set both scales "
                          "to 1")
        if self.fps <= 0:
            faults.append(f"fps {self.fps}: must be more than 0")
        if faults:
            raise UserError("\n  ".join(["invalid settings:", *faults]))

    def _limit_faults(self):
        faults = []
        for name, least, most in _WHOLE:
            value = getattr(self, name)
            if value is None:
                continue
            if not value >= least or value <= most and value != int(value):
                faults.append(f"{name} {value}: must be a whole number, {least} or more")
            elif value > most:
                faults.append(f"{name} {value}: must be {most} or less")
        for name, least, most in _NUMBERS:
            value = getattr(self, name)
            if value < least:
                faults.append(f"{name} {value}: must not be {'negative' if least == 0 else f'below {least:g}'}")
            elif value > most:
                faults.append(f"{name} {value}: must be {most:g} or less")
        return faults

    def changed(self, **changes):
        """These options with changes; None leaves a value as it is. UserError for what cannot be."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def guidance_scales(self):
        """float32 (num_frames, 1, 1, 1): the scale of every frame."""
        return SHAPES[self.guidance_shape](self.min_guidance, self.max_guidance, self.num_frames)

    def guided(self):
        """Whether the unconditional half of guidance is computed at all."""
        return bool(np.any(self.guidance_scales() != 1))

    def warnings(self):
        """What is allowed but outside the model's training, as the original warns; a list of sentences."""
        found = []
        if self.motion_bucket_id > 255:
            found.append(f"motion_bucket_id {self.motion_bucket_id:g} is above 255, the most that the model has seen")
        if not 5 <= self.fps <= 30:
            found.append(f"fps {self.fps:g} is outside 5 to 30, which the model has seen")
        return found


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and how it is held and computed.

    config: path of the model's YAML file. checkpoint: path of its weights in any layout; base, use_ema: see
    `gm.checkpoint.model_file.open_model`. delta: changes put on them, see `gm.checkpoint.delta_file.parse_deltas`.
    device_target: "CPU", "GPU", "Ascend" or None for the best there is. mode: 0 graph,
    1 PyNative. amp_level: "O0" float32, "O2" float16 for UNet and CLIP, or the other dtype, "bfloat16".
    low_memory: one part of the model at a time.
    fast_float32: narrower float32 on GPUs and Ascend, see `gm.ops.float32`.
    memory_budget: bytes by which attention's scores are sized, None for what is free.
    guidance_devices: 2 for a half of guidance on each of two devices (`gm.ops.pair`).
    """

    config: str | Path
    checkpoint: str | Path
    delta: str | Path | None = None
    base: str | Path | None = None
    use_ema: bool = False
    device_target: str | None = None
    mode: int = 0
    amp_level: str = "O0"
    dtype: str | None = None
    low_memory: bool = False
    fast_float32: bool = False
    memory_budget: int | None = None
    guidance_devices: int = 1


@dataclass(frozen=True)
class VideoSettings:
    """What is made of a picture, and where it goes.

    sampling: changes of the config's `Options` by name; None leaves a value as it is. num_videos: of each picture, with
    the seeds seed, seed + 1, … height, width: in pixels, see `gm.sizes.choose_size`. output_dir: folder, made if it
    is not there. output_fps: of the file, None for sampling's fps. output_type: one of `OUTPUT_TYPES`. watermark: put
    the original's invisible mark on the frames. memory_check: "off" tries what the estimate of memory says can't be.
    end_image: path of a picture that the video ends with; loop: it ends with the one that it begins with
    (`gm.diffusion.between`). segments: of which a longer video is made, each sharing `overlap` frames with the one
    before (None: `OVERLAP`), and segment_motion, segment_fps: "160,60", a number for each (`gm.segments`).
    skip_done: leave out what an earlier run has made (`gm.done`). batch: videos of one size that are sampled at once.

    Raises:
        UserError: naming a value that cannot be.
    """

    sampling: dict[str, object] = field(default_factory=dict)
    num_videos: int = 1
    height: int | None = None
    width: int | None = None
    output_dir: str | Path = "outputs"
    output_fps: float | None = None
    output_type: str = "mp4"
    watermark: bool = False
    memory_check: str = "on"
    end_image: str | Path | None = None
    loop: bool = False
    segments: int = 1
    overlap: int | None = None
    segment_motion: str | None = None
    segment_fps: str | None = None
    skip_done: bool = False
    batch: int = 1

    def __post_init__(self):
        if self.end_image and self.loop:
            raise UserError("--loop ends with the picture itself and --end_image with another one: give one of them")
        self._check_segments()
        if not 1 <= self.num_videos <= 10**6:
            raise UserError(f"num_videos {self.num_videos}: must be 1 or more, and at most a million")
        if not 1 <= self.batch <= 1000:
            raise UserError(f"batch {self.batch}: must be 1 to 1000")
        if self.batch > 1 and self.segments > 1:
            raise UserError("--batch and --segments: the videos of a longer one are made one after the other")
        if self.output_fps is not None and not 0.01 <= self.output_fps <= 1000:
            raise UserError(f"output_fps {self.output_fps}: must be more than 0: 0.01 to 1000")
        if self.memory_check not in ("on", "off"):
            raise UserError(f"memory_check {self.memory_check!r}: must be on or off")
        if self.output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type {self.output_type!r}: must be one of {', '.join(OUTPUT_TYPES)}")

    def _check_segments(self):
        if not 1 <= self.segments <= 1000:
            raise UserError(f"segments {self.segments}: must be 1 to 1000")
        if self.overlap is not None and self.overlap < 1:
            raise UserError(f"overlap {self.overlap}: must be 1 or more frames")
        told = [name for name in ("overlap", "segment_motion", "segment_fps") if getattr(self, name) is not None]
        if self.segments == 1 and told:
            raise UserError(f"--{told[0]} is for longer videos: give --segments=2 or more with it")
        if self.segments > 1 and (self.end_image or self.loop):
            raise UserError("--segments and --loop or --end_image: a longer video has no end that could be given")
