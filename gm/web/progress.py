"""A request while it waits or is under way, and how it ended. Drawn anew every half second, without the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from PIL import Image

from gm.data.videos import contact_sheet
from gm.web import words
from gm.web.messages import Ended, Make
from gm.web.state import running, server

if TYPE_CHECKING:
    from gm.web.queue import Ticket

_EVERY = 0.5  # seconds
_COLUMNS = (7, 6, 5, 4)  # of the small frames; the first that leaves the fewest places empty
_SIDE = 160  # pixels that the longer side of a small frame is shown with at most


def show(kind: Callable[[Ticket], bool]) -> bool:
    """Draw the session's ticket, if it is of `kind` (a function of the ticket) and not ended; True if so."""
    ticket = running()
    if ticket is None:
        return False
    if not kind(ticket):
        st.info("Another request of this page is under way; it is shown where it was started.")
    _watch(ticket)
    return True


def show_end(ticket: Ticket) -> None:
    """Messages about a ticket that has ended."""
    for warning in dict.fromkeys(ticket.warnings):
        st.caption(f":material/info: {words.plain(warning[0].upper() + warning[1:])}.")
    ended = ticket.ended or Ended()
    if ended.cancelled:
        st.info("Cancelled. What it held is free again.")
    elif ended.fault:
        st.error(words.plain(ended.fault))


@st.fragment(run_every=_EVERY)
def _watch(ticket: Ticket) -> None:
    _, queue, _ = server()
    if ticket.ended is not None:
        st.rerun()
    number = queue.place(ticket)
    if number:
        st.progress(0.0, words.place(number))
    elif ticket.cancelled:
        st.progress(0.0, "Stopping after this step")
    else:
        text, share = words.stage(ticket.event)
        started, left = ticket.started, ticket.seconds_left()
        segments = ticket.request.videos[0].segments if isinstance(ticket.request, Make) else 1
        if segments > 1 and ticket.segment:
            text = f"Segment {ticket.segment} of {segments}. {text}"
        if started is not None and started.total > 1:
            text = f"Video {started.number} of {started.total}. {text}"
        st.progress(share or 0.0, text + (f", about {words.duration(left)} left" if left is not None else ""))
    if st.button("Cancel", icon=":material/close:", key="cancel", disabled=ticket.cancelled):
        queue.cancel(ticket)
    if ticket.glimpse is not None:
        st.image(_sheet(ticket.glimpse), "What it is becoming", output_format="PNG")


def _sheet(frames: np.ndarray) -> np.ndarray:
    """Small frames as one picture, large enough to be seen."""
    height, width = frames.shape[1:3]
    factor = max(1, _SIDE // max(height, width))
    size = (width * factor, height * factor)
    larger = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames]
    return contact_sheet(np.stack(larger), min(_COLUMNS, key=lambda columns: -len(frames) % columns))
