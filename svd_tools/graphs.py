"""The graphs that Ascend and GPU are given: the reference forms of a small model, compiled on the CPU.

Which operators a graph has is decided before the device is: so it can be read here what will be asked of a device that
is not here. Forward pass, loss, backward pass and the optimizer's update, in float32 (O0) and float16 (O2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from mindspore import Tensor
from mindspore.common.api import _cell_graph_executor
from mindspore.train.mind_ir_pb2 import ModelProto, TensorProto

from gm import ops
from gm.diffusion.denoiser import Denoiser
from gm.diffusion.loss import DiffusionLoss
from gm.networks.clip import ClipVision
from gm.networks.unet import VideoUNet
from gm.networks.vae import VaeDecoder, VaeEncoder
from gm.precision import parameter_dtype
from gm.training.optimizer import AdamW
from gm.training.settings import Optimizer
from gm.training.step import GradientSums

if TYPE_CHECKING:
    from mindspore import nn

T, SIDE, CONTEXT, VECTOR = 3, 8, 16, 12
SCALE = 1024.0  # of the loss, without which float16's small gradients vanish
UNET: dict[str, Any] = {
    "in_channels": 8,
    "model_channels": 32,
    "out_channels": 4,
    "num_res_blocks": 1,
    "attention_resolutions": [],
    "num_head_channels": 16,
    "context_dim": CONTEXT,
    "adm_in_channels": VECTOR,
}  # with a transformer in the middle, where every UNet has one
CLIP: dict[str, Any] = {
    "image_size": 8,
    "patch_size": 4,
    "width": 32,
    "layers": 1,
    "head_width": 16,
    "mlp_ratio": 2.0,
    "embed_dim": 16,
}
VAE: dict[str, Any] = {"ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "z_channels": 4}
# What only arranges a graph: nothing of it runs on a device.
BOOKKEEPING = {"Constant", "Depend", "Load", "MakeTuple", "Return", "TupleGetItem", "UpdateState", "Partial", "Call"}


class Node(NamedTuple):
    """One operator of a graph. tensors: (dtype such as "FLOAT16", shape) of its inputs and its results."""

    graph: str
    operator: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]


class Compiled(NamedTuple):
    """A cell that has run, and its result."""

    cell: nn.Cell
    result: Any


def use_reference_forms(mode: int = ops.GRAPH_MODE) -> None:
    """What a device without forms of its own runs, on the CPU."""
    ops.set_device("CPU", mode)
    ops.bind(ops.choose("GPU", ops.version()))


def filled(cell: nn.Cell, amp_level: str = "O0", prefix: str = "", seed: int = 0) -> nn.Cell:
    """The cell with random values; norms get ones. prefix: of the parameters' names in a checkpoint."""
    random = np.random.default_rng(seed)
    for name, p in cell.parameters_and_names():
        values = random.standard_normal(p.shape) / max(1, p.size // p.shape[0]) ** 0.5
        dtype = parameter_dtype(prefix + name, amp_level)
        p.set_dtype(dtype)
        p.set_data(Tensor(values.astype(np.float32), dtype))
        p.name = name
    return cell


def training_inputs(seed: int = 1) -> tuple[Any, ...]:
    """Loss scale, then latents, noise, sigma, concat, context, vector and t of one video: see `DiffusionLoss`."""
    random = np.random.default_rng(seed)
    shapes = (T, 4, SIDE, SIDE), (T, 4, SIDE, SIDE), (T,), (T, 4, SIDE, SIDE), (T, 1, CONTEXT), (T, VECTOR)
    arrays = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    arrays[2] = np.full(T, 0.7, np.float32)
    return (Tensor(np.float32(SCALE)), *map(Tensor, arrays), T)


def training_step(amp_level: str, levels: int) -> tuple[GradientSums, AdamW]:
    """(`GradientSums` of the small UNet with so many levels, its optimizer). Every parameter is trained."""
    unet = VideoUNet(**{**UNET, "channel_mult": [1] * levels})
    denoiser = Denoiser(filled(unet, amp_level, "model.diffusion_model."))
    denoiser.set_train(True)
    parameters = {p.name: p for p in denoiser.get_parameters()}
    step = GradientSums(DiffusionLoss(denoiser), parameters)
    values = {name: p.asnumpy().astype(np.float32) for name, p in parameters.items()}
    return step, AdamW(parameters, step.sums, Optimizer(), values.__getitem__)


def compile_training(amp_level: str, levels: int = 2) -> dict[str, Compiled]:
    """{name: `Compiled`} of a training step: gradients, their norm, the update and what belongs to it.

    The result of the first is (losses, {parameter: gradient}).
    """
    step, optimizer = training_step(amp_level, levels)
    losses = step(*training_inputs()).asnumpy()
    gradients = {p.name: np.array(total.asnumpy()) for p, total in zip(step.weights, step.sums)}
    found = {f"training {amp_level}": Compiled(step, (losses, gradients))}
    optimizer.step(1e-3, 1.0)
    for cells in (optimizer._squares, optimizer._updates, optimizer._after):
        for number, cell in enumerate(cells):
            found[f"optimizer {amp_level} {type(cell).__name__} {number}"] = Compiled(cell, None)
    return found


def compile_first_stages(amp_level: str = "O0") -> dict[str, Compiled]:
    """{name: `Compiled`} of CLIP, VAE encoder and both decoders, forward. The VAE is float32 at every level."""
    random = np.random.default_rng(2)

    def normal(*shape: int) -> Tensor:
        return Tensor(random.standard_normal(shape).astype(np.float32))

    parts: dict[str, tuple[nn.Cell, str, tuple[Any, ...]]] = {
        f"clip {amp_level}": (ClipVision(**CLIP), "conditioner.embedders.0.", (normal(1, 3, 8, 8),)),
        "encoder": (VaeEncoder(**VAE, quant_conv=True), "first_stage_model.", (normal(1, 3, 16, 16),)),
        "decoder": (VaeDecoder(**VAE, temporal=True), "first_stage_model.", (normal(T, 4, 8, 8), T)),
    }
    found = {}
    for name, (cell, prefix, inputs) in parts.items():
        filled(cell, amp_level, prefix)
        found[name] = Compiled(cell, cell(*inputs).asnumpy())
    return found


def compile_all(amp_level: str, levels: int = 2) -> dict[str, Compiled]:
    """{name: `Compiled`} of everything that runs on a device at this amp_level; levels: of the UNet."""
    return {**compile_training(amp_level, levels), **compile_first_stages(amp_level)}


def all_nodes(compiled: Mapping[str, Compiled]) -> list[Node]:
    """The `Node`s of {name: `Compiled`}."""
    return [node for name, part in compiled.items() for node in nodes(name, part.cell)]


def faults(found: Iterable[Node]) -> list[str]:
    """What devices refuse or compute slowly, in a list of `Node`s: sentences."""
    known = []
    for node in found:
        for dtype, shape in node.tensors:
            what = f"{node.graph}: {node.operator} of {dtype} {list(shape)}"
            if dtype not in ("FLOAT", "FLOAT16", "BOOL"):
                known.append(f"{what}: NPUs have no arithmetic for it, or a slow one")
            if any(size < 1 for size in shape):
                known.append(f"{what}: the shape is not static")
            if len(shape) > 8:
                known.append(f"{what}: more than 8 axes")
    return known


def nodes(name: str, cell: nn.Cell) -> list[Node]:
    """The `Node`s of every graph that was compiled for a cell, before the CPU's own passes."""
    found = []
    for phase in cell.compile_cache:
        model = ModelProto()
        model.ParseFromString(_cell_graph_executor._get_func_graph_proto(cell, phase, "mind_ir"))
        operators = {p.name: p.op_type for p in model.primitives}
        for graph in (model.graph, *model.functions):
            found += _nodes_of(name, graph, operators)
    if not found:
        raise ValueError(f"{name}: nothing was compiled: is this PyNative?")
    return found


def _nodes_of(name: str, graph: Any, operators: Mapping[str, str]) -> list[Node]:
    known = {}
    for item in (*graph.parameter, *graph.input):
        known[item.name] = tuple(_described(t) for t in getattr(item, "tensor", None) or [item])
    found = []
    for node in graph.node:
        operator = node.op_type.rpartition("::")[2] if "::" in node.op_type else node.op_type
        operator = operators.get(operator, operator)
        results = tuple(_described(t) for a in node.attribute if a.name in ("shape", "value") for t in _tensors(a))
        known.update(dict.fromkeys(node.output, results))
        if operator not in BOOKKEEPING:
            inputs = (t for source in node.input for t in known.get(source, ()))
            found.append(Node(name, operator, (*inputs, *results)))
    return found


def _tensors(attribute: Any) -> Iterator[TensorProto]:
    yield from attribute.tensors
    for value in attribute.values:
        yield from _tensors(value)


def _described(tensor: TensorProto) -> tuple[str, tuple[int, ...]]:
    return TensorProto.DataType.Name(tensor.data_type), tuple(tensor.dims)
