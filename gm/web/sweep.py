"""The picture at four motion buckets side by side, and how the motion that came out follows what was asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd
import streamlit as st

from gm.web import media, progress
from gm.web.messages import Make
from gm.web.results import start
from gm.web.state import submit

if TYPE_CHECKING:
    from gm.web.inputs import Asked
    from gm.web.queue import Result

BUCKETS = (20, 90, 160, 230)
_MOST = 255


def show(asked: Asked) -> None:
    """The button, then the request under way or the last sweep."""
    state = st.session_state
    shown = ", ".join(map(str, BUCKETS))
    pressed = start("Sweep", asked, f"Make four videos that differ in the motion asked for: {shown}")
    if pressed and asked.model and asked.picture and asked.video:
        videos = tuple(
            replace(
                asked.video,
                num_videos=1,
                segment_motion=None,  # it would be the motion of all four
                sampling={**asked.video.sampling, "motion_bucket_id": bucket},
            )
            for bucket in BUCKETS
        )
        submit(Make(asked.model, asked.picture, videos))
    under_way = progress.show(lambda ticket: ticket.sweep)
    ticket = state.ticket
    if ticket is None or not ticket.sweep:
        st.caption(f"One picture, one seed, and motion asked for as {shown}.")
        return
    if not under_way:
        progress.show_end(ticket)
        draw(ticket.results)


def draw(results: list[Result]) -> None:
    """Videos side by side, and the plot."""
    rows = []
    for column, result in zip(st.columns(len(BUCKETS)), results):
        asked, measured = result.written.record["motion_bucket_id"], result.numbers.get("motion_bucket")
        media.video(result.written.video, column, autoplay=True)
        column.markdown(f"Asked **{asked:g}**" + (f"  \nmeasured **{measured:.0f}**" if measured is not None else ""))
        if measured is not None:
            rows.append({"asked": asked, "measured": measured})
    if len(rows) > 1:
        st.altair_chart(chart(rows))
        st.caption(
            "Both by the scale of gm/data/motion.py, which svd_tiny was trained with. Stability AI has not "
            "published theirs, so for SVD only the order counts."
        )


def chart(rows: list[dict[str, Any]]) -> alt.LayerChart:
    """Asked against measured motion, with the line where they are equal."""
    scale = alt.Scale(domain=[0, _MOST])
    x, y = alt.X("asked", scale=scale, title="motion asked for"), alt.Y("measured", scale=scale, title="measured")
    same = (
        alt.Chart(pd.DataFrame({"asked": [0, _MOST], "measured": [0, _MOST]}))
        .mark_line(strokeDash=[4, 4], opacity=0.4, color="gray")
        .encode(x, y)
    )
    found = (
        alt.Chart(pd.DataFrame(rows))
        .mark_line(point=alt.OverlayMarkDef(size=70))
        .encode(x, y, tooltip=["asked", alt.Tooltip("measured", format=".0f")])
    )
    return (same + found).properties(height=260)
