"""What a program tells its user while it works: progress bars, times, memory, versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from gm import __version__
from gm.events import Compiling, Decoding, Failed, Loading, Sampling, Skipped, Warned, Written

if TYPE_CHECKING:
    from gm.events import Event

_Item = TypeVar("_Item")
LIBRARIES = (
    "mindspore",
    "numpy",
    "safetensors",
    "pillow",
    "av",
    "imageio-ffmpeg",
    "opencv-python",
    "opencv-python-headless",
)


def progress_bar(total: float | None, description: str, unit: str, scale: bool = False, start: float = 0) -> tqdm:
    """A bar on stderr with rate and time left; `scale` writes large counts as k, M, G. start: what is done already."""
    return tqdm(total=total, initial=start, desc=description, unit=unit, unit_scale=scale, file=sys.stderr)


def progress(items: Iterable[_Item], description: str, unit: str, total: int | None = None) -> Iterable[_Item]:
    """The items, counted by such a bar. total: how many, where they do not say it themselves."""
    return tqdm(items, total=total, desc=description, unit=unit, file=sys.stderr)


def say(text: str) -> None:
    """A line on stderr, above the bars."""
    tqdm.write(text, file=sys.stderr)


def show(events: Iterable[Event], who: str = "") -> None:
    """Lines and bars on the terminal for the events of `gm.job.Job.run`, until there are no more.

    who: what begins each line where several processes share the terminal; there are no bars then.
    """
    bar: tqdm | None = None
    try:
        for event in events:
            if isinstance(event, Warned):
                say(f"{who}warning: {event.text}")
            elif isinstance(event, Failed):
                say(f"{who}error: {event.path}: {event.text}")
            elif isinstance(event, Skipped):
                print(f"{who}{event.video}: was there already")
            elif isinstance(event, Compiling):
                print(
                    f"{who}graph mode: compiling the network for this size; the first step takes long", file=sys.stderr
                )
            elif isinstance(event, Written):
                times = ", ".join(f"{name} {value:.1f} s" for name, value in event.seconds.items())
                print(f"{who}{event.video}: {times}, {sum(event.seconds.values()):.1f} s in all")
            elif isinstance(event, (Loading, Sampling, Decoding)) and not who:
                if bar is None or event.done == 0:
                    bar = _bar(event)
                bar.update(event.done - bar.n)
                if event.done == event.total:
                    bar.close()
    finally:
        if bar is not None:
            bar.close()


def _bar(event: Loading | Sampling | Decoding) -> tqdm:
    if isinstance(event, Loading):
        return progress_bar(event.total, f"loading {event.part}", " values", scale=True)
    name, unit = ("sampling", "step") if isinstance(event, Sampling) else ("decoding", "frame")
    return progress_bar(event.total, name, unit)


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the wall-clock time of the body to seconds[name]."""
    start = time.monotonic()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.monotonic() - start


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes: host memory, memory-mapped weights included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def versions() -> dict[str, str]:
    """{library: version} of what decides the result, this program and the machine's architecture included."""
    found = {"svd-mindspore": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
