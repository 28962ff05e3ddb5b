"""Where the paths of a list of clips lead: to a video file, to a folder of frames, or to a fault with a hint. And of
which folder a list is that label_videos.py made."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from gm.data.frame_folder import clip_files
from gm.errors import UserError
from gm.files import atomic_path, kind_of

_MAX_HINTS = 20  # more faults are not shown; each hint lists folders


class ListedPaths:
    """Finds the cells of the column path. `data_dir`: what relative ones start from.

    Each folder is listed once: on network disks a look at each file of a large set would take minutes.
    """

    def __init__(self, data_dir: str | Path) -> None:
        self._root = os.path.abspath(data_dir)
        self._folders: dict[str, dict[str, str]] = {}
        self._hints = 0

    def find(self, cell: str) -> tuple[str, int | None]:
        """(absolute path, None), (absolute path, number of pictures) for a folder of frames. UserError: why neither.

        A cell is taken as it stands, for names may begin or end with blanks; only then without them.
        """
        for text in dict.fromkeys((cell, cell.strip())):
            path = os.path.normpath(os.path.join(self._root, text))
            kind = self._kind(path)
            if kind == "file":
                return path, None
            if kind == "folder":
                return path, len(clip_files(path))
        raise UserError(self._reason(path))

    def _kind(self, path: str) -> str | None:
        folder, name = os.path.split(path)
        if not name:  # the root of the file system
            return "folder"
        if folder not in self._folders:
            self._folders[folder] = _listing(folder)
        return self._folders[folder].get(name)

    def _reason(self, path: str) -> str:
        kind = kind_of(path)
        if kind == "a file":
            return f"{path} cannot be seen in its folder: is the folder readable?"
        if kind:
            return f"{path} is {kind}, not a video file"
        self._hints += 1
        hint = _hint(path) if self._hints <= _MAX_HINTS else None
        return f"{path} does not exist" + (f"; {hint}" if hint else "")


def _listing(folder: str) -> dict[str, str]:
    """{name: "file" or "folder"} of what is in a folder; {} where there is none, or it is not ours to read."""
    found = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    kind = "folder" if entry.is_dir() else "file" if entry.is_file() else None
                except OSError:  # a link to itself: of no harm to the other names
                    continue
                if kind:
                    found[entry.name] = kind
    except OSError:
        return {}
    return found


def _hint(path: str) -> str | None:
    """What the writer of the list may have meant by a path that does not exist; None without an idea."""
    slashed = path.replace("\\", "/")
    for candidate in dict.fromkeys((path, slashed)):
        found = _look_alike(candidate)
        if found is None:
            continue
        if found == slashed:
            return f"{found} does: write / instead of \\ in the list"
        if unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", slashed):
            form = "NFD, as macOS writes" if unicodedata.is_normalized("NFD", found) else "NFC"
            return (
                f"on disk the same name is spelled in another Unicode form ({form}): make the list anew with "
                "svd_tools/label_videos.py, or rename the files with `convmv -r -f utf8 -t utf8 --nfc --notest FOLDER` "
                "(--nfd the other way)"
            )
        return f"{found!r} does, which differs in upper and lower case or in blanks"
    return None


def _look_alike(path: str) -> str | None:
    """The existing path that looks like `path`: other Unicode form, case, or blanks at the ends of names; or None."""

    def key(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold().strip()

    found = os.sep
    for part in path.split(os.sep)[1:]:
        if not os.path.lexists(os.path.join(found, part)):
            try:
                alike = next((name for name in sorted(os.listdir(found)) if key(name) == key(part)), None)
            except OSError:
                return None
            if alike is None:
                return None
            part = alike
        found = os.path.join(found, part)
    return found


def note_folder(csv_path: Path, folder: Path) -> None:
    """Keep beside a list, in a hidden file, whose videos it is of: its paths are relative, and would do for another
    folder's too. UserError where it cannot be written."""
    with atomic_path(_note(csv_path)) as temporary:
        temporary.write_bytes(os.fsencode(os.path.realpath(folder)))


def require_folder(csv_path: Path, folder: Path) -> None:
    """UserError where `note_folder` told of another folder than this one."""
    note, here = _note(csv_path), os.path.realpath(folder)
    try:
        before = os.fsdecode(note.read_bytes())
    except FileNotFoundError:  # of a list that an older program made
        return
    except OSError as error:
        raise UserError(f"cannot read {note}, of which folder {csv_path} is: {error.strerror}") from error
    if before != here:
        raise UserError(
            f"{csv_path} is of the videos in {before}, not of those in {here}: name another --output for these; or, "
            f"where they are the same ones and were moved, remove {note}"
        )


def _note(csv_path: Path) -> Path:
    return csv_path.with_name(f".{csv_path.name}.folder")
