"""A row of the list of training clips: a video, or a part of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gm.data.cropping import Crop


@dataclass(frozen=True)
class Clip:
    """One row: path of the video or folder of frames, length in frames, motion bucket (0..255), fps (None: the
    file's own), CSV line, first frame; part: whether the row says where it begins, and so may be a part of the file;
    crop: the part of the picture that is trained on, None: all of it; size: (height, width) of that part in pixels, or
    as the row states it, None where it does not."""

    path: Path
    length: int
    motion_bucket_id: int
    fps: float | None
    line: int
    start: int = 0
    part: bool = False
    size: tuple[int, int] | None = None
    crop: Crop | None = None

    @property
    def end(self) -> int:
        """The first frame of the file that is no longer the clip's."""
        return self.start + self.length

    @property
    def label(self) -> tuple[Any, ...]:
        """What the row says besides the path. A clip from the file's beginning has the same label with or without the
        column start, and a whole picture with or without crop, so that what was cached or trained without them goes on.
        """
        more = (self.start, *([str(self.crop)] if self.crop else []))
        return (self.length, self.motion_bucket_id, self.fps, *(more if any(more) else []))

    def wrong_length(self, found: int, frames: str) -> str | None:
        """What is wrong where its file has `found` frames; None if nothing is."""
        if self.part and self.end > found:
            return (
                f"start {self.start} and length {self.length} end at {self.end}, but {self.path} has {found} {frames}"
            )
        if not self.part and self.length != found:
            return f"length is {self.length}, but {self.path} has {found} {frames}"
        return None

    def wrong_crop(self, size: tuple[int, int]) -> str | None:
        """What is wrong where its file has pictures of that size (height, width); None if nothing is."""
        fault = self.crop.fault(size) if self.crop else None
        return fault and f"{self.path}: {fault}"


def by_file(clips: Iterable[Clip]) -> list[list[Clip]]:
    """[clips of one file], for each file in the order of its first clip."""
    files: dict[Path, list[Clip]] = {}
    for clip in clips:
        files.setdefault(clip.path, []).append(clip)
    return list(files.values())
