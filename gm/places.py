"""Where the files that come with the program lie: beside gm/ in a checkout, within the packages where it is installed.

setup.py puts them there. No other module asks for its own place to find them.
"""

from __future__ import annotations

import os
from pathlib import Path

_GM = Path(__file__).resolve().parent
ROOT = _GM.parent  # of a checkout, or the folder that it is installed into
INSTALLED = (_GM / "configs").is_dir()
CONFIGS = _GM / "configs" if INSTALLED else ROOT / "configs"
ASSETS = _GM / "assets" if INSTALLED else ROOT / "assets"
GOLDENS = ROOT / "svd_tools" / "goldens" if INSTALLED else ROOT / "tests" / "goldens"
DEMO = ASSETS / "demo.png"


def config(path: str | Path) -> Path:
    """A YAML file's path as it is; where there is no such file, that of the config of this name that comes with the
    program: "svd", "svd.yaml" and "configs/svd.yaml" are found from every folder."""
    path = Path(path)
    if path.parent not in (Path(), Path("configs")) or path.is_file():
        return path
    own = CONFIGS / path.name
    found = [own, own.with_name(f"{own.name}.yaml")]
    return next((candidate for candidate in found if candidate.is_file()), path)


def weights() -> Path:
    """The folder where weights are kept unless another one is asked for."""
    if not INSTALLED:
        return ROOT / "checkpoints"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "svd_mindspore" / "checkpoints"


def command(script: str) -> str:
    """How a program is started here, by its file in a checkout: svd_tools/download.py -> svd-download if installed."""
    return COMMANDS[script] if INSTALLED else f"python {script}"


def spelled(text: str) -> str:
    """A text that names programs as a checkout starts them, with the names that they have here."""
    for script in COMMANDS:
        text = text.replace(f"python {script}", command(script))
    return text


def install(extra: str) -> str:
    """The command that installs what a part of the program needs; extra: as in pyproject.toml."""
    return f'pip install "svd-mindspore[{extra}]"' if INSTALLED else f"pip install -r requirements-{extra}.txt"


# {file of a checkout: the command that an installation has for it}; pyproject.toml makes them.
COMMANDS = {
    "image_to_video.py": "svd-image-to-video",
    "train.py": "svd-train",
    "svd_tools/check_dataset.py": "svd-check-dataset",
    "svd_tools/convert.py": "svd-convert",
    "svd_tools/download.py": "svd-download",
    "svd_tools/evaluate.py": "svd-evaluate",
    "svd_tools/inspect_weights.py": "svd-inspect-weights",
    "svd_tools/label_videos.py": "svd-label",
    "svd_tools/make_untrained.py": "svd-make-untrained",
    "svd_tools/merge.py": "svd-merge",
    "svd_tools/pretrain_tiny.py": "svd-pretrain-tiny",
    "svd_tools/preview.py": "svd-preview",
    "svd_tools/select_clips.py": "svd-select-clips",
    "svd_tools/verify.py": "svd-verify",
    "svd_tools/watermark.py": "svd-watermark",
}
