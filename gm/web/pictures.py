"""The picture of a video and the one that it ends with: uploads, size and crop, what the model gets of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from gm.data.images import SUFFIXES, image_size
from gm.errors import UserError
from gm.options import VideoSettings
from gm.picture import CENTRE, Picture, plan
from gm.sizes import choose_size, size_multiple
from gm.web import media, words
from gm.web.look import paste
from gm.web.settings import LARGEST_SIDE, config_of, help_of
from gm.web.state import BY_BYTES, DEMO, server, stamp

if TYPE_CHECKING:
    import numpy as np

_decoding = threading.Lock()  # one at a time: a picture may take 2 GB while it is read


def show() -> Picture | None:
    """Upload, size, crop and preview; returns the `Picture`, or None after a message."""
    state = st.session_state
    sent = st.file_uploader(
        "Picture: choose, drop or paste",
        type=[suffix[1:] for suffix in SUFFIXES],
        key=f"picture_{state.get('uploader', 0)}",
        help=help_of("image"),
    )
    paste()
    unkept = None
    try:
        if _take(sent, "picture", DEMO):
            state.update(crop=50, note=None)
    except UserError as error:
        unkept = str(error)
    preview = st.container()
    multiple = size_multiple(config_of(state.version).model)
    columns = st.columns(3, vertical_alignment="bottom")
    for column, name, label in zip(columns, ("width", "height"), ("Width", "Height")):
        column.number_input(label, multiple, LARGEST_SIDE, key=name, step=multiple, help=help_of(name))
    columns[2].button(
        "Its shape",
        on_click=_own_shape,
        width="stretch",
        help="Width and height of the picture's own shape, as the command line takes them without --height and --width",
    )
    if unkept:
        preview.error(words.plain(f"This picture cannot be used: {unkept}"))
        return None
    try:
        height, width = size_of(state.picture, stamp(state.picture))
        across, down = width * state.height - height * state.width, 0
        across, down = max(0, across), max(0, -across)
        if across or down:
            st.slider(
                "Crop, from left to right" if across else "Crop, from top to bottom",
                0,
                100,
                key="crop",
                format="%d%%",
                help="Which part of the picture is kept where its shape is another",
            )
        crop = (state.crop / 100 if across else 0.5, state.crop / 100 if down else 0.5)
        picture = fitted(state.version, state.picture, stamp(state.picture), state.height, state.width, crop)
    except UserError as error:
        preview.error(words.plain(_without_path(error, state.picture, "This picture")))
        return None
    caption = (
        f"What the model gets: {picture.change}"
        if state.picture != DEMO
        else f"The demo picture, as the model gets it: {picture.change}"
    )
    preview.image(picture.image, caption, width=min(2 * state.width, 320), output_format="PNG")
    if state.note:
        preview.info(words.plain(state.note))
    return picture


def show_end() -> None:
    """Upload of the picture that the video ends with. UserError where it cannot be kept."""
    state = st.session_state
    sent = st.file_uploader(
        "End picture",
        type=[suffix[1:] for suffix in SUFFIXES],
        help=help_of("end_image"),
        key=f"end_{state.get('uploader', 0)}",
    )
    try:
        _take(sent, "end", None)
    except UserError as error:
        raise UserError(f"The end picture cannot be used: {error}") from error
    upload = state.end_upload
    if state.end is not None and (upload is None or state.end != upload.path):  # of an earlier result
        media.picture(state.end, "The end picture of that result", width=160)
        st.button("Without it", on_click=state.update, kwargs={"end": None})


def end_of(picture: Picture | None) -> np.ndarray | None:
    """uint8 (h, w, 3) that the video is to end with, or None. UserError where it cannot be used."""
    state = st.session_state
    if state.end is None:
        return picture.image if picture and state.loop else None
    try:
        return fitted(state.version, state.end, stamp(state.end), state.height, state.width, CENTRE).image
    except UserError as error:
        raise UserError(_without_path(error, state.end, "The end picture")) from error


def _take(sent: Any, name: str, without: Path | None) -> bool:
    """Keep what was uploaded as the session's `name`, "picture" or "end", and forget the one before; `without`: what
    there is once it was taken away. True for a new one; UserError where it cannot be kept."""
    state, uploads = st.session_state, server()[2]
    number, before = None if sent is None else sent.file_id, state[f"{name}_upload"]
    if number == state[f"{name}_sent"]:
        return False
    now = None if sent is None else uploads.add(sent.getbuffer())  # UserError: it is tried again with the next change
    state[f"{name}_sent"], state[f"{name}_upload"] = number, now
    if now is not None:
        state[name] = now.path
    elif before is not None and state[name] == before.path:
        state[name] = without
    return now is not None


@st.cache_data(max_entries=32, show_spinner=False, hash_funcs=BY_BYTES)
def size_of(path: Path, stamp: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture's file. stamp: its `gm.web.state.stamp`."""
    with _decoding:
        return image_size(path)


@st.cache_data(max_entries=8, show_spinner=False, hash_funcs=BY_BYTES)
def fitted(
    version: str, path: Path, stamp: tuple[int, int], height: int, width: int, crop: tuple[float, float]
) -> Picture:
    """The `Picture` of a file for a version: what the model gets. stamp: the file's `gm.web.state.stamp`."""
    settings = VideoSettings({}, height=height, width=width, output_dir=server()[0].output_dir)
    with _decoding:
        return plan(config_of(version), settings, path, crop)


def _own_shape() -> None:
    state = st.session_state
    try:
        height, width = choose_size(config_of(state.version), size_of(state.picture, stamp(state.picture)))
    except UserError:
        return  # the preview says why
    if max(height, width) > LARGEST_SIDE:  # a control that is given more than it takes falls back to the least
        most = f"the page makes sides of {LARGEST_SIDE} pixels at most"
        state.note = f"Its shape is {width}×{height}, and {most}: use the command line"
        return
    state.update(height=height, width=width, note=None)


def _without_path(error: UserError, path: Path, what: str) -> str:
    """A message about an upload: its generated name means nothing to anybody."""
    text = str(error).replace(f"image {path}: ", "").replace(f"{path}: ", "").replace(f"image {path}", "it")
    return f"{what} cannot be used: {text.replace(str(path), 'it')}"
