"""What is trained, and the compiled half of a step: loss and gradients of one batch, added to those before it."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from gm.diffusion.denoiser import Denoiser
from gm.errors import UserError
from gm.networks.unet import VideoUNet
from gm.precision import to_numpy
from gm.training.parts import parts

TEMPORAL = (".time_stack.", ".time_pos_embed.", ".time_mixer.")


def is_temporal(name: str) -> bool:
    """Whether a parameter of the UNet, by its full checkpoint name, belongs to the layers that SVD adds for time."""
    return any(part in name for part in TEMPORAL)


def trainable_parameters(denoiser: Denoiser, temporal_only: bool) -> dict[str, Parameter]:
    """{full checkpoint name: parameter} of what is trained; every other parameter gets requires_grad False.

    They get memory of their own: a loaded parameter may share the checkpoint's map, which is read again when saving.
    """
    chosen = {}
    for p in denoiser.get_parameters():
        p.requires_grad = not temporal_only or is_temporal(p.name)
        if p.requires_grad:
            p.set_data(Tensor(np.array(to_numpy(p)), p.dtype))
            chosen[p.name] = p
    if not chosen:
        raise UserError("this model has no temporal layers to train: train.temporal_only must be False")
    return chosen


def recompute_blocks(unet: VideoUNet) -> None:
    """Keep only what goes in and out of the UNet's blocks for the backward pass, and compute the inside again."""
    for stage in (*unet.input_blocks, unet.middle_block, *unet.output_blocks):
        stage.recompute()


def zeros_like_each(parameters: dict[str, Parameter], prefix: str) -> ParameterTuple:
    """One float32 parameter of zeros for each of {name: parameter}, not trained itself."""
    return ParameterTuple(
        [
            Parameter(Tensor(np.zeros(p.shape, np.float32)), name=f"{prefix}.{name}", requires_grad=False)
            for name, p in parameters.items()
        ]
    )


class ScaledLoss(nn.Cell):
    """(mean loss * scale, loss of every sample): float16 gradients need a loss large enough not to vanish."""

    def __init__(self, loss: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.loss = loss

    def construct(self, scale: Tensor, *inputs: Tensor | int) -> tuple[Tensor, Tensor]:
        losses = self.loss(*inputs)
        return ops.mean(losses) * scale, losses


def _add(total: Parameter, gradient: Tensor) -> Tensor:
    return ops.assign_add(total, gradient.astype(ms.float32))


def _clear(zero: Tensor, total: Parameter) -> Tensor:
    # Written out from an argument: `zeros_like` would be a constant of that shape in the graph.
    return ops.assign(total, ops.broadcast_to(zero, total.shape))


class GradientSums(nn.Cell):
    """Forward and backward pass; the gradients are added up in float32 until they are cleared.

    Args:
        loss: cell that gives the loss of every sample, such as `gm.diffusion.loss.DiffusionLoss`.
        parameters: {full name: parameter} to take gradients of.
    """

    def __init__(self, loss: nn.Cell, parameters: dict[str, Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.loss = loss
        self.weights = ParameterTuple(list(parameters.values()))
        self.sums = zeros_like_each(parameters, "gradient")
        self.gradients = ms.value_and_grad(ScaledLoss(loss), None, self.weights, has_aux=True)
        self.map = ops.HyperMap()

    def construct(self, scale: Tensor, *inputs: Tensor | int) -> Tensor:
        """The loss's arguments after the loss scale, a tensor -> loss of every sample (frame), float32 (n,)."""
        (_, losses), gradients = self.gradients(scale, *inputs)
        return ops.depend(losses, self.map(_add, self.sums, gradients))


class _ClearPart(nn.Cell):
    def __init__(self, sums: ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.sums = sums
        self.map = ops.HyperMap()

    def construct(self, zero: Tensor) -> tuple[Tensor, ...]:
        return self.map(ops.partial(_clear, zero), self.sums)


class Clear:
    """Called, sets the sums of gradients to zero."""

    def __init__(self, sums: Sequence[Parameter]) -> None:
        self._parts = [_ClearPart(*part) for part in parts(sums)]

    def __call__(self) -> None:
        for part in self._parts:
            part(Tensor(np.float32(0)))
