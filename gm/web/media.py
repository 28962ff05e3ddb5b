"""Videos and pictures of results, from files that somebody may have removed, and that anybody may have put there."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image

from gm.web import words

_BROKEN = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)  # what Pillow raises


def video(path: Path, where: Any = st, **options: Any) -> None:
    """A video in a loop, without sound; a line in its place where it cannot be read. options: of `st.video`."""
    try:
        where.video(path.read_bytes(), loop=True, muted=True, **options)
    except OSError as error:
        _missing(path, where, error)


def picture(path: Path, caption: str | None = None, where: Any = st, **options: Any) -> None:
    """A picture, or a line in its place where it cannot be read. options: of `st.image`."""
    try:
        where.image(path.read_bytes(), caption, **options)
    except _BROKEN as error:
        _missing(path, where, error)


def _missing(path: Path, where: Any, error: Exception) -> None:
    why = "it is not there any more" if isinstance(error, FileNotFoundError) else "it cannot be read"
    where.caption(words.plain(f"{path.name}: {why}"))
