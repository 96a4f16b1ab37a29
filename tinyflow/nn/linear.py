"""Convolution and linear layers."""

from __future__ import annotations

import math
from typing import Literal

from tinyflow import ops
from tinyflow.kernels.layout import swap, to_hwnc
from tinyflow.module import Module, Rng
from tinyflow.nn.initial import normal, zeros
from tinyflow.ops.arguments import (
    LARGEST,
    NOT_GIVEN,
    Pair,
    choice,
    flag,
    number,
    pair,
    source_of,
    whole,
)
from tinyflow.ops.conv import Padding, geometry
from tinyflow.tensor import Tensor


class Conv2d(Module):
    """Convolution layer, weights He-normal: N(0, 2/fan) (He et al. 2015, section 2.2).

    Args:
        in_channels, out_channels: C and K.
        kernel_size, stride, padding, dilation, groups: see :func:`tinyflow.ops.conv2d`.
        bias: whether to add one per output channel (initialised to zero).
        fan: "out" (K kh kw) keeps the size of gradients, "in" (C kh kw) that of values.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        fan: Literal["in", "out"] = "out",
        rng: Rng = NOT_GIVEN,
    ) -> None:
        op = type(self).__name__
        in_channels = whole(op, in_channels, "in_channels", 1)
        out_channels = whole(op, out_channels, "out_channels", 1)
        kh, kw = pair(op, kernel_size, "kernel_size", 1)
        groups = whole(op, groups, "groups", 1)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{op}: {in_channels} input and {out_channels} output channels cannot "
                f"be split into groups={groups}"
            )
        geometry(op, (kh, kw), stride, padding, dilation)
        fan_in = choice(op, fan, "fan", ("in", "out")) == "in"
        rng = source_of(op, rng)
        shape = (out_channels, in_channels // groups, kh, kw)
        channels = in_channels if fan_in else out_channels
        std = math.sqrt(2 / (channels // groups * kh * kw))
        weight = normal(rng, shape, std)
        # Shape (K, C/groups, kh, kw), stored as the kernels read it.
        self.weight = Tensor(swap(to_hwnc(weight.data)), requires_grad=True)
        self.bias = zeros(out_channels) if flag(op, bias, "bias") else None
        self.stride, self.padding = stride, padding
        self.dilation, self.groups = dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, K, H', W')."""
        return ops.conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


class Linear(Module):
    """y = x Wᵀ + b, weights normal with the given standard deviation, zero bias."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        std: float | None = None,
        rng: Rng = NOT_GIVEN,
    ) -> None:
        op = type(self).__name__
        in_features = whole(op, in_features, "in_features", 1)
        out_features = whole(op, out_features, "out_features", 1)
        std = 1 / math.sqrt(in_features) if std is None else number(op, std, "std", 0)
        self.weight = normal(source_of(op, rng), (out_features, in_features), std)
        self.bias = zeros(out_features) if flag(op, bias, "bias") else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) → (..., out_features)."""
        return ops.linear(x, self.weight, self.bias)


class Flatten(Module):
    """Axes merged into one, see :func:`tinyflow.ops.flatten`: all but the first."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        op = type(self).__name__
        self.start_dim = whole(op, start_dim, "start_dim", -LARGEST)
        self.end_dim = whole(op, end_dim, "end_dim", -LARGEST)

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) → (N, everything else)."""
        return ops.flatten(x, self.start_dim, self.end_dim)


class ChannelShuffle(Module):
    """Channels of several groups in turn, see :func:`tinyflow.ops.channel_shuffle`."""

    def __init__(self, groups: int) -> None:
        self.groups = whole(type(self).__name__, groups, "groups", 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → the same shape."""
        return ops.channel_shuffle(x, self.groups)
