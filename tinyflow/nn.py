"""Layers: modules that call the operators."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from tinyflow import habits, ops
from tinyflow.backend import array_module
from tinyflow.kernels.layout import swap, to_hwnc
from tinyflow.module import Module, Rng
from tinyflow.ops.arguments import (
    NOT_GIVEN,
    Pair,
    choice,
    flag,
    number,
    pair,
    shown,
    source_of,
    whole,
)
from tinyflow.ops.conv import Padding, geometry
from tinyflow.ops.pool import windows
from tinyflow.tensor import Tensor, fork

__all__ = [
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "Identity",
    "Linear",
    "MaxPool2d",
    "Module",
    "ReLU",
    "Rng",
    "Sequential",
    "SqueezeExcitation",
    "normal",
    "ones",
    "zeros",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = habits.answers(__name__, habits.NN)


class Sequential(Module):
    """Modules run one after the other, named 0, 1, 2 … or by the given names.

    TypeError for what is no module, or under a name that every module has.
    """

    def __init__(self, *modules: Module, **named: Module) -> None:
        given = {str(i): m for i, m in enumerate(modules)} | named
        for name, module in given.items():
            if not isinstance(module, Module):
                where = f"modules[{name}]" if name.isdigit() else name
                raise TypeError(
                    f"Sequential: {where} must be a Module, not {shown(module)}: "
                    "Sequential(first, nn.ReLU()), or Sequential(*layers) of a list"
                )
            if hasattr(Module, name):
                raise TypeError(
                    f"{name!r} is a name that every module has; use another"
                )
            setattr(self, name, module)

    def __iter__(self) -> Iterator[Module]:
        return (child for _, child in self.children())

    def __len__(self) -> int:
        return len(list(self.children()))

    def __getitem__(self, index: int) -> Module:
        return list(self.children())[index][1]

    def forward(self, x: Tensor) -> Tensor:
        """Run every child in order."""
        for module in self:
            x = module(x)
        return x


class Identity(Module):
    """y = x; nothing is recorded."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` itself."""
        return x


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


class BatchNorm2d(Module):
    """Batch normalisation over (N, H, W), see :func:`tinyflow.ops.batch_norm`."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ) -> None:
        op = type(self).__name__
        num_features = whole(op, num_features, "num_features", 1)
        affine = flag(op, affine, "affine")
        eps = number(op, eps, "eps", 0)
        momentum = number(op, momentum, "momentum", 0, 1)
        self.weight = ones(num_features) if affine else None
        self.bias = zeros(num_features) if affine else None
        self.running_mean = np.zeros(num_features, np.float32)
        self.running_var = np.ones(num_features, np.float32)
        self.eps, self.momentum = eps, momentum

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape; training updates the running statistics."""
        return ops.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )


class ReLU(Module):
    """y = max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """See :func:`tinyflow.ops.relu`."""
        return ops.relu(x)


class MaxPool2d(Module):
    """Maximum over windows, see :func:`tinyflow.ops.max_pool2d`."""

    def __init__(
        self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
    ) -> None:
        windows(type(self).__name__, kernel_size, stride, padding)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H', W')."""
        return ops.max_pool2d(x, self.kernel_size, self.stride, self.padding)


class AvgPool2d(Module):
    """Average over windows, see :func:`tinyflow.ops.avg_pool2d`."""

    def __init__(
        self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
    ) -> None:
        windows(type(self).__name__, kernel_size, stride, padding)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H', W')."""
        return ops.avg_pool2d(x, self.kernel_size, self.stride, self.padding)


class GlobalAvgPool2d(Module):
    """Average of each map: (N, C, H, W) → (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """See :func:`tinyflow.ops.global_avg_pool2d`."""
        return ops.global_avg_pool2d(x)


class Flatten(Module):
    """(N, …) → (N, everything else)."""

    def forward(self, x: Tensor) -> Tensor:
        """See :func:`tinyflow.ops.flatten`."""
        return ops.flatten(x, 1)


class Dropout(Module):
    """Dropout with its own generator, see :func:`tinyflow.ops.dropout`."""

    def __init__(self, p: float = 0.5, *, rng: Rng = NOT_GIVEN) -> None:
        op = type(self).__name__
        self.p, rng = number(op, p, "p", 0, 1), source_of(op, rng)
        self.generator = None if rng is None else rng.spawn(1)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Drop entries in training; the identity in evaluation."""
        return ops.dropout(x, self.p, self.training, self.generator)


class StochasticDepth(Module):
    """Drop a whole branch, image by image: y = b x / (1 - p), b ~ Bernoulli(1 - p).

    In evaluation y = x. Huang et al. 2016, arXiv:1603.09382, have b x in training and
    (1 - p) x in evaluation instead: 1 - p times as much in both.

    Args:
        p: probability of dropping it, in [0, 1].
        rng: where a generator of its own comes from.
    """

    def __init__(self, p: float, *, rng: Rng = NOT_GIVEN) -> None:
        op = type(self).__name__
        self.p, rng = number(op, p, "p", 0, 1), source_of(op, rng)
        self.generator = None if rng is None else rng.spawn(1)[0]

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) → the same shape."""
        if not self.training or self.p == 0:
            return x
        ones = array_module(x.data).ones((len(x), *[1] * (x.ndim - 1)), x.dtype)
        return ops.mul(x, ops.dropout(Tensor(ones), self.p, True, self.generator))


class SqueezeExcitation(Module):
    """Channel gates: y = s ⊙ x, s = σ(W₂ relu(W₁ mean(x) + b₁) + b₂) (Hu et al. 2018).

    The input is forked into its two uses, so that ∂L/∂x is the sum of two named edges:
    "scale", s ⊙ g, and "squeeze", what comes back through the gate.

    Args:
        channels: C.
        squeezed: width of the bottleneck, C / r.
        rng: where the initial weights come from.
    """

    def __init__(self, channels: int, squeezed: int, *, rng: Rng = NOT_GIVEN) -> None:
        op = type(self).__name__
        channels = whole(op, channels, "channels", 1)
        squeezed, rng = whole(op, squeezed, "squeezed", 1), source_of(op, rng)
        self.fc1 = Conv2d(channels, squeezed, 1, rng=rng)
        self.fc2 = Conv2d(squeezed, channels, 1, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        scale, squeeze = fork(x, "scale", "squeeze")
        z = ops.mean(squeeze, dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        z = self.fc2(ops.relu(self.fc1(z)))
        return ops.mul(scale, ops.sigmoid(z))


def normal(rng: Rng, shape: Iterable[int], std: float) -> Tensor:
    """A float32 parameter drawn from N(0, std²)."""
    rng = source_of("normal", rng)
    if rng is None:
        return Tensor(np.zeros(tuple(shape), np.float32), requires_grad=True)
    draw = rng.standard_normal(tuple(shape), dtype=np.float32)
    draw *= np.float32(std)
    return Tensor(draw, requires_grad=True)


def zeros(n: int) -> Tensor:
    """A float32 parameter of n zeros."""
    return Tensor(np.zeros(n, np.float32), requires_grad=True)


def ones(n: int) -> Tensor:
    """A float32 parameter of n ones."""
    return Tensor(np.ones(n, np.float32), requires_grad=True)
