"""The files that come with a video: their names, which nothing else uses, and the small ones' content.

`next_base` → `write_png`, `write_json`, `write_npy`. Files are whole or absent (`gm.files.atomic_path`).
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import re
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from gm import locks
from gm.errors import UserError
from gm.files import atomic_path, remove_leftovers

_LONGEST = "_image.png"  # of what is added to a base name, the longest
_claims: dict[Path, locks.Lock] = {}  # base name: its lock


def make_folder(folder: str | Path) -> None:
    """Make the folder if it is not there and see that files can be written in it.

    What a killed process left half-made in it is removed.

    Raises:
        UserError: it cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        remove_leftovers(folder)
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: OSError) -> UserError:
    reason = "it is not a folder" if isinstance(error, FileExistsError) else error.strerror or error
    return UserError(f"cannot write to output folder {folder}: {reason}; choose another folder")


def next_base(folder: str | Path, stem: str) -> Path:
    """A base name for one video's files: `<folder>/<stem>_000`, or the first number after it that nothing uses.

    A number is used if a file or folder is named with it, alone or followed by "." or "_". Makes the folder. The name
    is reserved for this process by a locked hidden file, until `give_back` or the end of the process: processes running
    side by side never get the same one.

    Raises:
        UserError: the folder cannot be made or written to, or `stem` is too long for the names of the files.
    """
    folder = Path(folder)
    check_name(folder, stem)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = _used_numbers(folder, stem)
        _remove_left_claims(folder)
        number = 0
        while True:
            digits = f"{number:03d}"
            if digits not in used and _reserve(folder, f"{stem}_{digits}"):
                used = _used_numbers(folder, stem)  # again: another process may have finished since
                if digits not in used:
                    return folder / f"{stem}_{digits}"
            number += 1
    except OSError as error:
        raise _not_writable(folder, error) from error


def check_name(folder: str | Path, stem: str) -> None:
    """UserError where a picture's name is too long for what is added to it."""
    try:
        os.lstat(Path(folder) / f"{stem}_0000{_LONGEST}")
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(
                f"the name {stem} is too long for the files that are called after it: "
                "give the picture a shorter one, or choose another folder"
            ) from error


def _used_numbers(folder: Path, stem: str) -> set[str]:
    pattern = re.compile(re.escape(stem) + r"_(\d{3,})(?:[._]|\Z)")
    return {found.group(1) for found in map(pattern.match, os.listdir(folder)) if found}


def _remove_left_claims(folder: Path) -> None:
    """Those of processes that were killed."""
    for path in folder.glob(".*_*.claim"):
        lock = locks.take(path)
        if lock is not None:
            lock.release()


def _reserve(folder: Path, name: str) -> bool:
    """Lock a hidden file for a base name; False where another process, or this one, holds it."""
    if folder / name in _claims:
        return False
    lock = locks.take(folder / f".{name}.claim")
    if lock is None:
        return False
    _claims[folder / name] = lock
    return True


def give_back(base: Path) -> None:
    """Release a name that `next_base` reserved, once its files are written or will never be."""
    _claims.pop(base).release()


@atexit.register
def _give_all_back() -> None:
    for base in list(_claims):
        give_back(base)


def write_png(image: np.ndarray, path: str | Path) -> None:
    """uint8 (h, w, 3) → PNG file."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def write_json(data: object, path: str | Path) -> None:
    """`data` → JSON file, indented; Path and NumPy values in it become strings and numbers. ValueError on NaN."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    with atomic_path(path) as temporary:
        # A file name that is not UTF-8 has lone surrogates, which JSON can write as \\udc80.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_npy(array: np.ndarray, path: str | Path) -> None:
    """Array → NumPy's .npy file."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)
