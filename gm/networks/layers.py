"""Layers: they hold parameters (zeros until a checkpoint or `initialize` gives them values) and call `gm.ops`."""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn
from mindspore.common.initializer import initializer

from gm import ops

GROUPS = 32  # of all group norms


def parameter(*shape: int) -> Parameter:
    """A float32 parameter of zeros. The pages of zeros cost no memory until something is written to them."""
    return Parameter(initializer("zeros", shape, ms.float32))


class Identity(nn.Cell):
    """Keeps the place of a layer that is not there (a dropout of rate 0; a SiLU that the norm does), and so the numbers
    in the parameters' names."""

    def construct(self, x: Tensor) -> Tensor:
        return x


class SiLU(nn.Cell):
    """x * sigmoid(x)."""

    def construct(self, x: Tensor) -> Tensor:
        return ops.silu(x)


class Linear(nn.Cell):
    """x (..., in_channels) -> (..., out_channels)."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = parameter(out_channels, in_channels)
        self.bias = parameter(out_channels) if bias else None

    def construct(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """residual (..., out_channels): what the result is added to, of a layer with a bias."""
        weight = ops.widened(self.weight, x)
        if residual is None:
            return ops.linear(x, weight, self.bias)
        return ops.add_linear(residual, x, weight, self.bias)


class Conv2d(nn.Cell):
    """x (n, in_channels, h, w) -> (n, out_channels, ...); padding is (top, bottom, left, right), zeros."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        padding: tuple[int, int, int, int] | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = parameter(out_channels, in_channels, kernel, kernel)
        self.bias = parameter(out_channels) if bias else None
        self.stride = stride
        self.padding = (kernel // 2,) * 4 if padding is None else padding

    def construct(self, x: Tensor) -> Tensor:
        return ops.conv2d(x, ops.widened(self.weight, x), self.bias, self.stride, self.padding)


class TemporalConv(nn.Cell):
    """The (3, 1, 1) convolution: x (b, in_channels, t, s) -> (b, out_channels, t, s)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = parameter(out_channels, in_channels, 3, 1, 1)
        self.bias = parameter(out_channels)

    def construct(self, x: Tensor) -> Tensor:
        return ops.temporal_conv(x, ops.widened(self.weight, x), self.bias)


class GroupNorm(nn.Cell):
    """x (b, channels, ...): 32 groups, statistics over a group's channels and all trailing axes.

    shared: None, or where the statistics are taken from instead (`gm.networks.shared_norms.SharedStatistics`).
    """

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = parameter(channels)
        self.bias = parameter(channels)
        self.eps = eps
        self.shared: nn.Cell = None

    def construct(self, x: Tensor) -> Tensor:
        if self.shared is not None:
            return self.shared(x, self.weight, self.bias)
        return ops.group_norm(x, self.weight, self.bias, GROUPS, self.eps)


class GroupNormSiLU(GroupNorm):
    """SiLU of `GroupNorm`."""

    def construct(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """added: what is added to x before, (b, channels) or (b, channels, t); not where statistics are shared."""
        if self.shared is not None:
            return ops.silu(self.shared(x, self.weight, self.bias))
        return ops.group_norm_silu(x, self.weight, self.bias, GROUPS, self.eps, added)


class LayerNorm(nn.Cell):
    """x (..., channels); epsilon 1e-5."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = parameter(channels)
        self.bias = parameter(channels)

    def construct(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, 1e-5)


class Upsample(nn.Cell):
    """Nearest-neighbour doubling and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(ops.upsample_nearest(x))


class Mixer(nn.Cell):
    """The learned weight between the spatial and the temporal branch (the original's AlphaBlender)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix_factor = parameter(1)

    def construct(self, spatial: Tensor, temporal: Tensor, image_only: Tensor | None = None) -> Tensor:
        return mix(spatial, temporal, self.mix_factor, image_only)


def mix(first: Tensor, second: Tensor, factor: Tensor, image_only: Tensor | None = None) -> Tensor:
    """a * first + (1 - a) * second with a = sigmoid(factor), for branches of shape (n, ...).

    `first` is the branch that sigmoid(factor) weighs: the spatial one in the UNet, the temporal one in the VAE decoder.
    image_only (n,), where given, holds 1 for frames that are still images: a = 1 there.
    """
    a = ops.sigmoid(factor.astype(ms.float32))
    if image_only is not None:
        a = ops.maximum(a, image_only.astype(ms.float32)).reshape((-1,) + (1,) * (first.ndim - 1))
    return ops.mix(first, second, a.astype(first.dtype))


def to_time_major(x: Tensor, t: int) -> Tensor:
    """(b*t, c, h, w) -> (b, c, t, h*w), the layout of the temporal convolutions."""
    n, c, h, w = x.shape
    return ops.transpose(x.reshape(n // t, t, c, h * w), 0, 2, 1, 3)


def to_frames(x: Tensor, h: int, w: int) -> Tensor:
    """(b, c, t, h*w) -> (b*t, c, h, w): undoes `to_time_major`."""
    b, c, t, _ = x.shape
    return ops.transpose(x, 0, 2, 1, 3).reshape(b * t, c, h, w)
