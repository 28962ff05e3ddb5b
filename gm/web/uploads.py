"""Pictures that browsers send: in a temporary folder of the server, under generated names, while they are held."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
import weakref
from pathlib import Path

from gm import interrupts, locks
from gm.errors import UserError

_PREFIX = "svd_page_"


class Upload:
    """A picture, which goes with this object: when another takes its place, or the page's session ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        weakref.finalize(self, _remove, path)


def _remove(path: Path) -> None:
    shutil.rmtree(path.parent, ignore_errors=True)


class Uploads:
    """A folder, which goes with the server; those that killed servers left are taken away when it is made.

    parent: where it is made, by default the system's temporary folder.
    """

    def __init__(self, parent: str | Path | None = None) -> None:
        self.parent = Path(parent or tempfile.gettempdir())
        remove_left(self.parent)
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.parent))
        self._lock = locks.take(self.folder / "lock")
        interrupts.add(self.close)

    def add(self, content: bytes | memoryview) -> Upload:
        """Keep the bytes of a picture while what is returned is held; of its path nothing comes from the browser.

        The file has the same name in a folder of its own, as results are called after it.
        UserError where it cannot be written, of which nothing is left.
        """
        path = self.folder / uuid.uuid4().hex / "picture"
        try:
            path.parent.mkdir()
            path.write_bytes(content)
        except OSError as error:
            _remove(path)
            raise UserError(f"the server cannot keep it: {error.strerror or error}; send it again later") from error
        return Upload(path)

    def close(self) -> None:
        interrupts.remove(self.close)
        if self._lock is not None:
            self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)


def remove_left(parent: str | Path) -> None:
    """Folders of servers that are not there any more."""
    for folder in Path(parent).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = locks.take(folder / "lock")  # OSError where it is another user's
            if lock is not None:
                lock.release()
                shutil.rmtree(folder, ignore_errors=True)
