"""Clips that are folders of pictures, `clip_0001/00001.jpg …`, beside those that are video files.

`open_clip` opens either. The labelling tool takes a folder for a clip when it holds pictures and neither videos nor
other folders: pictures beside videos are previews. Frames are in the order of the numbers in their names. The pictures
state no frame rate: it is said in the CSV's column fps, or by --frames_fps. GIFs are videos, never frames.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gm.data import images, video_reader
from gm.data.video_reader import VideoReader, open_video
from gm.errors import UserError

SUFFIXES = tuple(suffix for suffix in images.SUFFIXES if suffix not in video_reader.SUFFIXES)


def open_clip(
    path: str | Path, index_folder: str | Path | None = None, hdr: str = "map", threads: int = 1
) -> VideoReader:
    """A video file or a folder of frames → VideoReader. The rest and UserError as `gm.data.video_reader.open_video`."""
    return FrameFolder(path) if os.path.isdir(path) else open_video(path, threads, index_folder, hdr)


def natural_order(name: str) -> tuple[list[int | str], str]:
    """Key to sort names by: "frame2.jpg" comes before "frame10.jpg"."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def is_frame(name: str) -> bool:
    """Whether a file of that name in a folder of frames is one of them: a picture, and not hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def clip_files(path: str | Path) -> list[Path]:
    """The files that a clip is made of, in order: the video itself, or the pictures of a folder, as a list of Path.

    UserError: a folder that cannot be read, holds no pictures, or two with the same number.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    try:
        names = [name for name in os.listdir(path) if is_frame(name)]
    except OSError as error:
        raise UserError(f"cannot look into {path}: {error.strerror or error}") from error
    if not names:
        raise UserError(f"{path}: a folder without pictures ({', '.join(SUFFIXES)})")
    names.sort(key=natural_order)
    _refuse_two_of_a_frame(path, names)
    return [path / name for name in names]


def _refuse_two_of_a_frame(path: Path, names: Sequence[str]) -> None:
    """UserError where pictures of other kinds, masks, depth, another eye's, would be frames between the frames."""
    numbered: dict[tuple[int, ...], str] = {}
    for name in names:
        numbers = tuple(map(int, re.findall("[0-9]+", os.path.splitext(name)[0])))
        first = numbered.setdefault(numbers, name)
        if numbers and first != name:
            raise UserError(
                f"{path}: {first} and {name} have the same number: a clip has one picture for each frame, move the "
                "others into a folder of their own"
            )


class FrameFolder(VideoReader):
    """A folder of pictures, read like a video (see `VideoReader`): length, size, frames. fps is None.

    UserError as `clip_files`.
    """

    fps = None

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._files = clip_files(path)

    @property
    def length(self) -> int:
        return len(self._files)

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """(h, w) of all frames, from their headers. UserError that names the first file of another size."""
        first = images.image_size(self._files[0])
        for file in self._files[1:]:
            self._check_size(file, images.image_size(file), first)
        return first

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 (t, h, w, 3) of the frames at `indices`, as `gm.data.images.load_image` reads them.

        UserError: an index beyond the last, a file that cannot be read, frames of different sizes.
        """
        indices = np.asarray(indices, np.int64)
        if indices.ndim != 1 or not len(indices) or indices.min() < 0:
            raise ValueError(f"indices must be a list of at least one number from 0 on, not {indices}")
        if indices.max() >= self.length:
            raise UserError(
                f"{self.path}: frame {indices.max()} was asked for, but the folder has {self.length} pictures: "
                "shorter than its label"
            )
        frames = np.empty(0, np.uint8)
        for row, index in enumerate(indices.tolist()):
            frame = images.load_image(self._files[index])
            if row == 0:
                frames = np.empty((len(indices), *frame.shape), np.uint8)
            self._check_size(self._files[index], frame.shape[:2], frames.shape[1:3])
            frames[row] = frame
        return frames

    def _check_size(self, file: Path, size: tuple[int, ...], first: tuple[int, ...]) -> None:
        if size != first:
            raise UserError(
                f"{file} has {size[1]}x{size[0]} pixels (width x height), the frames before it {first[1]}x{first[0]}: "
                "all frames of a clip must have the same size"
            )

    def close(self) -> None:
        """Nothing is held open."""
