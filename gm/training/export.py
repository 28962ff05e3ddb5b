"""Weights out of a run, for image_to_video.py: the trained part alone or the whole model under its original names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gm.checkpoint.delta import write_delta
from gm.checkpoint.lora import low_rank, merged
from gm.checkpoint.writer import write_safetensors


def export(folder, kind, base, names, weights, ema=None, lora_alpha=None):
    """Write <kind>.safetensors, and <kind>_ema.safetensors where there is a running mean; older ones are replaced.

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
    return written


def _write_delta(path, base, trained, lora_alpha):
    alpha = {} if lora_alpha is None else {"lora_alpha": str(lora_alpha)}
    write_delta(path, trained, {**base.record, **alpha})


def _write_full(path, base, trained, lora_alpha):
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
