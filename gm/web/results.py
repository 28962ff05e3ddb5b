"""Sample, and the videos that came of it, with their downloads."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from gm.data.video_reader import open_video
from gm.data.videos import write_gif
from gm.errors import UserError
from gm.results import read_about
from gm.web import progress, words
from gm.web.messages import Load, Make
from gm.web.state import running, stamp, submit

if TYPE_CHECKING:
    from gm.web.inputs import Asked
    from gm.web.queue import Result, Ticket

_NARROWEST, _WIDEST = 480, 1024  # pixels that a video is shown with; a narrow window makes it smaller


def is_sweep(ticket: Ticket) -> bool:
    return isinstance(ticket.request, Make) and len(ticket.request.videos) > 1


def show(asked: Asked) -> None:
    """The button, then the request under way or the last result."""
    state = st.session_state
    pressed = start("Sample", asked, "Make the video with these settings")
    if pressed and asked.model and asked.picture and asked.video:
        submit(Make(asked.model, asked.picture, (asked.video,)))
    if progress.show(lambda ticket: not is_sweep(ticket)):
        return
    ticket = state.ticket
    if ticket is None:
        st.caption("The video appears here. The first takes longer: the model is loaded, and compiled for the size.")
        return
    if isinstance(ticket.request, Load) or not is_sweep(ticket):
        progress.show_end(ticket)
    if is_sweep(ticket):
        return
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
    play(written.video, record["width"])
    asked = record.get("segment_motion") or record["motion_bucket_id"]
    for column, (what, said, number) in zip(st.columns(3), words.quality(result.numbers, asked)):
        column.markdown(f"**{what}**: {said}  \n:small[:gray[{number}]]")
    st.caption(
        f"{written.video.name}: seed {record['seed']}, {record['frames']} frames of {record['width']}×"
        f"{record['height']} at {record['output_fps']:g} a second, made in "
        f"{words.duration(sum(written.seconds.values()))}, kept in {words.folder(written.video.parent)}"
    )
    downloads(written.files)
    if "sheet" in written.files:
        st.image(str(written.files["sheet"]), "All frames")


def play(path: Path, width: int) -> None:
    """A video in a loop, small ones larger. width: of its pixels."""
    st.video(str(path), loop=True, autoplay=True, muted=True, width=max(_NARROWEST, min(width, _WIDEST)))


def downloads(files: Mapping[str, Path], key: str = "result") -> None:
    """Buttons for the files of a result, by what they are. key: of the place, as a result may be shown twice."""
    wanted = [
        ("mp4", files["video"], "video/mp4"),
        ("Grid", files.get("sheet"), "image/png"),
        ("Settings", files["json"], "application/json"),
    ]
    columns = st.columns(4)
    for column, (label, path, kind) in zip(columns, wanted):
        if path is not None and path.is_file():
            _download(column, label, path.read_bytes(), path.name, kind, key)
    video = files["video"]
    if video.suffix == ".mp4" and video.is_file():
        try:
            _download(columns[3], "GIF", gif(str(video), stamp(video)), f"{video.stem}.gif", "image/gif", key)
        except (UserError, OSError) as error:
            columns[3].caption(str(error))


def _download(column: Any, label: str, content: bytes, name: str, kind: str, key: str) -> None:
    column.download_button(
        label, content, name, kind, icon=":material/download:", on_click="ignore", width="stretch", key=f"{key} {name}"
    )


@st.cache_data(max_entries=16, show_spinner="Making the GIF")
def gif(path: str, stamp: tuple[int, int]) -> bytes:
    """The bytes of a GIF of a video file. stamp: its `gm.web.state.stamp`, so that another file of that name is another
    GIF. (Streamlit leaves arguments that begin with an underscore out of account.)"""
    with open_video(path) as source, tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "video.gif"
        write_gif(source.frames(range(source.length)), target, source.fps, read_about(path))
        return target.read_bytes()
