"""What the server holds for everybody, and what each browser's session holds. With streamlit."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from gm import interrupts
from gm.checkpoint.published import TINY
from gm.console import say
from gm.data import outputs
from gm.errors import UserError
from gm.places import DEMO
from gm.web import words
from gm.web.queue import Queue
from gm.web.settings import OWN_CAMERA, defaults, read_arguments
from gm.web.uploads import Uploads

if TYPE_CHECKING:
    from gm.web.messages import Load, Make
    from gm.web.queue import Ticket
    from gm.web.settings import Server

BY_BYTES = {type(Path()): os.fsencode}  # how streamlit's caches are to tell paths apart: names need not be UTF-8
_REQUEST = "request"  # of the page's address: the key of its last ticket


@st.cache_resource(show_spinner=False)
def server() -> tuple[Server, Queue, Uploads]:
    """(`gm.web.settings.Server`, `Queue`, `Uploads`) of this server, ended with it."""
    try:
        settings = read_arguments()
        outputs.make_folder(settings.output_dir)
        uploads = Uploads()
    except SystemExit as end:  # it was told on the terminal; streamlit would serve an empty page
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
    except (UserError, OSError) as error:
        say(f"error: {error}")
        os._exit(1)
    _share_memory()
    queue = Queue()
    for close in (queue.close, uploads.close):
        atexit.register(close)
        interrupts.add(close)
    return settings, queue, uploads


def _share_memory() -> None:
    """Streamlit starts a thread for each change of the page, and glibc lets each set memory apart; and once pictures of
    megabytes were freed, it keeps room for more. Both would make the process grow for hours."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-8, 1)  # M_ARENA_MAX
        mallopt(-3, 1 << 18)  # M_MMAP_THRESHOLD: larger pieces go back to the system


def begin() -> None:
    """Give a new session its values: svd_tiny, the demo picture, the model's own settings; and the request that its
    page's address names, from before the page was loaded anew."""
    state = st.session_state
    if "version" not in state:
        key = st.query_params.get(_REQUEST)
        ticket = None if key is None else server()[1].find(key)
        state.update(
            version=TINY,
            **defaults(TINY),
            preset="The model's own",
            camera=OWN_CAMERA,
            ticket=ticket,
            lost=key is not None and ticket is None,
            view="Motion sweep" if ticket is not None and ticket.sweep else "Video",
            note=None,
            crop=50,
            picture=DEMO,
            picture_upload=None,
            picture_sent=None,
            end=None,
            end_upload=None,
            end_sent=None,
        )


def running() -> Ticket | None:
    """The session's ticket while its request waits or is under way, else None."""
    ticket = st.session_state.ticket
    return ticket if ticket is not None and ticket.ended is None else None


def submit(request: Load | Make) -> None:
    """Make a request the session's own and draw the page anew; a message where there are too many."""
    try:
        ticket = server()[1].submit(request)
    except UserError as error:
        st.error(words.plain(error))
        return
    st.session_state.update(ticket=ticket, lost=False)
    st.query_params[_REQUEST] = ticket.key
    st.rerun()


@st.fragment(run_every=30)
def stay() -> None:
    """Tell the queue now and then that the page is open, whatever it shows."""
    ticket = running()
    if ticket is not None:
        server()[1].place(ticket)


def stamp(path: Path) -> tuple[int, int]:
    """What tells a file from another one that has taken its name: (time of writing, bytes); zeros where there is none.
    For what is cached."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def use(
    path: Path,
    values: dict[str, Any],
    version: str | None = None,
    end: Path | None = None,
    note: str | None = None,
) -> None:
    """Take pictures and settings over, as of an earlier result. note: of what could not be, shown below the picture.
    For callbacks: before the controls are drawn."""
    state = st.session_state
    if version is not None:
        state.version = version
    state.update({**defaults(state.version), **values})
    state.update(picture=path, end=end, crop=50, preset=None, view="Video", note=note)
    state.uploader = state.get("uploader", 0) + 1  # an empty one
