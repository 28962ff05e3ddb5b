"""The settings that the page offers: their words and limits, the defaults of each model, and presets. No streamlit."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gm import places, segments
from gm.checkpoint.published import camera_moves, checkpoints_folder, find_checkpoint
from gm.errors import UserError
from gm.inference_options import OPTIONS, add_option
from gm.model_config import ModelConfig, load_model_config
from gm.options import OVERLAP, ModelSettings, Options, VideoSettings
from gm.settings import those_of


class Field(NamedTuple):
    """A number of `Options` or `VideoSettings`: its label, its limits on the page, and what one press changes it by."""

    name: str
    label: str
    least: float
    most: float
    step: float


LARGEST_SIDE = 2048  # pixels: four times the area that SVD was trained at, and more
# Whole numbers have an int step.
FIELDS = {
    field.name: field
    for field in (
        Field("num_frames", "Frames", 1, 100, 1),
        Field("sampling_steps", "Steps", 1, 200, 1),
        Field("seed", "Seed", 0, 2**53 - 1, 1),  # what a browser counts exactly
        Field("motion_bucket_id", "Motion", 0, 255, 1),
        Field("fps", "Frames per second", 1, 60, 1),
        Field("noise_aug_strength", "Noise on the picture", 0.0, 10.0, 0.01),
        Field("min_guidance", "Guidance, first frame", 0.0, 20.0, 0.1),
        Field("max_guidance", "Guidance, last frame", 0.0, 20.0, 0.1),
        Field("decode_chunk_size", "Frames decoded at a time", 1, 100, 1),
        Field("num_videos", "Videos", 1, 8, 1),
        Field("segments", "Segments", 1, 20, 1),
        Field("overlap", "Frames shared at a seam", 1, 50, 1),
    )
}
CHOICES = {
    name: (label, OPTIONS[name].choices or ())
    for name, label in (
        ("sampler", "Sampler"),
        ("schedule", "Noise levels"),
        ("guidance_shape", "Guidance over the frames"),
    )
}
TEXTS = {"segment_motion": "Motion of each segment", "segment_fps": "Frames per second of each segment"}
# Names of everything that the page asks for, but for the size, the camera and the end picture.
SETTINGS = (*FIELDS, *CHOICES, *TEXTS, "loop")
OWN_CAMERA = "The model's own"
ORIGINAL = "As the original"  # whose values are those of svd and svd_xt
PRESETS = {
    "The model's own": {},
    "Fast: 10 steps, dpmpp_2m, ays": {"sampling_steps": 10, "sampler": "dpmpp_2m", "schedule": "ays"},
    ORIGINAL: {},
}
_FOR_ITS_WEIGHTS = {"num_frames", "min_guidance", "max_guidance"}  # what was trained, and suits no other weights


def help_of(name: str) -> str:
    """What the command line says of an option, and what it is called there."""
    option = OPTIONS[name]
    return f"{option.help[0].upper()}{option.help[1:]}. On the command line: {option.names[0]}"


def config_path(version: str) -> Path:
    return places.CONFIGS / f"{version}.yaml"


@functools.cache
def config_of(version: str) -> ModelConfig:
    """The config of one of `VERSIONS`."""
    return load_model_config(config_path(version))


def defaults(version: str) -> dict[str, Any]:
    """{name of SETTINGS, "height", "width": value} that the page begins with for a version."""
    values = {
        **vars(VideoSettings()),
        **vars(config_of(version).sampling),
        "overlap": OVERLAP,
        **dict.fromkeys(TEXTS, ""),
    }
    return {name: limited(name, values[name]) for name in (*SETTINGS, "height", "width")}


def limited(name: str, value: Any) -> Any:
    """A value as its control takes it: a number of the right kind within the limits."""
    field = FIELDS.get(name)
    if field is None:
        return value
    return type(field.step)(min(max(value, field.least), field.most))


def preset(name: str, version: str) -> dict[str, Any]:
    """Values of a preset, over the defaults of a version."""
    values = {**defaults(version), **PRESETS[name]}
    if name == ORIGINAL:
        original = defaults("svd_xt" if "xt" in version else "svd")
        values.update({name: value for name, value in original.items() if name not in _FOR_ITS_WEIGHTS})
    return {name: value for name, value in those_of(Options, values).items() if name != "seed"}


def video_settings(
    version: str, values: Mapping[str, Any], output_dir: Path, end_image: str | None = None
) -> VideoSettings:
    """`gm.options.VideoSettings` of what the controls say, {name of SETTINGS, "height", "width": value}.

    What is told of each segment counts where there are several. UserError for what cannot be, before anything is
    loaded.
    """
    chosen = those_of(VideoSettings, values)
    for name in ("overlap", *TEXTS):
        chosen[name] = chosen[name] or None if values["segments"] > 1 else None
    video = VideoSettings(those_of(Options, values), output_dir=output_dir, end_image=end_image, **chosen)
    options = config_of(version).sampling.options(**video.sampling)
    segments.overlap_of(options, video)
    segments.options_of(options, video)
    return video


def cameras(version: str) -> dict[str, Path | None]:
    """{label: LoRA file or None} of the camera moves that fit the weights of a version."""
    found = {name.replace("_", " ").capitalize(): path for name, path in camera_moves(version).items()}
    return {OWN_CAMERA: None, **found}


class Server(NamedTuple):
    """What whoever starts the server chose; nobody's browser can change it."""

    output_dir: Path
    checkpoints_dir: Path
    mode: int
    device_target: str | None
    low_memory: bool

    def model(self, version: str, camera: str = OWN_CAMERA) -> ModelSettings:
        """`gm.options.ModelSettings` of a version with one of its `cameras`. UserError, with the command that gets
        them, without weights."""
        weights = find_checkpoint(version, self.checkpoints_dir)
        delta = cameras(version).get(camera)
        return ModelSettings(
            str(config_path(version)),
            str(weights),
            delta and str(delta),
            mode=self.mode,
            device_target=self.device_target,
            low_memory=self.low_memory,
        )

    def missing(self, version: str) -> str | None:
        """Why a version cannot be loaded, in words; None where its weights are there."""
        try:
            find_checkpoint(version, self.checkpoints_dir)
        except UserError as error:
            return str(error)
        return None


def read_arguments(argv: Sequence[str] | None = None) -> Server:
    """The `Server` of `streamlit run app.py -- OPTIONS`; options as of image_to_video.py."""
    parser = argparse.ArgumentParser(prog="streamlit run app.py --", description="The page of Stable Video Diffusion.")
    for name in ("output_dir", "checkpoints_dir", "device_target", "mode", "low_memory"):
        add_option(parser, name)
    chosen = vars(parser.parse_args(argv))
    folder = Path(chosen.pop("output_dir")).absolute()
    return Server(folder, checkpoints_folder(chosen.pop("checkpoints_dir")), **chosen)
