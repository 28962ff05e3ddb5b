"""Indexes kept on disk, so that a file is looked through once and not each time that it is opened.

A kept index is only ever a short cut: one that is damaged, of another file or of another version of the program is made
anew. The files hold a SHA-256 of what follows, and that is compressed JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av

from gm.data.video_index import Index, Packet, Start, make_index
from gm.errors import UserError
from gm.files import atomic_path

if TYPE_CHECKING:
    from gm.data.video_decoder import Decoder

FORMAT = 3
_log = logging.getLogger(__name__)


def stored_index(decoder: Decoder, folder: str | Path | None = None) -> Index:
    """The Index of the file of a `gm.data.video_decoder.Decoder`, from `folder` if it is there and right.

    Else it is made, and kept in `folder` unless that is None. A folder that cannot be written to is a logged warning.
    """
    if folder is None:
        return make_index(decoder)
    identity = _identity(decoder.path)
    place = Path(folder) / f"{hashlib.sha256(identity['path'].encode(errors='surrogateescape')).hexdigest()[:32]}.index"
    index = _load(place, identity)
    if index is None:
        index = make_index(decoder)
        _keep(place, identity, index)
    return index


def _identity(path: str | Path) -> dict[str, Any]:
    status = os.stat(path)
    return {
        "format": FORMAT,
        "av": av.__version__,
        "path": os.path.abspath(path),
        "size": status.st_size,
        "time": [status.st_mtime_ns, status.st_ctime_ns],
    }


def _load(place: Path, identity: dict[str, Any]) -> Index | None:
    """None for whatever is not whole and of this very file."""
    with contextlib.suppress(Exception):  # bytes from a disk: any error means that they are no index
        content = place.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            record = json.loads(zlib.decompress(content[32:]))
            if record.pop("identity") == identity:
                starts = [Start(number, first, Packet(*packet)) for number, first, packet in record.pop("starts")]
                return Index(starts=starts, size=tuple(record.pop("size")), **record)
    return None


def _keep(place: Path, identity: dict[str, Any], index: Index) -> None:
    content = zlib.compress(json.dumps({"identity": identity, **asdict(index)}).encode())
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(place) as temporary:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
    except (OSError, UserError) as error:
        _log.warning("the index of %s is not kept and will be made again: %s", identity["path"], error)
