"""What the list of clips says of a video: its rows, from its frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gm.console import say
from gm.data import motion
from gm.data.frame_folder import open_clip
from gm.data.overlays import Overlays
from gm.data.scenes import find_scenes
from gm.errors import UserError

if TYPE_CHECKING:
    from gm.data.scenes import Scene
    from gm.data.video_reader import VideoReader

COLUMNS = ("path", "length", "motion_bucket_id", "fps", "motion_score")
SCENE_COLUMNS = (*COLUMNS, "start", "width", "height", "black", "frozen", "faded", "crop", "overlay")
_CHUNK = 8  # frames of a long video held at a time
_LOOKS = 8  # frames of a scene, at least, in which bars and overlays are looked for


def label(
    folder: Path, path: str, frames_fps: float | None = None, hdr: str = "map", split_scenes: bool = False
) -> list[tuple[str, ...]]:
    """The rows of one clip, tuples of strings in the order of COLUMNS, or of SCENE_COLUMNS with a row for each scene of
    two frames or more. UserError if it cannot be read.

    frames_fps: frames per second of folders of frames, which do not state it. hdr: as in
    `gm.data.video_reader.open_video`.
    """
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{os.fsencode(path)!r}: a name that is not UTF-8 cannot be in the list; rename it") from error
    with open_clip(folder / path, hdr=hdr) as video:
        fps = frames_fps if video.fps is None else video.fps
        if fps is None:
            raise UserError(f"{folder / path}: a folder of pictures states no frame rate: give it by --frames_fps")
        if video.length < 2:
            raise UserError(f"{folder / path}: has a single frame; motion needs at least 2")
        video.size  # noqa: B018  (of a folder of frames: each is looked at)
        if not split_scenes:
            return [_row(video, path, fps, 0, video.length, lambda _: None)]
        rows = [_scene_row(video, path, fps, scene) for scene in find_scenes(video, fps) if scene.length > 1]
        if not rows:
            raise UserError(f"{folder / path}: no two frames belong to one scene")
        lost = video.length - sum(int(row[1]) for row in rows)
        if lost:
            say(f"{path}: {lost} of {video.length} frames, of gradual transitions or single ones, are in no row")
        return rows


def _row(
    video: VideoReader, path: str, fps: float, start: int, length: int, look: Callable[[np.ndarray], None]
) -> tuple[str, ...]:
    """The cells of COLUMNS of the frames from `start` on. look: function that is shown the frames that are read."""
    times = video.times and video.times[start : start + length]
    indices = motion.sample_indices(length, fps, times)

    def pictures() -> Iterator[np.ndarray]:
        for place in range(0, len(indices), _CHUNK):
            for frame in video.frames([start + index for index in indices[place : place + _CHUNK]]):
                look(frame)
                yield frame

    score = motion.sampled_motion_score(pictures(), indices, fps, times)
    return path, str(length), str(motion.bucket(score)), rate_cell(fps), f"{score:.4f}"


def rate_cell(fps: float) -> str:
    """Frames per second as the column fps has them."""
    return f"{fps:.6g}"


def _scene_row(video: VideoReader, path: str, fps: float, scene: Scene) -> tuple[str, ...]:
    """The cells of SCENE_COLUMNS."""
    overlays = Overlays()
    cells = _row(video, path, fps, scene.start, scene.length, overlays.add)
    for frame in video.frames(scene.start + np.unique(np.linspace(0, scene.length - 1, _LOOKS).astype(int))):
        overlays.add(frame)  # of a short scene, motion is measured between few frames
    height, width = video.size
    shares = (f"{share:.2f}" for share in (scene.black, scene.frozen, scene.faded))
    return (*cells, str(scene.start), str(width), str(height), *shares, overlays.crop(), f"{overlays.overlay():.2f}")
