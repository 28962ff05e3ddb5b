"""Clips that show the same: files with the same bytes, and clips whose pictures look alike (perceptual hashes)."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from gm import places
from gm.console import progress
from gm.data.frame_folder import clip_files, open_clip
from gm.errors import UserError

LOOKS = 5  # pictures of a clip that are compared
BITS = 64  # of the hash of a picture
_CHUNK = 2048


def perceptual_hash():
    """imagehash's phash. UserError: the library is missing."""
    try:
        from imagehash import phash
    except ImportError as error:
        raise UserError(f"near duplicates are found by imagehash: {places.install('data')}") from error
    return phash


def same_bytes(clips, workers=2):
    """[index of an earlier clip with the same content, or None] of (path, start, length).

    The content is that of the file, or of a folder's pictures in their order; only files of the same size are read.
    Failures (paths that cannot be read) are left to the one who trains: they equal nothing.
    """
    paths = list(dict.fromkeys(path for path, _, _ in clips))
    sizes = {path: _size(path) for path in paths}
    count = Counter(sizes.values())
    shared = [path for path in paths if sizes[path] is not None and count[sizes[path]] > 1]
    digests = dict(zip(shared, _spread(_digest, shared, workers, "reading files of the same size", "file")))
    first, found = {}, []
    for index, (path, start, length) in enumerate(clips):
        content = digests.get(path)
        earlier = index if content is None else first.setdefault((content, start, length), index)
        found.append(None if earlier == index else earlier)
    return found


def _size(path):
    try:
        return sum(os.path.getsize(file) for file in clip_files(path))
    except (OSError, UserError):
        return None


def _digest(path):
    digest = hashlib.sha256()
    try:
        for file in clip_files(path):
            with open(file, "rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
    except (OSError, UserError):
        return None
    return digest.hexdigest()


def hashes(clips, workers=2):
    """(uint8 (clips, LOOKS * BITS) of bits, [(index, reason)] of those that cannot be read) of (path, start, length).

    Pictures are taken at even distances; two clips are alike where many bits of all of them agree.
    """
    phash, files = perceptual_hash(), {}
    for index, (path, _, _) in enumerate(clips):
        files.setdefault(path, []).append(index)
    bits = np.zeros((len(clips), LOOKS * BITS), np.uint8)

    def look(item):
        path, indices = item
        try:
            with open_clip(path) as video:
                for index in indices:
                    _, start, length = clips[index]
                    places = start + np.linspace(0, length - 1, LOOKS).round().astype(int)
                    pictures = video.frames(places)
                    bits[index] = np.concatenate([phash(Image.fromarray(p)).hash.reshape(-1) for p in pictures])
        except UserError as error:
            return [(index, str(error)) for index in indices]
        return []

    failed = _spread(look, files.items(), workers, "looking at the clips", "file")
    return bits, [failure for failures in failed for failure in failures]


def alike(bits, most_different, without=()):
    """[index of an earlier clip that stays and looks the same, or None]: at most `most_different` of the BITS of a
    picture differ, in the mean over the pictures. without: indices that are compared with nothing.

    Every clip is compared with every one that stays: 100,000 clips take minutes, a million hours.
    """
    signs = bits.astype(np.float32) * 2 - 1
    least = LOOKS * (BITS - 2 * most_different)
    found = [None] * len(signs)
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


def _spread(function, items, workers, what, unit):
    """Results of the function for each item, in order, by threads and under a progress bar."""
    items = list(items)
    with ThreadPoolExecutor(workers) as pool:
        try:
            return list(progress(pool.map(function, items), what, unit, len(items)))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
