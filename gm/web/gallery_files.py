"""Earlier results in the output folder, read from the JSON files beside them. No streamlit."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from gm.checkpoint.published import VERSIONS
from gm.errors import UserError
from gm.options import ModelSettings, Options, VideoSettings
from gm.settings import Decides, about
from gm.web.settings import (
    CHOICES,
    FIELDS,
    LARGEST_SIDE,
    OWN_CAMERA,
    TEXTS,
    cameras,
    config_of,
    defaults,
    limited,
    video_settings,
)  # fmt: skip
from gm.web.words import unicode

_LARGEST = 1_000_000  # bytes of a JSON file
_SHOWN = 60  # characters of a value
DECIDING = [
    field.name
    for kind in (ModelSettings, Options, VideoSettings)
    for field in fields(kind)
    if Decides.RESULT in about(field).decides
]


class Item(NamedTuple):
    """A result. name: what its files' names begin with, in Unicode. files: those that are there, by what they are.
    record: its JSON file. time: of writing, seconds since 1970."""

    name: str
    files: dict[str, Path]
    record: dict[str, Any]
    time: float


def items(folder: str | Path) -> list[Item]:
    """The results of a folder as `Item`s, newest first. Files that are no result, or broken, are passed over."""
    try:
        found = [(path.stat().st_mtime, path) for path in Path(folder).glob("*.json") if path.is_file()]
    except OSError:
        return []
    read = (_item(path, time) for time, path in sorted(found, reverse=True))
    return [item for item in read if item is not None]


def _item(path: Path, time: float) -> Item | None:
    try:
        if path.stat().st_size > _LARGEST:
            return None
        record = json.loads(path.read_bytes())
        wanted = {"video": record["video"], **{kind: f"{path.stem}_{kind}.png" for kind in ("image", "end", "sheet")}}
        # Whoever wrote the file: only what lies beside it under its name is shown.
        names = {
            kind: name
            for kind, name in wanted.items()
            if isinstance(name, str)
            and name.startswith(path.stem)
            and Path(name).name == name
            and (path.parent / name).is_file()
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # too long a name, too deep a list
        return None
    if "image" not in names:
        return None
    files = {**{kind: path.parent / name for kind, name in names.items()}, "json": path}
    return Item(unicode(path.stem), files, record, time)


def settings_of(record: dict[str, Any]) -> dict[str, Any]:
    """{name of `gm.web.settings.SETTINGS`, "height", "width", "camera": value} of a record, as the page's controls take
    them."""
    found = {"num_videos": 1, "camera": camera_of(record), "loop": record.get("loop") is True}
    for name in (*FIELDS, "height", "width"):
        value = record.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < math.inf:
            continue
        if name in FIELDS:
            found[name] = limited(name, value)
        elif 0 < value <= LARGEST_SIDE:  # a control that is given more than it takes falls back to the least
            found[name] = int(value)
    found.update({name: record[name] for name, (_, known) in CHOICES.items() if record.get(name) in known})
    found.update({name: record[name] for name in TEXTS if isinstance(record.get(name), str)})
    return found


def unlike(item: Item, model: ModelSettings | None) -> list[str]:
    """What decided a result and is another here when its settings are used again, each in words: the page has not every
    setting of the command line, and not every value. model: `gm.options.ModelSettings` that it would be made with, None
    where that cannot be told."""
    record, values = item.record, settings_of(item.record)
    version = version_of(record)
    if version not in VERSIONS:
        return [f"model {version}"]
    end = str(item.files["end"]) if "end" in item.files else None
    try:
        video = video_settings(version, {**defaults(version), **values}, item.files["json"].parent, end)
        options = config_of(version).sampling.options(**video.sampling)
    except UserError as error:
        return [str(error)]
    here: dict[str, Any] = {
        **vars(options),
        **vars(video),
        "output_fps": options.fps,
        "end_image": record.get("end_image") if end else None,
    }
    if model is not None:
        here.update(vars(model), delta=record.get("delta") if values["camera"] != OWN_CAMERA else None)
    return [
        f"{name} {_short(record[name])} (here {_short(here[name])})"
        for name in DECIDING
        if name in record and name in here and not _same(record[name], here[name])
    ]


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same; texts may be two ways to the same file."""
    if one == other or not isinstance(one, str) or not isinstance(other, str):
        return bool(one == other)
    try:
        return Path(one).resolve() == Path(other).resolve()
    except (OSError, RuntimeError, ValueError):  # no file's name
        return False


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _SHOWN else f"…{text[-_SHOWN:]}"


def camera_of(record: dict[str, Any]) -> str:
    """The label of the camera move that was used."""
    version, delta = version_of(record), record.get("delta")
    if version is None or not isinstance(delta, list) or len(delta) != 1:
        return OWN_CAMERA
    used = delta[0].get("path") if isinstance(delta[0], dict) else None
    return next(
        (label for label, path in cameras(version).items() if path is not None and str(path) == used), OWN_CAMERA
    )


def version_of(record: dict[str, Any]) -> str | None:
    """The version whose config was used, such as "svd_xt", or None."""
    config = record.get("config")
    return Path(config).stem if isinstance(config, str) else None
