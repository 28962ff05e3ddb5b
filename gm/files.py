"""Output files that are either whole or absent."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from pathlib import Path

from gm.errors import UserError


@contextlib.contextmanager
def atomic_path(path):
    """Give a temporary name next to `path` to write to; rename it to `path` on success, delete it on any failure.

    The temporary name keeps the suffix, because encoders and MindSpore choose their format by it. Ctrl-C counts as
    a failure. Raises UserError when the folder does not exist or cannot be written to, or the disk runs full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.part-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise UserError(f"cannot write to the folder {path.parent}: {error.strerror}") from error
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"the disk ran full while {path} was written: {error.strerror}") from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def require_space(folder, size):
    """Raise UserError unless the file system of `folder` has `size` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"not enough disk space in {folder}: {size / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free. "
            "Free some space or choose another folder."
        )
