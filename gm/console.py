"""What a program tells its user while it works: progress bars, times, memory, versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import resource
import sys
import time

from tqdm import tqdm

from gm import __version__

LIBRARIES = (
    "mindspore", "numpy", "safetensors", "pillow", "av", "imageio-ffmpeg", "opencv-python", "opencv-python-headless",
)


def progress_bar(total, description, unit, scale=False):
    """A bar on stderr with rate and time left; `scale` writes large counts as k, M, G."""
    return tqdm(total=total, desc=description, unit=unit, unit_scale=scale, file=sys.stderr)


def loading_bar(component, size):
    """For `gm.pipeline.ImageToVideo(on_load=…)`: a bar for `size` values, as a function of the values just loaded."""
    bar = progress_bar(size, f"loading {component}", " values", scale=True)

    def update(count):
        bar.update(count)
        if bar.n >= size:
            bar.close()

    return update


@contextlib.contextmanager
def timed(seconds, name):
    """Put the wall-clock time of the body into seconds[name]."""
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start


def peak_memory():
    """Largest resident memory of this process so far, in bytes: host memory, memory-mapped weights included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def versions():
    """{library: version} of what decides the result, this program and the machine's architecture included."""
    found = {"svd-mindspore": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
