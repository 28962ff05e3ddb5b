"""The trained part of a model alone: a safetensors file with some of its tensors, or with low-rank changes of them
(`gm.checkpoint.lora`), to be put on the whole one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from mindspore import Tensor

from gm.checkpoint.formats import open_checkpoint
from gm.checkpoint.lora import low_rank, merged
from gm.checkpoint.writer import write_safetensors
from gm.errors import UserError
from gm.precision import parameter_dtype, to_numpy

KIND = "svd-mindspore delta"
_UNET = "model.diffusion_model."
_SAMPLED_TENSORS, _SAMPLED_VALUES = 12, 4096
_LISTED = 10


def write_delta(path, arrays, base):
    """Write the trained tensors {full name: float32 array}.

    base: {str: str}, what `fingerprint` says of the model under them and, for low-rank changes, their "lora_alpha".
    """
    entries = [(name, array.shape, array.dtype) for name, array in arrays.items()]
    return write_safetensors(path, entries, arrays.__getitem__, {"format": KIND, **base})


def fingerprint(weights):
    """{"base_name", "base_size", "base_hash"} of a `gm.model.Weights`: file name, bytes and a hash of a few tensors.

    The hash is of values as float32, so that a file that was only converted keeps it. It covers at most 4096 values of
    each of 12 tensors spread over the names: enough to tell two models apart, not to prove them equal.
    """
    path = Path(weights.checkpoint.path)
    found = sampled_hash(weights.sources, lambda name: weights.checkpoint.read(weights.sources[name]))
    return {"base_name": path.name, "base_size": str(path.stat().st_size), "base_hash": found}


def sampled_hash(names, read):
    """16 hexadecimal digits that tell sets of tensors apart, as `fingerprint` says. read: function of a name."""
    names = sorted(names)
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, len(names) - 1, _SAMPLED_TENSORS).astype(int)):
        values = read(names[index]).ravel()
        picked = values[:: max(1, values.size // _SAMPLED_VALUES)][:_SAMPLED_VALUES]
        digest.update(names[index].encode())
        digest.update(np.ascontiguousarray(picked, np.float32).tobytes())
    return digest.hexdigest()[:16]


def apply_delta(target, path, weights=None, amp_level=None):
    """Put the tensors of a delta file on a loaded model.

    Args:
        target: the denoiser (or UNet) cell, or a dict from full checkpoint names to parameters.
        path: the file.
        weights: the `gm.model.Weights` that the target was loaded from, to compare with what the delta belongs to.
        amp_level: its dtype is what changed parameters get, where `Weights.load` left some narrow; None keeps theirs.

    Returns a list of warnings, one sentence each: empty if all is well.
    Raises UserError if the file is damaged, or holds a name or shape that the model does not have; then nothing was
    changed.
    """
    parameters = target if isinstance(target, dict) else _full_names(target)
    with open_checkpoint(path) as delta:
        _check(delta, parameters, path)
        for name in changed_names(delta):
            p = parameters[name]
            dtype = parameter_dtype(name, amp_level) if amp_level else p.dtype
            value = Tensor(changed(delta, name, lambda p=p: to_numpy(p)), dtype)
            p.set_dtype(dtype)
            p.set_data(value)
    return base_warnings(path, weights)


def check_delta(path, target):
    """Raise the UserError that `apply_delta` would raise, without changing anything."""
    with open_checkpoint(path) as delta:
        _check(delta, target if isinstance(target, dict) else _full_names(target), path)


def changed_names(delta):
    """Names of the parameters that an opened delta changes."""
    names, pairs = delta.names(), low_rank(delta.names())
    parts = {part for pair in pairs.values() for part in pair}
    return [name for name in names if name not in parts] + list(pairs)


def changed(delta, name, read):
    """The new value, float32, of a parameter that an opened delta changes; read(): its old value.

    A copy: the file may be deleted or replaced while the model is in use.
    """
    pair = low_rank(delta.names()).get(name)
    if pair is None:
        return np.array(delta.read(name), np.float32)
    down, up = (delta.read(part) for part in pair)
    return merged(read(), down, up, float(_metadata(delta.path).get("lora_alpha", len(down))))


def _full_names(cell):
    unet = getattr(cell, "unet", cell)
    return {_UNET + name: p for name, p in unet.parameters_and_names()}


def _check(delta, parameters, path):
    names = delta.names()
    shapes = {name: tuple(delta.shape(name)) for name in names}
    for name, (down, up) in low_rank(names).items():
        down, up = shapes.pop(down), shapes.pop(up)
        fits = len(down) == len(up) == 2 and down[0] == up[1]
        shapes[name] = (up[0], down[1]) if fits else f"the product of {up} and {down}"
    faults = [f"{name}: the model has no such parameter" for name in shapes if name not in parameters]
    faults += [
        f"{name}: {shape}, the model has {tuple(parameters[name].shape)}"
        for name, shape in shapes.items()
        if name in parameters and shape != tuple(parameters[name].shape)
    ]
    faults += [f"{name}: {delta.dtype(name)} is not floating-point" for name in names
               if not np.issubdtype(delta.dtype(name), np.floating)]
    if not names:
        faults = ["it holds no tensors"]
    if faults:
        more = [f"… and {len(faults) - _LISTED} more"] if len(faults) > _LISTED else []
        raise UserError("\n  ".join([f"{path} does not fit this model as a delta:", *faults[:_LISTED], *more]))


def base_warnings(path, weights):
    """Sentences for the user where a delta file does not belong to the `gm.model.Weights` under it, or may not."""
    metadata = _metadata(path)
    if metadata.get("format") != KIND:
        return [f"{path} was not written as a delta by train.py; whether it belongs to this model is not known"]
    if weights is None:
        return []
    found = fingerprint(weights)
    if found["base_hash"] == metadata.get("base_hash"):
        return []
    return [
        f"{path} was trained on {metadata.get('base_name')} ({metadata.get('base_size')} bytes), whose weights differ "
        f"from those of {found['base_name']} ({found['base_size']} bytes): expect a wrong result"
    ]


def _metadata(path):
    """The free text of a safetensors file's header, {} for another format. The file was opened before: it is whole."""
    with open(path, "rb") as file:
        length, start = int.from_bytes(file.read(8), "little"), file.read(1)
        return json.loads(start + file.read(length - 1)).get("__metadata__", {}) if start == b"{" else {}
