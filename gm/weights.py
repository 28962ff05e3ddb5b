"""Where the values of a model's parameters come from: a checkpoint, or a seed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from gm.checkpoint.delta import fingerprint, values_hash
from gm.checkpoint.diffusers_configs import check_configs
from gm.checkpoint.match import match
from gm.checkpoint.model_file import open_model
from gm.diffusion.denoiser import Denoiser
from gm.estimate import Held, held
from gm.model import COMPONENTS, build_component
from gm.model_config import ModelConfig
from gm.networks.init import initial_values
from gm.ops import native
from gm.precision import kept_narrow, numpy_name, parameter_dtype

_READERS = 4  # threads that read and convert weights; more do not help, as memory is what they wait for
_ALIGNMENT = 64  # bytes; of the widest vectors, and what MindSpore takes without a copy


class ModelWeights:
    """What all kinds have in common. config: of the model."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @cached_property
    def _built(self) -> dict[str, nn.Cell]:
        """Components without values; `loading` hands each out once: building takes as long as reading half a file."""
        return {name: build_component(self.config, name) for name in COMPONENTS}

    @cached_property
    def parameters(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """{component: {full name: shape}}."""
        return {name: {p.name: tuple(p.shape) for p in cell.get_parameters()} for name, cell in self._built.items()}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{full name: shape} of every parameter."""
        return {name: shape for shapes in self.parameters.values() for name, shape in shapes.items()}

    @property
    def record(self) -> dict[str, str]:
        """What tells it from another one."""
        raise NotImplementedError

    def read(self, name: str) -> np.ndarray:
        """The values of a parameter by its full name, in the type that `dtype` says."""
        raise NotImplementedError

    def dtype(self, name: str) -> np.dtype:
        """The NumPy type of what `read` returns."""
        raise NotImplementedError

    def values_hash(self, names: Collection[str]) -> str:
        """What tells these parameters, by their full names, from those of other values."""
        return values_hash(names, self.read)

    def files(self) -> list[Path]:
        """Those that they are read from."""
        return []

    def describe(self) -> str:
        """Where they come from, in words for the user."""
        raise NotImplementedError

    def narrow(self) -> set[str]:
        """Names of the parameters that `loading(..., narrow=True)` leaves in float16."""
        return set()

    def held(self, name: str, amp_level: str = "O0", narrow: bool = False) -> Held:
        """What a component takes in memory when it is loaded so: `gm.estimate.Held`."""
        own = sum(math.prod(shape) * width for shape, _, width in self._widths(name, amp_level, narrow))
        return Held(own)

    def load(self, name: str, amp_level: str = "O0", narrow: bool = False) -> nn.Cell:
        """A component with its values; arguments as of `loading`."""
        loading = self.loading(name, amp_level, narrow)
        while True:
            try:
                next(loading)
            except StopIteration as end:
                return end.value

    def loading(
        self,
        name: str,
        amp_level: str = "O0",
        narrow: bool = False,
    ) -> Generator[tuple[int, int], None, nn.Cell]:
        """Load a component: a generator of (values so far, values in all) after each tensor; returns the component.

        Args:
            name: one of `COMPONENTS`.
            amp_level: "O0" or "O2", see `gm.precision`.
            narrow: leave weights that are stored in float16 so, see `narrow`.
        """
        cell = self._built.pop(name, None)
        cell = build_component(self.config, name) if cell is None else cell
        left = self.narrow() if narrow else ()
        parameters = list(cell.get_parameters())
        dtypes = [ms.float16 if p.name in left else parameter_dtype(p.name, amp_level) for p in parameters]
        done, total = 0, self.size(name)
        with contextlib.closing(self._values(parameters, dtypes)) as values:  # closed half-way, it reads no more
            yield done, total
            for p, dtype, value in zip(parameters, dtypes, values):
                set_value(p, value, dtype)
                done += value.size
                yield done, total
        return Denoiser(cell) if name == "unet" else cell

    def size(self, name: str) -> int:
        """Number of values of a component."""
        return sum(map(math.prod, self.parameters[name].values()))

    def _values(self, parameters: list[Parameter], dtypes: list[Any]) -> Generator[np.ndarray, None, None]:
        """A generator of the parameters' values, each in its type of `dtypes` or in another one."""
        for p in parameters:
            yield self.read(p.name)

    def _widths(self, name: str, amp_level: str, narrow: bool) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """(shape, bytes of a stored value, bytes of a loaded one) of a component's parameters."""
        left = self.narrow() if narrow else ()
        for p, shape in self.parameters[name].items():
            loaded = 2 if p in left or parameter_dtype(p, amp_level) != ms.float32 else 4
            yield shape, self.dtype(p).itemsize, loaded


class InitialWeights(ModelWeights):
    """Initial values from a seed."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        super().__init__(config)
        self.seed = seed

    @property
    def record(self) -> dict[str, str]:
        return {"base_name": "initial values", "base_size": "0", "base_hash": f"seed {self.seed}"}

    def read(self, name: str) -> np.ndarray:
        return initial_values(name, self.shapes, self.seed)

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(np.float32)

    def values_hash(self, names: Collection[str]) -> str:
        return self.record["base_hash"]  # all follow from the seed; to draw them would take minutes

    def describe(self) -> str:
        return f"initial values, seed {self.seed}"


class Weights(ModelWeights):
    """A checkpoint whose keys are accounted for: every parameter of the model is in it with its shape.

    Where the file has the type that a parameter needs, the parameter is the file's memory map itself and costs no
    memory of its own.

    Args:
        config: of the model.
        path, base, use_ema: of the weights, in any layout that `gm.checkpoint.model_file.open_model` reads.

    Raises:
        UserError: a checkpoint that does not fit the config, with the list of all that is wrong.
    """

    def __init__(
        self,
        config: ModelConfig,
        path: str | Path,
        base: str | Path | None = None,
        use_ema: bool = False,
    ) -> None:
        self.checkpoint = open_model(path, base, use_ema)
        super().__init__(config)
        self.sources = match(self.checkpoint, self.shapes)
        check_configs(path, config, use_ema)
        if base is not None:
            check_configs(base, config)
        self.shapes = {name: self.shapes[name] for name in self.sources}  # in the file's order, to be read through

    @cached_property
    def record(self) -> dict[str, str]:
        return fingerprint(self)

    def read(self, name: str) -> np.ndarray:
        return self.checkpoint.read(self.sources[name])

    def dtype(self, name: str) -> np.dtype:
        return self.checkpoint.dtype(self.sources[name])

    def files(self) -> list[Path]:
        return self.checkpoint.files()

    def describe(self) -> str:
        return f"{self.checkpoint.path}: {self.checkpoint.description}"

    def narrow(self) -> set[str]:
        return {
            name for name, shape in self.shapes.items() if self.dtype(name) == np.float16 and kept_narrow(name, shape)
        }

    def held(self, name: str, amp_level: str = "O0", narrow: bool = False) -> Held:
        return held(
            (math.prod(shape), stored, loaded) for shape, stored, loaded in self._widths(name, amp_level, narrow)
        )

    def _values(self, parameters: list[Parameter], dtypes: list[Any]) -> Generator[np.ndarray, None, None]:
        with ThreadPoolExecutor(_READERS) as pool:  # all that takes long is done without Python's lock
            values: Any = pool.map(self._read_into, parameters, self._places(parameters, dtypes))  # a generator
            with contextlib.closing(values):
                yield from values

    def _places(self, parameters: list[Parameter], dtypes: list[Any]) -> list[np.ndarray | None]:
        """For each parameter an array to read its values into, or None where it can be the file's memory itself."""
        names = [numpy_name(dtype) for dtype in dtypes]
        converted = [self.dtype(p.name).name != name for p, name in zip(parameters, names)]
        arrays = _allocate([(p.shape, name) for p, name, fresh in zip(parameters, names, converted) if fresh])
        return [next(arrays) if fresh else None for fresh in converted]

    def _read_into(self, p: Parameter, place: np.ndarray | None) -> np.ndarray:
        if place is None:
            return self.read(p.name)
        self.checkpoint.copy_to(self.sources[p.name], place, native.convert)
        return place


def _allocate(wanted: Sequence[tuple[tuple[int, ...], str]]) -> Iterator[np.ndarray]:
    """Arrays without values for [(shape, dtype name)], in turn, all in one piece of memory.

    NumPy asks the system for huge pages for arrays of several megabytes: 9 GB in small ones cost 1.6 s instead of 0.6.
    """
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in wanted]
    padded = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    memory = np.empty(sum(padded) + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    for (shape, dtype), size, taken in zip(wanted, sizes, padded):
        yield memory[start : start + size].view(dtype).reshape(shape)
        start += taken


def set_value(p: Parameter, array: np.ndarray, dtype: Any) -> None:
    """Give a parameter an array's values; shares the array's memory where dtype is its own."""
    array = array.astype(numpy_name(dtype), copy=False)
    if p.dtype != dtype:
        p.set_dtype(dtype)
    p.set_data(Tensor(array, dtype) if dtype == ms.bfloat16 else Tensor.from_numpy(array))
