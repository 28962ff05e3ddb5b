"""Sample, and the videos that came of it, with their downloads."""

from __future__ import annotations

import contextlib
import mimetypes
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from gm.data.video_reader import open_video
from gm.data.videos import write_gif
from gm.errors import UserError
from gm.results import read_about
from gm.web import media, progress, words
from gm.web.messages import Make
from gm.web.state import BY_BYTES, running, stamp, submit

if TYPE_CHECKING:
    from gm.web.inputs import Asked
    from gm.web.queue import Result

_NOTHING = "The video appears here. The first takes longer: the model is loaded, and compiled for the size."
_LOST = "The request of this address is not known any more: what came of it is in the gallery."
_NARROWEST, _WIDEST = 480, 1024  # pixels that a video is shown with; a narrow window makes it smaller


def show(asked: Asked) -> None:
    """The button, then the request under way or the last result."""
    state = st.session_state
    pressed = start("Sample", asked, "Make the video with these settings")
    if pressed and asked.model and asked.picture and asked.video:
        submit(Make(asked.model, asked.picture, (asked.video,)))
    if progress.show(lambda ticket: not ticket.sweep):
        return
    ticket = state.ticket
    if ticket is None:
        st.caption(_LOST if state.lost else _NOTHING)
        return
    if ticket.sweep:
        return
    progress.show_end(ticket)
    for result in ticket.results:
        video(result)


def start(label: str, asked: Asked, help: str) -> bool:
    """A button, dead while there is nothing to do or the session's last request is not done; True if pressed."""
    dead = None in (asked.model, asked.video) or asked.picture is None or running() is not None
    icon = ":material/play_arrow:"
    return st.button(label, type="primary", icon=icon, disabled=dead, key=f"start {label}", help=help)


def video(result: Result) -> None:
    """One result: the video, its quality in words, the grid, downloads."""
    written = result.written
    record = written.record
    media.video(written.video, autoplay=True, width=max(_NARROWEST, min(record["width"], _WIDEST)))
    asked = record.get("segment_motion") or record["motion_bucket_id"]
    for column, (what, said, number) in zip(st.columns(3), words.quality(result.numbers, asked)):
        column.markdown(f"**{what}**: {said}  \n:small[:gray[{number}]]")
    said = (
        f"{written.video.name}: seed {record['seed']}, {record['frames']} frames of {record['width']}×"
        f"{record['height']} at {record['output_fps']:g} a second, made in "
        f"{words.duration(sum(written.seconds.values()))}, kept in {words.folder(written.video.parent)}"
    )
    st.caption(words.plain(said))
    downloads(written.files)
    if "sheet" in written.files:
        media.picture(written.files["sheet"], "All frames")


def downloads(files: Mapping[str, Path], key: str = "result", ask: bool = False) -> None:
    """Buttons for the files of a result, by what they are. key: of the place, as a result may be shown twice.
    ask: a GIF, which takes seconds of a large video, is made when it is asked for."""
    video, columns = files["video"], st.columns(4)
    wanted = ((video.suffix[1:], video), ("Grid", files.get("sheet")), ("Settings", files["json"]))
    for column, (label, path) in zip(columns, wanted):
        if path is not None and path.is_file():
            with contextlib.suppress(OSError):  # it went that moment
                _download(column, label, path.read_bytes(), path.name, key)
    if video.suffix != ".mp4" or not video.is_file():
        return
    asked = st.session_state.setdefault("gifs", set())
    if ask and video not in asked:
        columns[3].button("Make GIF", key=f"{key} make", width="stretch", on_click=asked.add, args=(video,))
        return
    try:
        _download(columns[3], "GIF", gif(video, stamp(video)), f"{video.stem}.gif", key)
    except (UserError, OSError) as error:
        columns[3].caption(words.plain(error))


def _download(column: Any, label: str, content: bytes, name: str, key: str) -> None:
    name = words.unicode(name)
    kind, _ = mimetypes.guess_type(name)
    column.download_button(
        label,
        content,
        name,
        kind,
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
        key=f"{key} {name}",
    )


@st.cache_data(max_entries=16, show_spinner="Making the GIF", hash_funcs=BY_BYTES)
def gif(path: Path, stamp: tuple[int, int]) -> bytes:
    """The bytes of a GIF of a video file. stamp: its `gm.web.state.stamp`, so that another file of that name is another
    GIF. (Streamlit leaves arguments that begin with an underscore out of account.)"""
    with open_video(path) as source, tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "video.gif"
        write_gif(source.frames(range(source.length)), target, source.fps, read_about(path))
        return target.read_bytes()
