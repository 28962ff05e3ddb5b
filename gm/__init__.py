"""Stable Video Diffusion on MindSpore: networks, sampling, checkpoints, data and training.

What other programs use is here by name, `from gm import ImageToVideo`; docs/api.md shows it at work.
"""

from __future__ import annotations

# Nothing that takes long to import: until a program has run `gm.interrupts.catch`, Ctrl-C is a traceback.
import importlib
import importlib.util
import os
import re

TYPE_CHECKING = False  # typing's own takes time
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.2.0"


def _cap_onednn_isa() -> None:
    """Keep MindSpore >= 2.9 off oneDNN's reference convolution, which is 100 times slower.

    On CPUs with AVX-512 those releases find no compiled kernel for Conv2D and fall back to `jit_uni_ncsp:conv+ref:any`
    (320 channels, 3x3, 36x64: 10.7 s instead of 0.085 s); limited to AVX2 they use `x64:gemm:jit`. oneDNN reads the
    variable once, when mindspore is first imported, so this package is the one place that can set it in time. 2.7 and
    2.8 are fastest without the limit.
    """
    if _mindspore_version() >= (2, 9):
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")


def _mindspore_version() -> tuple[int, ...]:
    """Of the installed package as (2, 8), without importing it; () where there is none."""
    found = importlib.util.find_spec("mindspore")
    for name in os.listdir(os.path.dirname(os.path.dirname(found.origin))) if found and found.origin else ():
        numbers = re.match(r"mindspore-(\d+)\.(\d+).*\.dist-info$", name)  # "2.9rc1" too
        if numbers:
            return int(numbers[1]), int(numbers[2])
    return ()


_cap_onednn_isa()

# {public name: the module that has it}; each is imported when it is asked for.
_PUBLIC = {
    "ImageToVideo": "gm.pipeline",
    "Options": "gm.options",
    "Plan": "gm.training.plan",
    "Trainer": "gm.training.trainer",
    "UserError": "gm.errors",
    "choose_size": "gm.sizes",
    "convert": "gm.checkpoint.conversion",
    "evaluate": "gm.data.metrics",
    "expected_parameters": "gm.model",
    "fit_image": "gm.data.images",
    "load_image": "gm.data.images",
    "load_model_config": "gm.model_config",
    "load_settings": "gm.training.settings",
    "open_video": "gm.data.video_reader",
    "set_device": "gm.ops",
    "train": "gm.training.loop",
    "write_gif": "gm.data.videos",
    "write_video": "gm.data.videos",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
