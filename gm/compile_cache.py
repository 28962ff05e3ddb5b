"""Graphs that one run compiled, for the next: MindSpore's own cache, made safe.

MindSpore numbers the graphs of a process in the order of their compilation and hands the n-th graph of the folder to
the n-th compilation, whatever it is of: other shapes, other options or another source file below gm/ are not noticed
(seen with 2.8.0: other frames, or a failing Reshape). So every set of conditions gets a folder of its own, named by a
hash of all that decides which graphs there are and in what order, and a folder appears only when a run has ended well.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from gm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
_ENABLE, _PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"
_used = []  # folders of this process: MindSpore reads the path once and counts on, so there can be one


def quiet():
    """Silence MindSpore's warnings at every graph that it caches or loads. Before mindspore is imported."""
    os.environ.setdefault("MS_SUBMODULE_LOG_v", "{PIPELINE:3}")


def key(conditions, root=ROOT):
    """Name of the folder for conditions (anything that json can write) and the sources as they are now.

    root: the folder of the programs and of gm.
    """
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True, default=str).encode())
    environment = sorted((k, v) for k, v in os.environ.items() if k.startswith("MS_") and k not in (_ENABLE, _PATH))
    digest.update(repr(environment).encode())
    for path in sorted([*root.glob("*.py"), *root.joinpath("gm").rglob("*.py")]):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:32]


def stop():
    """No cache from here on. For when a picture failed: graphs were left out, and the count is not right any more."""
    for name in (_ENABLE, _PATH):
        os.environ.pop(name, None)


@contextlib.contextmanager
def compile_cache(folder, conditions):
    """Within it, graphs come from `folder`, or go there when the body has ended without an exception.

    Yields whether the graphs were there already. Once in a process, and before any network has run.

    Args:
        folder: of all caches, made if it is not there; None for no cache.
        conditions: function that returns all that decides which graphs are compiled and in what order, but for the
            source files.

    Raises:
        UserError: a folder that cannot be made or written.
    """
    if folder is None:
        yield False
        return
    if _used:
        raise RuntimeError("a process can have one compile cache: MindSpore counts its graphs from the start")
    kept = Path(folder).resolve() / key(conditions())
    found = kept.is_dir()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        place = kept if found else Path(tempfile.mkdtemp(prefix=".making-", dir=kept.parent))
    except OSError as error:
        raise UserError(f"--compile_cache {folder}: cannot be written: {error.strerror or error}") from error
    _used.append(place)
    os.environ.update({_ENABLE: "1", _PATH: str(place)})
    try:
        yield found
        if not found and any(place.iterdir()):
            with contextlib.suppress(OSError):  # another run was faster
                place.rename(kept)
    finally:
        stop()
        if not found:
            shutil.rmtree(place, ignore_errors=True)
