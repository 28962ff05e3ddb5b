"""The column of inputs: the model, the picture, the settings."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

import streamlit as st

from gm import places, segments
from gm.checkpoint.published import VERSIONS, download_command
from gm.errors import UserError
from gm.options import ModelSettings, VideoSettings
from gm.web import pictures, words
from gm.web.messages import Load
from gm.web.settings import (
    CHOICES,
    FIELDS,
    OWN_CAMERA,
    PRESETS,
    SETTINGS,
    TEXTS,
    cameras,
    config_of,
    defaults,
    help_of,
    preset,
    video_settings,
)  # fmt: skip
from gm.web.state import running, server, submit

if TYPE_CHECKING:
    from gm.picture import Picture


class Asked(NamedTuple):
    """What the inputs say now. None where a message says why there is none."""

    model: ModelSettings | None
    picture: Picture | None
    video: VideoSettings | None


def show() -> Asked:
    """Draw the column; returns `Asked`."""
    state = st.session_state
    model = _model()
    picture = pictures.show()
    _settings()
    try:
        _longer()
        end = pictures.end_of(picture)
        video = video_settings(state.version, _values(), server()[0].output_dir, state.end and str(state.end))
    except UserError as error:
        st.error(words.plain(error))  # below what is folded away
        return Asked(model, picture, None)
    return Asked(model, picture and picture._replace(end=end), video)


def _values() -> dict[str, Any]:
    state = st.session_state
    return {name: state[name] for name in (*SETTINGS, "height", "width")}


def _model() -> ModelSettings | None:
    state, (settings, queue, _) = st.session_state, server()
    missing = {version for version in VERSIONS if settings.missing(version)}
    st.selectbox(
        "Model",
        VERSIONS,
        key="version",
        on_change=_new_version,
        help=help_of("version"),
        format_func=lambda version: f"{version} (no weights yet)" if version in missing else version,
    )
    if state.version in missing:
        st.info(f"The weights of {state.version} are not there. Get them with the next two lines, then press R:")
        command = download_command(state.version, settings.checkpoints_dir)
        st.code(f"python -m {places.install('download')}\n{command}", language="bash")
        return None
    offered = cameras(state.version)
    if len(offered) > 1:
        st.selectbox(
            "Camera",
            list(offered),
            key="camera",
            help="A small file of changes (LoRA) that makes this model "
            "move the camera. On the command line: --SVD.delta",
        )
    model = settings.model(state.version, state.get("camera"))
    loaded = queue.loaded and queue.model == model
    columns = st.columns([2, 3], vertical_alignment="center")
    if columns[0].button(
        "Load model", disabled=loaded or running() is not None, width="stretch", help="Load it now; Sample does it too"
    ):
        video = VideoSettings({}, output_dir=settings.output_dir)
        submit(Load(model, video, (state.height, state.width)))
    columns[1].caption(_memory(model, loaded))
    return model


def _memory(model: ModelSettings, loaded: bool) -> str:
    """The estimate for the settings of now against what is free."""
    state, (_, queue, _) = st.session_state, server()
    ready = queue.ready if queue.model == model else None
    free = f"{words.free_memory()} of memory are free"
    if ready is None:
        return f"Not loaded; {free}."
    try:
        video = video_settings(state.version, _values(), server()[0].output_dir)
        options = config_of(state.version).sampling.options(**video.sampling)
        kept = segments.length(options, video) if video.segments > 1 else 0
        ends = bool(video.end_image) or video.loop
        stages = ready.basis.stages((state.height, state.width), options, kept=kept, ends=ends)
    except UserError:
        return free
    stage = max(stages, key=lambda name: stages[name].own)
    head = "Loaded" if loaded else "Not all loaded"
    return f"{head}. These settings need about {words.gigabytes(stages[stage].own)} in all, in {stage}; {free}."


def _new_version() -> None:
    st.session_state.update(defaults(st.session_state.version), preset="The model's own", camera=OWN_CAMERA, note=None)


def _number(name: str, where: Any = st, disabled: bool = False) -> None:
    field = FIELDS[name]
    kind = type(field.step)
    where.number_input(
        field.label,
        kind(field.least),
        kind(field.most),
        key=name,
        step=field.step,
        help=help_of(name),
        format="%d" if kind is int else "%g",  # all digits of what counts
        disabled=disabled,
    )


def _settings() -> None:
    state = st.session_state
    if state.preset is not None and not preset(state.preset, state.version).items() <= _values().items():
        state.preset = None  # something was changed by hand
    st.selectbox(
        "Preset",
        list(PRESETS),
        key="preset",
        on_change=_new_preset,
        placeholder="Chosen by hand",
        help="Steps, sampler, motion and guidance together; everything can be changed afterwards",
    )
    columns = st.columns(2)
    _number("num_frames", columns[0])
    _number("sampling_steps", columns[1])
    columns = st.columns([3, 1], vertical_alignment="bottom")
    _number("seed", columns[0])
    columns[1].button("Dice", icon=":material/casino:", on_click=_roll, width="stretch", help="Another seed, by chance")
    motion = FIELDS["motion_bucket_id"]
    st.slider(motion.label, motion.least, motion.most, key=motion.name, step=motion.step, help=help_of(motion.name))
    columns = st.columns(2)
    _number("fps", columns[0])
    _number("noise_aug_strength", columns[1])
    with st.expander("More settings"):
        columns = st.columns(2)
        _number("min_guidance", columns[0])
        _number("max_guidance", columns[1])
        for index, (name, (label, known)) in enumerate(CHOICES.items()):
            columns[index % 2].selectbox(label, known, key=name, help=help_of(name))
        _number("decode_chunk_size", columns[0])
        _number("num_videos", columns[1])


def _longer() -> None:
    """How the video ends, and longer ones."""
    state = st.session_state
    with st.expander("Loop, end picture, longer videos"):
        st.checkbox("Loop", key="loop", help=help_of("loop"))
        pictures.show_end()
        columns, one = st.columns(2), state.segments == 1
        _number("segments", columns[0])
        _number("overlap", columns[1], disabled=one)
        for column, (name, label) in zip(columns, TEXTS.items()):
            column.text_input(label, key=name, help=help_of(name), disabled=one, placeholder="the same for all")


def _new_preset() -> None:
    state = st.session_state
    if state.preset is not None:
        state.update(preset(state.preset, state.version))


def _roll() -> None:
    st.session_state.seed = random.randrange(2**32)
