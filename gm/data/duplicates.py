"""Clips that show the same: files with the same bytes, and clips whose pictures look alike (perceptual hashes)."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gm import places
from gm.data.frame_folder import clip_files, open_clip
from gm.data.spread import spread
from gm.errors import UserError

LOOKS = 5  # pictures of a clip that are compared
BITS = 64  # of the hash of a picture
_CHUNK = 2048


def perceptual_hash() -> Callable[[Image.Image], Any]:
    """imagehash's phash. UserError: the library is missing."""
    try:
        from imagehash import phash
    except ImportError as error:
        raise UserError(f"near duplicates are found by imagehash: {places.install('data')}") from error
    return phash


def same_bytes(
    clips: Sequence[tuple[str | Path, int, int]], workers: int = 2, scheduler: str | None = None
) -> list[int | None]:
    """[index of an earlier clip with the same content, or None] of (path, start, length).

    The content is that of the file, or of a folder's pictures in their order; only files of the same size are read.
    Failures (paths that cannot be read) are left to the one who trains: they equal nothing. workers, scheduler: as of
    `gm.data.spread.spread`.
    """
    paths = list(dict.fromkeys(path for path, _, _ in clips))
    sizes = {path: _size(path) for path in paths}
    count = Counter(sizes.values())
    shared = [path for path in paths if sizes[path] is not None and count[sizes[path]] > 1]
    digests = dict(
        spread(
            _digest,
            shared,
            workers,
            scheduler,
            desc="reading files of the same size",
            unit="file",
            given_up=lambda path, _: (path, None),
        )
    )
    first: dict[tuple[str, int, int], int] = {}
    found: list[int | None] = []
    for index, (path, start, length) in enumerate(clips):
        content = digests.get(path)
        earlier = index if content is None else first.setdefault((content, start, length), index)
        found.append(None if earlier == index else earlier)
    return found


def _size(path: str | Path) -> int | None:
    try:
        return sum(os.path.getsize(file) for file in clip_files(path))
    except (OSError, UserError):
        return None


def _digest(path: str | Path) -> tuple[str | Path, str | None]:
    """(path, SHA-256 of its content or None)."""
    digest = hashlib.sha256()
    try:
        for file in clip_files(path):
            with open(file, "rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
    except (OSError, UserError):
        return path, None
    return path, digest.hexdigest()


def hashes(
    clips: Sequence[tuple[str | Path, int, int]], workers: int = 2, scheduler: str | None = None
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """(uint8 (clips, LOOKS * BITS) of bits, [(index, reason)] of those that cannot be read) of (path, start, length).

    Pictures are taken at even distances; two clips are alike where many bits of all of them agree. workers, scheduler:
    as of `gm.data.spread.spread`.
    """
    perceptual_hash()  # is there, or it is told now
    files: dict[str | Path, list[int]] = {}
    for index, (path, _, _) in enumerate(clips):
        files.setdefault(path, []).append(index)
    bits = np.zeros((len(clips), LOOKS * BITS), np.uint8)

    items = [(path, [clips[index][1:] for index in indices]) for path, indices in files.items()]
    failures = []
    for path, found, reason in spread(
        _looked_at,
        items,
        workers,
        scheduler,
        desc="looking at the clips",
        unit="file",
        given_up=lambda item, reason: (item[0], None, reason),
    ):
        if reason is None:
            bits[files[path]] = found
        else:
            failures += [(index, reason) for index in files[path]]
    return bits, sorted(failures)


def _looked_at(item: tuple[str | Path, list[tuple[int, int]]]) -> tuple[str | Path, np.ndarray | None, str | None]:
    """(path, uint8 (parts, LOOKS * BITS), None) or (path, None, reason) of (path, [(start, length) of its parts])."""
    path, parts = item
    phash, found = perceptual_hash(), []
    try:
        with open_clip(path) as video:
            for start, length in parts:
                pictures = video.frames(start + np.linspace(0, length - 1, LOOKS).round().astype(int))
                found.append(np.concatenate([phash(Image.fromarray(p)).hash.reshape(-1) for p in pictures]))
    except UserError as error:
        return path, None, str(error)
    return path, np.array(found, np.uint8), None


def alike(bits: np.ndarray, most_different: float, without: Iterable[int] = ()) -> list[int | None]:
    """[index of an earlier clip that stays and looks the same, or None]: at most `most_different` of the BITS of a
    picture differ, in the mean over the pictures. without: indices that are compared with nothing.

    Every clip is compared with every one that stays: 100,000 clips take minutes, a million hours.
    """
    signs = bits.astype(np.float32) * 2 - 1
    least = LOOKS * (BITS - 2 * most_different)
    found: list[int | None] = [None] * len(signs)
    stays = np.ones(len(signs), bool)
    stays[list(without)] = False
    compared = np.flatnonzero(stays)
    for start in range(0, len(compared), _CHUNK):
        rows = compared[start : start + _CHUNK]
        earlier = np.flatnonzero(stays[: rows[-1] + 1])
        products = signs[rows] @ signs[earlier].T
        for row, line in zip(rows.tolist(), products):
            for place in np.flatnonzero(line >= least).tolist():
                other = int(earlier[place])
                if other < row and stays[other]:
                    found[row], stays[row] = other, False
                    break
    return found
