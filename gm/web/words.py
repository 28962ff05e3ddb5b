"""Numbers in words: what is being done, how long it will take, how good a video is. No streamlit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from gm import memory
from gm.events import Compiling, Decoding, Encoding, Loading, Sampling, Started

_PARTS = {"clip": "CLIP", "condition_encoder": "the picture's encoder", "unet": "the UNet", "decoder": "the decoder"}
# (least dB, words) of the first frame against the picture
_FIDELITY = (
    (35, "hardly to be told from the picture"),
    (28, "close to the picture"),
    (22, "like the picture"),
    (0, "far from the picture"),
)
# (most jumps of the mean brightness, of 255, words)
_FLICKER = ((0.5, "no flicker to be seen"), (2, "a little flicker"), (float("inf"), "it flickers"))
_MARKDOWN = re.compile(r"[\\`*_\[\]<>~$&#|]|:(?=\w)")
_STILL = 8  # motion buckets below which nothing seems to move


def plain(text: object) -> str:
    """A text from elsewhere for where streamlit expects Markdown: shown as it is, line for line."""
    return _MARKDOWN.sub(r"\\\g<0>", unicode(str(text))).replace("\n", "  \n")


def unicode(text: str) -> str:
    """A text that browsers can be sent: of a name that is not UTF-8 Python makes lone surrogates, which are none."""
    return text.encode(errors="backslashreplace").decode()


def stage(event: object) -> tuple[str, float | None]:
    """(what is done, share that is done or None) of the last event of a request."""
    if isinstance(event, Loading):
        return f"Loading {_PARTS.get(event.part, event.part)}", event.done / max(1, event.total)
    if isinstance(event, Sampling):
        return f"Sampling: step {event.done} of {event.total}", event.done / event.total
    if isinstance(event, Decoding):
        return f"Decoding: frame {event.done} of {event.total}", event.done / event.total
    if isinstance(event, Compiling):
        return "Compiling the network for this size, once", None
    if isinstance(event, (Encoding, Started)):
        return "Reading the picture", None
    return "Starting the model's process", None


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def place(number: int) -> str:
    """A person's place in the queue, from how many come before."""
    others = "1 other comes" if number == 1 else f"{number} others come"
    return f"In the queue: {others} first"


def quality(numbers: Mapping[str, float], asked: float | str) -> list[tuple[str, str, str]]:
    """[(what, in words, the number)] of the measures of a video. asked: its motion_bucket_id, or the text of its
    segments' ones, which the motion of the whole is not compared with."""
    if not numbers:
        return []
    fidelity, measured, flicker = (numbers[name] for name in ("first_frame_psnr", "motion_bucket", "flicker"))
    said = next(words for least, words in _FIDELITY if fidelity >= least)
    moves = (
        "it hardly moves"
        if measured < _STILL
        else "asked of each segment by itself"
        if isinstance(asked, str)
        else "more than asked for"
        if measured > 1.5 * asked + _STILL
        else "less than asked for"
        if measured < asked / 1.5 - _STILL
        else "about what was asked for"
    )
    shakes = next(words for most, words in _FLICKER if flicker <= most)
    return [
        ("First frame", said, f"{fidelity:.1f} dB"),
        ("Motion", moves, f"{measured:.0f}, asked {asked if isinstance(asked, str) else f'{asked:g}'}"),
        ("Brightness", shakes, f"{flicker:.2f} of 255"),
    ]


def folder(path: str | Path) -> str:
    """A folder as people call it: from the one that the page was started in, where it lies in that."""
    path, here = Path(path), Path.cwd()
    return str(path.relative_to(here)) if here in path.parents else str(path)


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def free_memory() -> str:
    """What can still be taken, in words."""
    free = memory.available_memory()
    return "unknown" if free is None else gigabytes(free)
