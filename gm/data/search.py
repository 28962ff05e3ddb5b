"""All clips below a folder: video files, and folders of frames (see gm/data/frame_folder.py)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from gm.data import frame_folder, video_reader
from gm.errors import UserError
from gm.files import count_suffixes


@dataclass
class Found:
    """What `find_clips` met; paths are relative to the folder, with "/" between the parts, sorted.

    clips: videos and folders of frames. others: files that are neither, pictures beside videos or folders included.
    unreadable: [(folder, reason)]. repeated: links to folders that are in the search anyway.
    """

    clips: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def find_clips(folder: str | Path) -> Found:
    """Search `folder` and the folders in it, links to others too → Found. Hidden names are skipped.

    Each folder is searched once, whatever links lead to it: a loop ends, and no clip is found twice.
    UserError: no such folder, no clips.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder at {folder}")
    found = Found()
    seen: set[tuple[int, int]] = set()
    folders, links = [folder], list[Path]()
    while folders or links:  # links last: what can be reached without one is named without it
        parent = folders.pop() if folders else links.pop(0)
        path = parent.relative_to(folder).as_posix()
        try:
            status = parent.stat()
            if (status.st_dev, status.st_ino) in seen:
                found.repeated.append(path)
                continue
            seen.add((status.st_dev, status.st_ino))
            names, below = _look_into(parent)
        except OSError as error:
            found.unreadable.append((path, f"{parent}: cannot look into this folder: {error.strerror or error}"))
            continue
        for name, is_link in below:
            (links if is_link else folders).append(parent / name)
        _sort_out(found, parent.relative_to(folder), names, bool(below))
    if not (found.clips or found.unreadable):
        raise UserError(
            f"no videos in {folder}: looked for {', '.join(video_reader.SUFFIXES)} and folders of pictures in it and "
            f"its folders, found {count_suffixes(found.others)}"
        )
    for paths in (found.clips, found.others, found.unreadable, found.repeated):
        paths.sort()
    return found


def _look_into(folder: Path) -> tuple[list[str], list[tuple[str, bool]]]:
    """([names of files], [(name of folder, whether it is a link)]), sorted, without hidden ones."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself; who opens it says so
                is_folder = False
            if is_folder:
                folders.append((entry.name, entry.is_symlink()))
            else:
                files.append(entry.name)
    return files, folders


def _sort_out(found: Found, folder: Path, names: list[str], has_folders: bool) -> None:
    videos = [name for name in names if name.lower().endswith(video_reader.SUFFIXES)]
    frames = [] if videos or has_folders else [name for name in names if frame_folder.is_frame(name)]
    found.clips += [(folder / name).as_posix() for name in videos]
    if frames:
        found.clips.append(folder.as_posix())
    clips = {*videos, *frames}
    found.others += [(folder / name).as_posix() for name in names if name not in clips]
