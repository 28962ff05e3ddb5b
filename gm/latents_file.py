"""Latents that `--output_type=latents` wrote, as the source of a video in place of a picture; no mindspore here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gm.data import outputs
from gm.errors import UserError
from gm.files import require_file
from gm.sizes import vae_factor

if TYPE_CHECKING:
    from gm.model_config import ModelConfig
    from gm.options import VideoSettings


class GivenLatents(NamedTuple):
    """path: of the file, by whose name the results are called. latents: float32 (t, z, h/f, w/f), as the sampler ends.
    size: (height, width) in pixels. change: what they are, in words. fps: what the JSON file beside them tells of the
    frames per second that they play at, and told_fps: of those that the model was told; None without it."""

    path: Path
    latents: np.ndarray
    size: tuple[int, int]
    change: str
    fps: float | None
    told_fps: float | None = None

    @property
    def frames(self) -> int:
        """How many there are."""
        return len(self.latents)


def read_latents(config: ModelConfig, settings: VideoSettings, path: str | Path) -> GivenLatents:
    """The `GivenLatents` of a .npy file.

    Args:
        config: of the model. settings: `gm.options.VideoSettings`, of which the folder counts.

    Raises:
        UserError: no such file, no array of numbers, values that are not finite, another model's latents.
    """
    path = Path(path)
    outputs.check_name(settings.output_dir, path.stem)
    require_file(path, "what --latents_in names,")
    try:
        latents = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:  # the last: a header that states any shape
        reason = getattr(error, "strerror", None) or "it is no whole .npy file of numbers"
        raise UserError(f"cannot read latents from {path}: {reason}; --output_type=latents writes them") from error
    channels = config.model.vae.z_channels
    if not isinstance(latents, np.ndarray):
        raise UserError(f"{path} is an archive: give one .npy file of --output_type=latents")
    shape = latents.shape
    if latents.dtype.kind != "f" or len(shape) != 4 or shape[1] != channels or 0 in shape:
        raise UserError(
            f"{path} holds {latents.dtype} {shape}: this model's latents are float32 (frames, {channels}, "
            "height, width); they must come from the same kind of model"
        )
    with np.errstate(over="ignore"):
        latents = latents.astype(np.float32)
    if not np.isfinite(latents).all():
        raise UserError(f"{path} holds NaN or infinite values: nothing can be decoded from them")
    height, width = (side * vae_factor(config.model) for side in latents.shape[2:])
    return GivenLatents(
        path,
        latents,
        (height, width),
        f"{len(latents)} frames of {height}x{width} (height x width)",
        *_rates(path),
    )


def _rates(path: Path) -> tuple[float | None, float | None]:
    """What the JSON file beside them tells as output_fps and as fps."""
    try:
        told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        each = told.get("output_fps"), told.get("fps")
    except (OSError, ValueError, AttributeError):  # they may have travelled alone
        return None, None
    found = [fps if isinstance(fps, (int, float)) and 0.01 <= fps <= 1000 else None for fps in each]
    return found[0], found[1]
