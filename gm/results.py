"""The files of a finished video: the video itself and what belongs to it; no mindspore here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from gm import __version__
from gm.data import outputs, videos

# Of the name of a video, behind the base, by `gm.options.OUTPUT_TYPES`.
ENDINGS = {"mp4": ".mp4", "gif": ".gif", "frames": "_frames", "latents": ".npy"}


def made_by(model: str, weights: str) -> str:
    """The line that a video's metadata tells of its making: that it was generated, by which model and version.

    model, weights: names. "trainedAlgorithmicMedia" is the IPTC's digital source type for such pictures, by which
    programs know them.
    """
    return (
        f"AI-generated video (trainedAlgorithmicMedia). Model: {model}, weights {weights}. "
        f"Program: svd-mindspore {__version__}"
    )


def read_about(path: str | Path) -> str:
    """What `made_by` wrote into a video's or a picture's metadata, or any other comment there; "" without one."""
    import av  # nobody who only writes waits for it

    path = Path(path)
    try:
        if path.suffix.lower() in (".gif", ".png"):
            with Image.open(path) as picture:
                found = picture.info.get("comment", picture.info.get("Comment", ""))
        else:
            with av.open(str(path)) as container:
                found = container.metadata.get("comment", "")
    except (OSError, av.error.FFmpegError):  # no such file, or none that has metadata
        return ""
    return found.decode("ascii", "replace") if isinstance(found, bytes) else found


def fingerprint(path: str | Path) -> list[str]:
    """[name, SHA-256] of a file, or of all files of a folder, by which it is known again."""
    path, digest = Path(path), hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        digest.update(f"{file.name if path.is_dir() else ''} {file.stat().st_size}\n".encode(errors="replace"))
        digest.update(file.read_bytes())
    return [path.name, digest.hexdigest()]


def write_results(
    base: str | Path,
    kind: str,
    latents: np.ndarray,
    frames: np.ndarray | None,
    fps: float,
    about: str,
    pictures: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Path]:
    """The video and what belongs to it, as base.mp4, base_image.png, base_sheet.png.

    Args:
        base: path that the files' names begin with. kind: one of `gm.options.OUTPUT_TYPES`.
        latents: float32 (t, z, h/8, w/8). frames: uint8 (t, h, w, 3), None for latents. fps: of the file.
        about: what `made_by` returned. pictures: {"image", perhaps "end": uint8 (h, w, 3)} that the model saw.

    Returns:
        {"video", those of `pictures`, perhaps "sheet": path}.
    """
    files = {"video": Path(f"{base}{ENDINGS[kind]}")}
    if kind == "latents" or frames is None:  # what took long comes first
        outputs.write_npy(latents, files["video"])
    elif kind == "frames":
        videos.write_frames(frames, files["video"], about)
    else:
        write = {"mp4": videos.write_video, "gif": videos.write_gif}[kind]
        write(frames, files["video"], fps, about)
    for name, picture in (pictures or {}).items():
        files[name] = Path(f"{base}_{name}.png")
        outputs.write_png(picture, files[name])
    if frames is not None:
        files["sheet"] = Path(f"{base}_sheet.png")
        outputs.write_png(videos.contact_sheet(frames), files["sheet"])
    return files
