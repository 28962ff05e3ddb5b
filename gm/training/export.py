"""Weights out of a run, for image_to_video.py: the trained part alone or the whole model under its original names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from mindspore import Parameter

from gm.checkpoint.delta import write_delta
from gm.checkpoint.lora import low_rank, merged
from gm.checkpoint.writer import write_safetensors
from gm.console import say
from gm.training.ema import Ema
from gm.weights import ModelWeights


def export(
    folder: str | Path,
    kind: str,
    base: ModelWeights,
    names: list[str],
    weights: Iterable[Parameter],
    ema: Ema | None = None,
    lora_alpha: float | None = None,
) -> list[Path]:
    """Write <kind>.safetensors, and <kind>_ema.safetensors where there is a running mean; older ones are replaced,
    and those of the other kind set aside.

    kind: "delta" or "full". names: full names of the trained weights; weights: their float32 parameters.
    lora_alpha: of the low-rank changes, where the trained weights are such.
    Returns the paths.
    """
    write = {"delta": _write_delta, "full": _write_full}[kind]
    Path(folder).mkdir(parents=True, exist_ok=True)  # it may have been deleted during the run
    written = []
    for suffix, parameters in (("", weights), ("_ema", ema.means if ema else None)):
        if parameters is not None:
            path = Path(folder) / f"{kind}{suffix}.safetensors"
            write(path, base, {name: p.asnumpy() for name, p in zip(names, parameters)}, lora_alpha)
            written.append(path)
    _set_aside(Path(folder), [*written, *base.files()])
    return written


def _set_aside(folder: Path, used: list[Path]) -> None:
    """Rename weights of an earlier step, of when train.save was another: a command as before, or one that names the
    folder, would take them for the last ones. used: what was written now, and what the run starts from."""
    for kind in ("delta", "full"):
        for path in (folder / f"{kind}.safetensors", folder / f"{kind}_ema.safetensors"):
            if path.exists() and not any(path.samefile(other) for other in used):
                aside = path.with_name(f"earlier_{path.name}")
                os.replace(path, aside)
                say(f"warning: {path} is of an earlier step, and is {aside.name} now")


def _write_delta(path: Path, base: ModelWeights, trained: dict[str, np.ndarray], lora_alpha: float | None) -> None:
    alpha = {} if lora_alpha is None else {"lora_alpha": str(lora_alpha)}
    write_delta(path, trained, {**base.record, **alpha})


def _write_full(path: Path, base: ModelWeights, trained: dict[str, np.ndarray], lora_alpha: float | None) -> None:
    """What was not trained keeps the dtype that the base has; low-rank changes are merged into the weights."""
    if lora_alpha is not None:
        trained = {
            name: merged(base.read(name), trained[down], trained[up], lora_alpha)
            for name, (down, up) in low_rank(trained).items()
        }
    entries = [
        (name, shape, np.float32 if name in trained else base.dtype(name)) for name, shape in base.shapes.items()
    ]
    write_safetensors(path, entries, lambda name: trained[name] if name in trained else base.read(name))
