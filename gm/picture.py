"""From a picture's file to the picture that the model gets, at the size that is asked for; no mindspore here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gm.data import outputs
from gm.data.images import fit_image, load_image
from gm.errors import UserError
from gm.sizes import choose_size

if TYPE_CHECKING:
    from gm.model_config import ModelConfig
    from gm.options import VideoSettings

CENTRE = (0.5, 0.5)


class Picture(NamedTuple):
    """path: of the file, by whose name the results are called. image: as the model gets it, uint8 (h, w, 3), h and w
    multiples of `gm.sizes.size_multiple`. change: what was done to it, in words. crop: see
    `gm.data.images.fit_image`. end: what the video ends with, of the same size, or None."""

    path: Path
    image: np.ndarray
    change: str
    crop: tuple[float, float] = CENTRE
    end: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.image.shape[:2]
        return height, width


def plan(config: ModelConfig, settings: VideoSettings, path: str | Path, crop: tuple[float, float] = CENTRE) -> Picture:
    """The `Picture` of a file.

    Args:
        config: of the model. settings: `gm.options.VideoSettings`, of which size, mark, end and folder count.
        crop: see `gm.data.images.fit_image`.

    Raises:
        UserError: a file that is no picture, a size or a name that cannot be.
    """
    path = Path(path)
    outputs.check_name(settings.output_dir, path.stem)
    image = load_image(path)
    try:
        size = choose_size(config, image.shape[:2], settings.height, settings.width)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if settings.watermark:
        from gm.data.watermark import check_size

        check_size(*size)
    before, change = (f"{height}x{width}" for height, width in (image.shape[:2], size))
    if size != image.shape[:2]:
        where = "around the centre" if tuple(crop) == CENTRE else f"at {crop[0]:.0%} from the left, {crop[1]:.0%} down,"
        change = f"{before} scaled and cropped {where} to {change} (height x width)"
    fitted = fit_image(image, *size, crop)
    end = fit_image(load_image(settings.end_image), *size) if settings.end_image else fitted if settings.loop else None
    return Picture(path, fitted, change, (crop[0], crop[1]), end)
