"""What the server holds for everybody, and what each browser's session holds. With streamlit."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os

import streamlit as st

from gm import interrupts
from gm.checkpoint.published import TINY
from gm.places import DEMO
from gm.web.queue import Queue
from gm.web.settings import OWN_CAMERA, defaults, read_arguments
from gm.web.uploads import Uploads


@st.cache_resource(show_spinner=False)
def server():
    """(`gm.web.settings.Server`, `Queue`, `Uploads`) of this server, ended with it."""
    try:
        settings = read_arguments()
    except SystemExit as end:  # it was told on the terminal; streamlit would serve an empty page
        os._exit(end.code or 0)
    _share_memory()
    queue, uploads = Queue(), Uploads()
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    for end in (queue.close, uploads.close):
        atexit.register(end)
        interrupts.add(end)
    return settings, queue, uploads


def _share_memory():
    """Streamlit starts a thread for each change of the page, and glibc lets each set memory apart; and once pictures of
    megabytes were freed, it keeps room for more. Both would make the process grow for hours."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-8, 1)  # M_ARENA_MAX
        mallopt(-3, 1 << 18)  # M_MMAP_THRESHOLD: larger pieces go back to the system


def begin():
    """Give a new session its values: svd_tiny, the demo picture, the model's own settings."""
    state = st.session_state
    if "version" not in state:
        state.update(version=TINY, **defaults(TINY), preset="The model's own", camera=OWN_CAMERA, ticket=None, crop=50,
                     picture=DEMO, picture_upload=None, picture_sent=None, end=None, end_upload=None, end_sent=None)


def running():
    """The session's ticket while its request waits or is under way, else None."""
    ticket = st.session_state.ticket
    return ticket if ticket is not None and ticket.ended is None else None


def use(path, values, version=None, end=None):
    """Take pictures and settings over, as of an earlier result. For callbacks: before the controls are drawn."""
    state = st.session_state
    if version is not None:
        state.version = version
    state.update({**defaults(state.version), **values})
    state.update(picture=path, end=end, crop=50, preset=None, view="Video")
    state.uploader = state.get("uploader", 0) + 1  # an empty one
