"""What the page's process and the model's process tell each other, besides `gm.events`. No mindspore here."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Union

import numpy as np

from gm.estimate import Basis
from gm.events import Event
from gm.options import ModelSettings, VideoSettings
from gm.picture import Picture


class Load(NamedTuple):
    """Load all parts of a model, if a video with these settings and of (height, width) pixels fits into memory."""

    model: ModelSettings
    video: VideoSettings
    size: tuple[int, int]


class Make(NamedTuple):
    """Make the videos of a picture, with each of the settings in turn."""

    model: ModelSettings
    picture: Picture
    videos: tuple[VideoSettings, ...]


class Cancel(NamedTuple):
    """Stop the request of this number; one that is not under way is passed over."""

    number: int


class Ready(NamedTuple):
    """The checkpoint of the model is checked. basis: for estimates of memory."""

    basis: Basis
    warnings: list[str]


class Glimpse(NamedTuple):
    """After a step of the sampler: its estimate of the clean video, small frames uint8 (t, h, w, 3)."""

    frames: np.ndarray


class Measured(NamedTuple):
    """What `gm.data.metrics` finds in the video just written; empty for a single frame."""

    video: Path
    numbers: dict[str, float]


class Ended(NamedTuple):
    """The request is done with. fault: why it failed, in words for the user, or None. cancelled: by `Cancel`."""

    fault: str | None = None
    cancelled: bool = False


Message = Union[Event, Ready, Glimpse, Measured]  # of a request, before `Ended`
