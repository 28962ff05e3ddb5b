"""Videos that are sampled together: gathered until there are enough of one size; no mindspore here."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from gm.latents_file import GivenLatents
from gm.options import Options
from gm.picture import Picture

_MOST_WAITING = 64  # batches' worth: beyond that the fullest goes as it is, so that few pictures are held


class Video(NamedTuple):
    """One to be made: of a `Picture` (or `gm.latents_file.GivenLatents`), the number-th of it, from 0."""

    source: Picture | GivenLatents
    options: Options
    number: int


_Item = TypeVar("_Item")


class Batches(Generic[_Item]):
    """`add` what is to be made; the `batch` that are returned together are made together, at the end what `rest`
    returns. The order is the same for the same sizes in the same order, on which kept graphs count."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._waiting: dict[tuple[int, int], list[_Item]] = {}

    def add(self, size: tuple[int, int], video: _Item) -> list[_Item]:
        """[the videos] of a batch that is full now, else []. size: (height, width); only equal ones go together."""
        waiting = self._waiting.setdefault(size, [])
        waiting.append(video)
        if len(waiting) == self.batch:
            return self._waiting.pop(size)
        if sum(map(len, self._waiting.values())) > _MOST_WAITING * self.batch:
            return self._waiting.pop(max(self._waiting, key=lambda size: len(self._waiting[size])))
        return []

    def rest(self) -> list[list[_Item]]:
        """The batches that did not become full."""
        found, self._waiting = list(self._waiting.values()), {}
        return found
