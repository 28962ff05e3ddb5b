"""The page as a whole: the inputs at the left, at the right a video, a sweep or the gallery."""

from __future__ import annotations

import streamlit as st

from gm.web import gallery, inputs, look, results, state, sweep

VIEWS = {"Video": results.show, "Motion sweep": sweep.show, "Gallery": gallery.show}


def show() -> None:
    """Draw the page; called again for everything that is pressed."""
    st.set_page_config("Stable Video Diffusion", ":material/movie:", "wide", "collapsed")
    look.apply()
    state.begin()
    st.title("Stable Video Diffusion", anchor=False)
    left, right = st.columns([4, 7], gap="large")
    with left:
        asked = inputs.show()
    if state.running() is not None:
        state.stay()
    with right:
        view = st.segmented_control("View", list(VIEWS), key="view", label_visibility="collapsed")
        VIEWS[view or "Video"](asked)
