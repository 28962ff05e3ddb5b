"""How a video is sampled: the values that a user may choose, checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gm.diffusion.sampling import SAMPLERS
from gm.diffusion.schedules import SCHEDULES
from gm.errors import UserError


@dataclass(frozen=True)
class Options:
    """How a video is sampled. Every field has the name of its command-line option.

    num_frames: frames of the video. sampling_steps: evaluations of the network (heun: two a step, one in
    the last). min_guidance, max_guidance: guidance
    scale of the first and the last frame. fps: frames per second that the model is told. motion_bucket_id: amount of
    motion, 0 to 255. noise_aug_strength: sigma of the noise on the conditioning picture. decode_chunk_size: frames that
    the VAE decodes at a time (more need more memory; the temporal decoder's result depends on it). seed: of the noise.
    schedule: of the noise levels, one of `SCHEDULES`. sampler: one of `SAMPLERS`. guidance_sigma_min,
    guidance_sigma_max: noise levels outside of which there is no guidance, None for no limit. cache_interval: every
    so many evaluations of the network are full ones (`gm.diffusion.deepcache`), 1 for all. decode_tile,
    encode_tile: side in pixels of the tiles that frames are decoded in and that the picture is encoded in
    (`gm.diffusion.tiles`), None for whole.

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
    cache_interval: int = 1
    decode_tile: int | None = None
    encode_tile: int | None = None

    def __post_init__(self):
        faults = [f"{name} {value}: must be a finite number" for name, value in vars(self).items()
                  if isinstance(value, (float, np.floating)) and not np.isfinite(value)]
        for name, known in (("schedule", SCHEDULES), ("sampler", SAMPLERS)):
            if getattr(self, name) not in known:
                faults.append(f"{name} {getattr(self, name)!r}: must be one of {', '.join(known)}")
        for name, least in (("num_frames", 1), ("sampling_steps", 1), ("decode_chunk_size", 1), ("seed", 0),
                            ("cache_interval", 1), ("decode_tile", 64), ("encode_tile", 64)):
            value = getattr(self, name)
            if value is not None and (value < least or value != int(value)):
                faults.append(f"{name} {value}: must be a whole number, {least} or more")
        for name in ("motion_bucket_id", "noise_aug_strength"):
            if getattr(self, name) < 0:
                faults.append(f"{name} {getattr(self, name)}: must not be negative")
        if None not in (self.guidance_sigma_min, self.guidance_sigma_max) \
                and self.guidance_sigma_min > self.guidance_sigma_max:
            faults.append(f"guidance_sigma_min {self.guidance_sigma_min:g} is above guidance_sigma_max "
                          f"{self.guidance_sigma_max:g}: there would be no guidance; two scales of 1 say that")
        if self.fps <= 0:
            faults.append(f"fps {self.fps}: must be more than 0")
        if faults:
            raise UserError("\n  ".join(["these settings cannot be:", *faults]))

    def warnings(self):
        """What is allowed but outside the model's training, as the original warns; a list of sentences."""
        found = []
        if self.motion_bucket_id > 255:
            found.append(f"motion_bucket_id {self.motion_bucket_id:g} is above 255, the most that the model has seen")
        if not 5 <= self.fps <= 30:
            found.append(f"fps {self.fps:g} is outside 5 to 30, which the model has seen")
        return found
