"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyflow import ops
from tinyflow.module import Module
from tinyflow.nn.initial import ones, zeros
from tinyflow.ops.arguments import flag, number, whole
from tinyflow.ops.norm import normalized
from tinyflow.tensor import Tensor


class BatchNorm2d(Module):
    """Batch normalisation over (N, H, W), see :func:`tinyflow.ops.batch_norm`."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        bias: bool = True,
    ) -> None:
        op = type(self).__name__
        num_features = whole(op, num_features, "num_features", 1)
        affine = flag(op, affine, "affine")
        eps = number(op, eps, "eps", 0)
        momentum = number(op, momentum, "momentum", 0, 1)
        self.weight = ones(num_features) if affine else None
        self.bias = zeros(num_features) if flag(op, bias, "bias") and affine else None
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


class GroupNorm(Module):
    """Normalisation of groups of channels, see :func:`tinyflow.ops.group_norm`."""

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        bias: bool = True,
    ) -> None:
        op = type(self).__name__
        self.num_groups = whole(op, num_groups, "num_groups", 1)
        num_channels = whole(op, num_channels, "num_channels", 1)
        if num_channels % num_groups:
            raise ValueError(
                f"{op}: num_channels={num_channels} cannot be split into "
                f"num_groups={num_groups}"
            )
        affine, self.eps = flag(op, affine, "affine"), number(op, eps, "eps", 0)
        self.weight = ones(num_channels) if affine else None
        self.bias = zeros(num_channels) if flag(op, bias, "bias") and affine else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → the same shape."""
        return ops.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class LayerNorm(Module):
    """Normalisation over the last axes, see :func:`tinyflow.ops.layer_norm`."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        op = type(self).__name__
        self.normalized_shape = shape = normalized(op, normalized_shape)
        affine = flag(op, elementwise_affine, "elementwise_affine")
        self.weight = ones(shape) if affine else None
        self.bias = zeros(shape) if flag(op, bias, "bias") and affine else None
        self.eps = number(op, eps, "eps", 0)

    def forward(self, x: Tensor) -> Tensor:
        """(…, *normalized_shape) → the same shape."""
        shape = self.normalized_shape
        return ops.layer_norm(x, shape, self.weight, self.bias, self.eps)


class LocalResponseNorm(Module):
    """Division by what is around, see :func:`tinyflow.ops.local_response_norm`."""

    def __init__(
        self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ) -> None:
        op = type(self).__name__
        self.size = whole(op, size, "size", 1)
        self.alpha, self.beta = (
            number(op, alpha, "alpha", 0),
            number(op, beta, "beta", 0),
        )
        self.k = number(op, k, "k", 0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → the same shape."""
        return ops.local_response_norm(x, self.size, self.alpha, self.beta, self.k)
