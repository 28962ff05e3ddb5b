"""Earlier results from the output folder, newest first: to play, to compare two, to use their settings again."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import streamlit as st

from gm.checkpoint.published import VERSIONS
from gm.web import media, state, words
from gm.web.gallery_files import DECIDING, camera_of, items, settings_of, unlike, version_of
from gm.web.results import downloads

if TYPE_CHECKING:
    from gm.web.gallery_files import Item
    from gm.web.inputs import Asked

_MORE = 6  # results that are shown at first, and with each press
_SAID = (
    "seed",
    "num_frames",
    "sampling_steps",
    "sampler",
    "schedule",
    "motion_bucket_id",
    "fps",
    "noise_aug_strength",
    "min_guidance",
    "max_guidance",
)
_NAMED = {"config", "checkpoint", "height", "width", "delta"}  # said in other words
_USUAL = {"segments": 1, "cache_interval": 1, "amp_level": "O0"}  # which need not be said, as None and False


def show(_asked: Asked) -> None:
    """Draw the gallery."""
    settings, queue, _ = state.server()
    found = items(settings.output_dir)
    if not found:
        st.caption(words.plain(f"Nothing yet in {words.folder(settings.output_dir)}."))
        return
    by_name = {item.name: item for item in found}
    chosen = st.multiselect("Compare two", list(by_name), max_selections=2, placeholder="Choose two results")
    if chosen:
        for column, name in zip(st.columns(2), chosen):
            with column:
                _play(by_name[name], autoplay=True)
                _said(by_name[name])
        st.divider()
    shown = st.session_state.setdefault("shown", _MORE)
    for first in range(0, min(shown, len(found)), 2):
        for column, item in zip(st.columns(2, gap="medium"), found[first : first + 2]):
            with column:
                _card(item)
    if shown < len(found) and st.button(f"More ({len(found) - shown})", width="stretch"):
        st.session_state.shown += _MORE
        st.rerun()


def _card(item: Item) -> None:
    _play(item)
    when = datetime.datetime.fromtimestamp(item.time).strftime("%d %B %Y, %H:%M")
    st.markdown(f"**{words.plain(item.name.replace('_', ' '))}**  \n:small[:gray[{when}]]")
    version = version_of(item.record)
    known = version if version in VERSIONS else None
    settings = state.server()[0]
    model = settings.model(known, camera_of(item.record)) if known and settings.missing(known) is None else None
    left = unlike(item, model)
    st.button(
        "Use these settings again",
        key=f"again {item.name}",
        icon=":material/replay:",
        width="stretch",
        on_click=state.use,
        args=(item.files["image"], settings_of(item.record), known, item.files.get("end")),
        kwargs={"note": f"Not as it was in {item.name}: {'; '.join(left)}." if left else None},
    )
    with st.expander("Settings and files"):
        _said(item)
        if "video" in item.files:
            downloads(item.files, f"gallery {item.name}", ask=True)


def _play(item: Item, autoplay: bool = False) -> None:
    video = item.files.get("video")
    if video is not None and video.suffix == ".mp4":
        media.video(video, autoplay=autoplay)
    elif video is not None and video.suffix == ".gif":
        media.picture(video)
    else:
        media.picture(item.files.get("sheet", item.files["image"]))


def _said(item: Item) -> None:
    """Its settings in a line each: those that everybody looks at, and what else decided it."""
    record = item.record
    rows = [("model", version_of(record)), ("size", f"{record.get('width')}×{record.get('height')}")]
    rows += [(name, record.get(name)) for name in _SAID]
    rows += [("camera", camera_of(record))] if record.get("delta") else []
    usual = {**_USUAL, "output_fps": record.get("fps")}
    others = (name for name in DECIDING if name not in {*_SAID, *_NAMED})
    rows += [(name, record[name]) for name in others if record.get(name) not in (None, False, usual.get(name))]
    texts = ((name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in rows)
    lines = [f"| {words.plain(name)} | {words.plain(text.replace(chr(10), ' '))} |" for name, text in texts]
    st.markdown("\n".join(["| | |", "|---|---|", *lines]))
