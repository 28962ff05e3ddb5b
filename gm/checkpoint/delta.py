"""Changes of a model in files of their own, to be put on the whole one: the trained tensors themselves, or low-rank
changes of them (`gm.checkpoint.delta_file`). Several may be put on one model, each with a strength."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from gm.checkpoint.casting import cast
from gm.checkpoint.rules import DELTA_KIND, UNET
from gm.errors import UserError
from gm.precision import numpy_name, parameter_dtype, to_numpy

if TYPE_CHECKING:
    from gm.checkpoint.delta_file import Delta
    from gm.weights import Weights

_SAMPLED_TENSORS, _SAMPLED_VALUES = 12, 4096
_VALUES_OF_EACH = 64  # at the beginning, in the middle and at the end of every tensor
_HASHES = ("unet_values", "unet_hash", "base_hash")  # of the metadata; older files have the later ones alone


def write_delta(path: str | Path, arrays: dict[str, np.ndarray], base: dict[str, str]) -> int:
    """Write the trained tensors {full name: float32 array}.

    base: {str: str}, what `fingerprint` says of the model under them and, for low-rank changes, their "lora_alpha".
    """
    from gm.checkpoint.writer import write_safetensors

    entries = [(name, array.shape, array.dtype) for name, array in arrays.items()]
    return write_safetensors(path, entries, arrays.__getitem__, {"format": DELTA_KIND, **base})


def fingerprint(weights: Weights) -> dict[str, str]:
    """{"base_name", "base_size", "base_hash", "unet_hash", "unet_values"} of a `gm.weights.Weights`: file name, bytes
    and hashes: of a few tensors, of all and of the UNet alone, which is all that other layouts are sure to have in
    common, and of all tensors of the UNet.

    A hash is of values as float32, so that a file that was only converted keeps it. The first two cover at most 4096
    values of each of 12 tensors spread over the names, and see nothing of a change of the others, such as a LoRA that
    was merged; the last one is `values_hash`. None proves two models equal.
    """

    def read(name: str) -> np.ndarray:
        return weights.checkpoint.read(weights.sources[name])

    unet = [name for name in weights.sources if name.startswith(UNET)]
    return {
        "base_name": Path(weights.checkpoint.path).name,
        "base_size": str(weights.checkpoint.size()),
        "base_hash": sampled_hash(weights.sources, read),
        "unet_hash": sampled_hash(unet, read),
        "unet_values": values_hash(unet, read),
    }


def sampled_hash(names: Collection[str], read: Callable[[str], np.ndarray]) -> str:
    """16 hexadecimal digits that tell sets of tensors apart, as `fingerprint` says. read: function of a name."""
    names = sorted(names)
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, len(names) - 1, _SAMPLED_TENSORS).astype(int)):
        values = read(names[index]).ravel()
        picked = values[:: max(1, values.size // _SAMPLED_VALUES)][:_SAMPLED_VALUES]
        digest.update(names[index].encode())
        digest.update(np.ascontiguousarray(picked, np.float32).tobytes())
    return digest.hexdigest()[:16]


def values_hash(names: Collection[str], read: Callable[[str], np.ndarray]) -> str:
    """16 hexadecimal digits of a few values of every tensor, as float32: what was trained or merged into any of them
    changes it. Arguments as of `sampled_hash`."""
    digest = hashlib.sha256()
    for name in sorted(names):
        values = read(name).ravel()
        middle = max(0, values.size // 2 - _VALUES_OF_EACH // 2)
        digest.update(f"{name} {values.size}".encode())
        for first in (0, middle, max(0, values.size - _VALUES_OF_EACH)):
            digest.update(np.ascontiguousarray(values[first : first + _VALUES_OF_EACH], np.float32).tobytes())
    return digest.hexdigest()[:16]


class Deltas:
    """Changes that are put on one model together.

    deltas: what `parse_deltas` reads, or its result; None for none. shapes: {full original name: shape} of the UNet.
    """

    def __init__(self, deltas: Any, shapes: dict[str, tuple[int, ...]]) -> None:
        self._deltas: list[Delta] = []
        if deltas:
            from gm.checkpoint.delta_file import Delta, parse_deltas
            from gm.checkpoint.lora import Names

            given, known = parse_deltas(deltas), Names(shapes)
            self._deltas = [Delta(path, shapes, known, strength) for path, strength in given]

    def __iter__(self) -> Iterator[Delta]:
        return iter(self._deltas)

    def names(self) -> list[str]:
        """Names of the parameters that are changed."""
        return list(dict.fromkeys(name for delta in self for name in delta.names()))

    def changed(self, name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
        """The new value, float32, of a parameter that is changed; read(): its old value.

        A copy: a file may be deleted or replaced while the model is in use. Changes add up; a trained tensor that is
        alone, at its full strength, stands for the old one to the last bit.
        """
        having = [delta for delta in self if name in delta.whole or name in delta.low_rank]
        if len(having) == 1 and name in having[0].whole and having[0].strength == 1:
            value = np.array(having[0].file.read(having[0].whole[name]), np.float32)
        else:
            value = old = np.asarray(read(), np.float32)
            for delta in having:
                value = value + delta.change(name, old)
        if not np.isfinite(value).all():
            paths = " and ".join(str(delta.path) for delta in having)
            raise UserError(f"{paths}: {name} is not finite (NaN or infinite) with it: its training failed")
        return value

    def files(self) -> list[Path]:
        """Those that they are read from."""
        return [path for delta in self for path in delta.files]

    def record(self) -> list[dict[str, Any]] | None:
        """[{"path", "strength"}], or None where there is none: for the file of a video's settings."""
        return [{"path": str(delta.path.resolve()), "strength": delta.strength} for delta in self] or None

    def warnings(self, weights: Weights | None = None) -> list[str]:
        """Sentences for the user about files that do not belong to the `gm.weights.Weights` under them, or may not."""
        return [warning for delta in self for warning in (*delta.warnings, *_base_warnings(delta, weights))]

    def apply(
        self,
        parameters: dict[str, Parameter],
        amp_level: str | None = None,
        read: Callable[[str], np.ndarray] | None = None,
    ) -> None:
        """Give the parameters {full name: parameter} their new values; see `apply_delta`."""
        for name in self.names():
            p = parameters[name]
            dtype = parameter_dtype(name, amp_level) if amp_level else p.dtype
            own = functools.partial(to_numpy, p)
            value = self.changed(name, own if read is None or p.dtype == ms.float32 else functools.partial(read, name))
            narrow = cast(value, numpy_name(dtype), f"{name} with the delta", "use --amp_level=O0")
            value = Tensor(narrow, dtype)
            p.set_dtype(dtype)
            p.set_data(value)


def apply_delta(
    target: nn.Cell | dict[str, Parameter],
    deltas: Any,
    weights: Weights | None = None,
    amp_level: str | None = None,
    read: Callable[[str], np.ndarray] | None = None,
) -> list[str]:
    """Put changes on a loaded model.

    Args:
        target: the denoiser (or UNet) cell, or a dict from full checkpoint names to parameters.
        deltas: a file, several with strengths as `parse_deltas` reads them, or `Deltas`.
        weights: the `gm.weights.Weights` that the target was loaded from, to compare with what the changes belong to.
        amp_level: its dtype is what changed parameters get, where `Weights.load` left some narrow; None keeps theirs.
        read: function of a full name -> the values that a parameter was loaded from. Of a narrow parameter they are
            what is changed, so that the result is rounded once: of changes below half of its spacing nothing would be
            left on values that were rounded before. None: the parameters' own values, as they are.

    Returns a list of warnings, one sentence each: empty if all is well.
    Raises UserError if a file is damaged, or holds a name or shape that the model does not have, and then nothing was
    changed; or if a new value is not finite, or beyond float16.
    """
    parameters = target if isinstance(target, dict) else _full_names(target)
    if not isinstance(deltas, Deltas):
        deltas = Deltas(deltas, unet_shapes(parameters))
    deltas.apply(parameters, amp_level, read)
    return deltas.warnings(weights)


def unet_shapes(target: nn.Cell | dict[str, Parameter]) -> dict[str, tuple[int, ...]]:
    """{full original name: shape} of a denoiser or UNet cell, or of such parameters."""
    parameters = target if isinstance(target, dict) else _full_names(target)
    return {name: tuple(p.shape) for name, p in parameters.items()}


def _full_names(cell: nn.Cell) -> dict[str, Parameter]:
    return {p.name: p for p in cell.get_parameters()}


def _base_warnings(delta: Delta, weights: Weights | None) -> list[str]:
    metadata = delta.metadata
    if metadata.get("format") != DELTA_KIND:
        return [f"{delta.path} was not written as a delta by train.py; whether it belongs to this model is not known"]
    if weights is None:
        return []
    found = fingerprint(weights)
    kind = next((kind for kind in _HASHES if kind in metadata), _HASHES[-1])
    if found[kind] == metadata.get(kind):
        return []
    return [
        f"{delta.path} was trained on {metadata.get('base_name')} ({metadata.get('base_size')} bytes), whose weights "
        f"differ from those of {found['base_name']} ({found['base_size']} bytes): expect a wrong result"
    ]
