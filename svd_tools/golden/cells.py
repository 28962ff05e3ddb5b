"""Golden weights into cells, activations and gradients out of them, the same in graph mode and PyNative."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from mindspore import ops as ms_ops

from gm.errors import UserError
from gm.networks.unet import Stage
from gm.precision import parameter_dtype


def fill(
    cell: nn.Cell, weights: Mapping[str, np.ndarray], what: str, amp_level: str = "O0", prefix: str = ""
) -> nn.Cell:
    """Give a cell the weights {name: array}: exactly its parameters, with their shapes. Returns the cell.

    prefix: what the names would begin with in a whole checkpoint; decides with amp_level which become float16.
    """
    parameters = dict(cell.parameters_and_names())
    wrong = sorted(set(parameters) ^ set(weights))
    wrong += [name for name, p in parameters.items() if name in weights and tuple(p.shape) != weights[name].shape]
    if wrong:
        raise UserError(f"{what}: the recorded weights do not fit the network, e.g. {', '.join(wrong[:5])}")
    for name, p in parameters.items():
        dtype = parameter_dtype(prefix + name, amp_level)
        p.set_dtype(dtype)
        p.set_data(Tensor(weights[name], dtype))
        p.name = name
    return cell


class Tap(nn.Cell):
    """A cell that keeps what the cell inside it returned last."""

    def __init__(self, cell: nn.Cell, shape: Sequence[int]) -> None:
        super().__init__()
        self.cell = cell
        self.value = Parameter(Tensor(np.zeros(shape, np.float32)), name="tap", requires_grad=False)

    def construct(self, *args: Tensor) -> Tensor:
        y = self.cell(*args)
        ms_ops.assign(self.value, y.astype(ms.float32))
        return y


class Taps:
    """Taps on parts of a cell, by dotted path; put on before the cell first runs."""

    def __init__(self, root: nn.Cell, recorded: Mapping[str, np.ndarray]) -> None:
        """recorded: {path: array} with the shapes that the activations will have."""
        self._taps: dict[str, nn.Cell] = {}
        # The innermost first: wrapping a part does not change the paths of the parts around it.
        for path in sorted(recorded, key=lambda path: -path.count(".")):
            self._taps[path] = _wrap(root, path, functools.partial(Tap, shape=recorded[path].shape))

    def values(self) -> dict[str, np.ndarray]:
        return {path: tap.value.asnumpy() for path, tap in self._taps.items()}


def _wrap(root: nn.Cell, path: str, make: Callable[[nn.Cell], nn.Cell]) -> nn.Cell:
    """Replace the part at `path` by make(part) and return that."""
    *parents, last = path.split(".")
    cell = root
    for name in parents:
        cell = _child(cell, name, path)
    part = make(_child(cell, last, path))
    # Lists by their children's dict: their own __setitem__ wants to rename the parameters inside.
    if isinstance(cell, nn.CellList):
        cell._cells[last] = part
    elif isinstance(cell, nn.SequentialCell):
        cell._cells[last] = part
        cell.cell_list = tuple(cell._cells.values())
    elif isinstance(cell, Stage):
        cell._cells[last] = part
        cell.layers = tuple(cell._cells.values())
    else:
        setattr(cell, last, part)
    return part


def _child(cell: nn.Cell, name: str, path: str) -> nn.Cell:
    child = cell._cells.get(name)
    if child is None:
        raise UserError(f"recorded activation {path!r}: the network has no part of that name")
    return child.cell if isinstance(child, Tap) else child


class Run(nn.Cell):
    """Any function of tensors that calls cells, as a cell of its own, so that graph mode compiles it."""

    def __init__(self, cell: nn.Cell | None, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.cell = cell
        self.function = function

    def construct(self, *args: Tensor) -> Tensor:
        return self.function(self.cell, *args)


def tensors(*arrays: np.ndarray | None) -> tuple[Tensor, ...]:
    """float32 arrays (or None) as tensors."""
    return tuple(None if a is None else Tensor(np.ascontiguousarray(a, np.float32)) for a in arrays)


def gradients(
    cell: nn.Cell, loss: Callable[..., Tensor], inputs: Sequence[np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(loss value, {"@i": gradient of input i, name: gradient of parameter}) of loss(cell, *inputs), a scalar.

    Attention piece sizes and the like are those of the forward pass.
    """
    run = Run(cell, loss)
    parameters = {name: p for name, p in cell.parameters_and_names() if p.requires_grad}
    function = ms.value_and_grad(run, tuple(range(len(inputs))), list(parameters.values()))
    value, (by_input, by_parameter) = function(*tensors(*inputs))
    found = {f"@{i}": g.asnumpy() for i, g in enumerate(by_input)}
    found.update({name: g.asnumpy() for name, g in zip(parameters, by_parameter)})
    return value.asnumpy(), found
