"""What an earlier run has made already: a video whose files are whole and whose JSON file tells of this picture and
these settings. No mindspore here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gm import config
from gm.checkpoint.identity import same
from gm.options import ModelSettings, Options, VideoSettings
from gm.results import ENDINGS, fingerprint
from gm.settings import Decides, defaults, indifferent, join

_KINDS = (ModelSettings, VideoSettings, Options)
_OF_THE_RUN = {"video", "files", "seconds", "peak_memory_bytes", "frames", "command", "versions", "attention_scores"}
# What a JSON file tells that decides nothing of the result, or rounding alone.
_INDIFFERENT = _OF_THE_RUN | indifferent(Decides.RESULT, *_KINDS)
_MODEL = {"networks", "weights"}  # what files of 0.2.0 do not tell


class Done:
    """The results in an output folder, as they are when this is made."""

    def __init__(self, folder: str | Path) -> None:
        # {(picture, seed): [(JSON file, what it tells)]}, the latest last
        self._found: dict[tuple[str, int], list[tuple[Path, dict[str, Any]]]] = {}
        for path in sorted(Path(folder).glob("*.json"), key=lambda path: (len(path.name), path.name)):
            try:
                told = json.loads(path.read_text(encoding="utf-8"))
                self._found.setdefault((told["image"], told["seed"]), []).append((path, told))
            except (OSError, ValueError, KeyError, TypeError):  # another program's, or one of latents
                continue

    def look(
        self, told: dict[str, Any], kind: str, pictures: Mapping[str, np.ndarray]
    ) -> tuple[Path | None, str | None]:
        """(path of the video that is there, None), or (None, why the latest of this picture and seed will not do), or
        (None, None) where there is none.

        Args:
            told: what the JSON file would tell. kind: one of `gm.options.OUTPUT_TYPES`.
            pictures: {"image", perhaps "end": uint8 (h, w, 3)} as the model gets them.
        """
        told = json.loads(json.dumps(told, default=str))
        why: str | None = None
        for path, before in reversed(self._found.get((told["image"], told["seed"]), ())):
            fault = (
                _other_settings(told, before)
                or _other_kind(before, kind)
                or _damaged(path, before)
                or _other_picture(path, before, pictures)
                or _other_model(path, told, before)
            )
            if fault is None:
                return path.with_name(before["video"]), None
            why = why or f"{path}: {fault}"
        return None, why


def _other_settings(told: dict[str, Any], before: dict[str, Any]) -> str | None:
    # What an older file does not tell was not there to be chosen: it was as it is by default.
    before = {**{name: value for kind in _KINDS for name, value in defaults(kind).items()}, **before}
    for name in told.keys() - _INDIFFERENT - _MODEL:
        if told[name] != before.get(name):
            return f"{name} was {before.get(name)} and is {told[name]}"
    return None


def _other_kind(before: dict[str, Any], kind: str) -> str | None:
    return None if str(before.get("video")).endswith(ENDINGS[kind]) else f"it is {before.get('video')}, not {kind}"


def _damaged(path: Path, before: dict[str, Any]) -> str | None:
    files = before.get("files")
    if not isinstance(files, dict) or not {"video", "image"} <= files.keys():
        return "it does not tell what its files were"
    for name, expected in files.values():
        try:
            whole = fingerprint(path.with_name(name)) == [name, expected]
        except OSError as error:
            return f"{name}: {error.strerror}"
        if not whole:
            return f"{name} is not as it was written"
    return None


def _other_picture(path: Path, before: dict[str, Any], pictures: Mapping[str, np.ndarray]) -> str | None:
    for name, picture in pictures.items():
        if name not in before["files"]:
            return f"it has no {name}"
        with Image.open(path.with_name(before["files"][name][0])) as image:
            if not np.array_equal(np.asarray(image), picture):
                return "the picture was another one" if name == "image" else "the picture at the end was another one"
    return None


def _other_model(path: Path, told: dict[str, Any], before: dict[str, Any]) -> str | None:
    """What a config says of the networks, and files of weights under the names that they had."""
    if not before.keys() >= _MODEL:
        return _newer((*config.chain(told["config"]), *map(Path, told["weights"])), path)
    was = dict(_leaves(before["networks"]))
    for name, value in _leaves(told["networks"]):
        if value != was.get(name):
            return f"{name} was {was.get(name)} and is {value}"
    written = path.stat().st_mtime_ns
    for name, known in told["weights"].items():
        if not same(known, before["weights"].get(name), written):
            return f"{name} is another file than it was"
    return None


def _newer(files: Iterable[Path], path: Path) -> str | None:
    for file in files:
        if file.stat().st_mtime > path.stat().st_mtime:
            return f"{file} was written later"
    return None


def _leaves(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        yield from _leaves(value, join(above, name)) if isinstance(value, dict) else [(join(above, name), value)]
