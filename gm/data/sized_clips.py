"""Clips of several sizes: which size each clip gets, and one stream of them in which each batch has one size.

The clips of each size have an endless stream of their own, as in `gm.data.clips`, and its batches are full: no clip is
left out, and batch k of a size is its positions [k * B, (k + 1) * B). A batch belongs to the epoch in which its first
clip does. The batches of all sizes that belong to epoch e are shown in an order drawn from (seed, e). So batch g of the
whole follows from (seed, g, B) alone, every device finds the same size in it, and clips of one size alone make the very
stream of their own.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gm.data.frame_folder import open_clip
from gm.data.spread import spread
from gm.errors import UserError
from gm.sizes import nearest_size

if TYPE_CHECKING:
    from gm.data.clips import Samples
    from gm.data.rows import Clip

_ORDER = 8  # the second number of the key; gm/data/clips.py and gm/training/draws.py use 1 to 7
_OPEN_WORKERS = 4
_log = logging.getLogger(__name__)


def by_size(
    clips: Sequence[Clip], sizes: Iterable[tuple[int, int]], index_folder: str | Path | None = None
) -> dict[tuple[int, int], list[Clip]]:
    """{size: its clips} of the sizes that any clip gets, in the order of `sizes`, under a progress bar.

    clips: of a `gm.data.metadata.Metadata`. sizes: (height, width) in pixels, one or more; with more than one a clip
    gets what `gm.sizes.nearest_size` says. Files whose size the list does not state are opened. index_folder: as of
    `gm.data.video_reader.open_video`. One that cannot be opened is logged and gets the first size, where the data set
    counts it as a failure.
    """
    sizes = [(height, width) for height, width in sizes]
    if len(sizes) == 1:
        return {sizes[0]: list(clips)}

    def choose(path: Path) -> tuple[Path, tuple[int, int]]:
        try:
            with open_clip(path, index_folder) as video:
                return path, nearest_size(video.size, sizes)
        except UserError as error:
            _log.warning("the size of a clip cannot be read: %s", error)
            return path, sizes[0]

    files = dict.fromkeys(clip.path for clip in clips if clip.size is None)
    of_file = dict(spread(choose, files, _OPEN_WORKERS, desc="reading sizes", unit="file"))
    stated = {size: nearest_size(size, sizes) for size in {clip.size for clip in clips if clip.size is not None}}
    groups: dict[tuple[int, int], list[Clip]] = {size: [] for size in sizes}
    for clip in clips:
        groups[of_file[clip.path] if clip.size is None else stated[clip.size]].append(clip)
    return {size: group for size, group in groups.items() if group}


class SizedClips:
    """The data sets of several sizes as one.

    Args:
        parts: {(height, width): `gm.data.clips.ClipDataset` or another with its methods}, none of them empty.
        batch: clips of a batch, over all devices. seed: of the order of the sizes.
    """

    def __init__(self, parts: Mapping[tuple[int, int], Samples], batch: int, seed: int) -> None:
        self.parts, self.batch, self.seed = parts, batch, seed
        self._members = list(parts.values())
        self._lengths = np.array([len(part) for part in self._members])
        self._order = functools.lru_cache(maxsize=4)(self._draw_order)

    def __len__(self) -> int:
        return int(self._lengths.sum())

    def at(self, position: int) -> dict[str, Any]:
        """The sample at `position` (from 0) of the stream."""
        part, place = self.place(position)
        return self._members[part].at(place)

    def place(self, position: int) -> tuple[int, int]:
        """(number of the part, position in the part's own stream) of the sample at `position` of the stream."""
        batch, offset = divmod(position, self.batch)
        epoch = batch * self.batch // len(self)
        while self._begin(epoch).sum() > batch:
            epoch -= 1
        while self._begin(epoch + 1).sum() <= batch:
            epoch += 1
        begin = self._begin(epoch)
        parts, numbers = self._order(epoch)
        index = batch - begin.sum()
        part = int(parts[index])
        return part, int(begin[part] + numbers[index]) * self.batch + offset

    def _begin(self, epoch: int) -> np.ndarray:
        """The first batch of each part that belongs to this epoch or a later one."""
        return -(-epoch * self._lengths // self.batch)

    def _draw_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each batch of the epoch: the part's number, and which of that part's batches of the epoch it is."""
        counts = self._begin(epoch + 1) - self._begin(epoch)
        parts = np.repeat(np.arange(len(counts)), counts)
        np.random.default_rng((self.seed, _ORDER, epoch)).shuffle(parts)
        numbers = np.empty_like(parts)
        for part, count in enumerate(counts):
            numbers[parts == part] = np.arange(count)
        return parts, numbers
