"""What a running `gm.job.Job` tells: small tuples, shown by the command line and by the page. No mindspore here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, NamedTuple, Union

import numpy as np


class Warned(NamedTuple):
    """Something that the user should know, which stops nothing."""

    text: str


class Started(NamedTuple):
    """A video begins, the number-th, from 1, of `total` of the picture. base: path that its files' names begin with."""

    base: Path
    seed: int
    number: int
    total: int


class Skipped(NamedTuple):
    """A video that an earlier run has made, in place of all other events of it. path, number: as of `Written`."""

    video: Path
    path: Path
    number: int


class Failed(NamedTuple):
    """A video of several that are made at once, which could not be, and why. path, number: as of `Written`."""

    path: Path
    number: int
    text: str


class Loading(NamedTuple):
    """Values of one part of the model ("clip", "condition_encoder", "unet", "decoder"); the first has done 0."""

    part: str
    done: int
    total: int


class Encoding(NamedTuple):
    """CLIP and the VAE's encoder begin with the picture."""


class Compiling(NamedTuple):
    """The next step compiles the network for this size first, which takes long."""


class Sampling(NamedTuple):
    """Steps of the sampler; the first has done 0 and neither sigma nor preview.

    sigma: noise level at the step's beginning. preview: function that returns the step's estimate of the clean video as
    small frames uint8 (t, h/8, w/8, 3), in a millisecond (`gm.diffusion.preview`).
    """

    done: int
    total: int
    sigma: float | None = None
    preview: Callable[[], np.ndarray] | None = None


class Decoding(NamedTuple):
    """Frames that the VAE has decoded; the first has done 0."""

    done: int
    total: int


class Written(NamedTuple):
    """One video is done and all its files are on the disk.

    video: the file, or the folder of frames. files: of everything by what it is: "video", "image", "json" and, but for
    latents, "sheet". record: what the JSON file says. seconds: of each stage, what the receiver did between events
    included. frames: uint8 (t, h, w, 3), None for latents. path, number: of the picture, and which of its videos it is,
    from 0.
    """

    video: Path
    files: dict[str, Path]
    record: dict[str, Any]
    seconds: dict[str, float]
    frames: np.ndarray | None
    path: Path | None = None
    number: int = 0


Event = Union[Warned, Started, Skipped, Failed, Loading, Encoding, Compiling, Sampling, Decoding, Written]
