"""Activations as modules: each calls the operator of its name."""

from __future__ import annotations

import math

from tinyflow import ops
from tinyflow.module import Module
from tinyflow.ops.activation import steepness
from tinyflow.ops.arguments import choice, number
from tinyflow.tensor import Tensor


class ReLU(Module):
    """y = max(x, 0), see :func:`tinyflow.ops.relu`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.relu(x)


class ReLU6(Module):
    """y = min(max(x, 0), 6), see :func:`tinyflow.ops.relu6`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.relu6(x)


class Sigmoid(Module):
    """y = 1 / (1 + e⁻ˣ), see :func:`tinyflow.ops.sigmoid`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.sigmoid(x)


class Tanh(Module):
    """y = tanh x, see :func:`tinyflow.ops.tanh`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.tanh(x)


class SiLU(Module):
    """y = x σ(x), see :func:`tinyflow.ops.silu`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.silu(x)


class Hardswish(Module):
    """y = x min(max(x + 3, 0), 6) / 6, see :func:`tinyflow.ops.hardswish`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.hardswish(x)


class Hardsigmoid(Module):
    """y = min(max(x + 3, 0), 6) / 6, see :func:`tinyflow.ops.hardsigmoid`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.hardsigmoid(x)


class LeakyReLU(Module):
    """y = max(x, 0) + a min(x, 0), see :func:`tinyflow.ops.leaky_relu`."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        op = type(self).__name__
        self.negative_slope = number(op, negative_slope, "negative_slope", -math.inf)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.leaky_relu(x, self.negative_slope)


class ELU(Module):
    """y = x where x > 0, else α (eˣ - 1), see :func:`tinyflow.ops.elu`."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = number(type(self).__name__, alpha, "alpha", -math.inf)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.elu(x, self.alpha)


class GELU(Module):
    """y = x Φ(x), or nearly, see :func:`tinyflow.ops.gelu`."""

    def __init__(self, approximate: str = "none") -> None:
        op, words = type(self).__name__, ("none", "tanh")
        self.approximate = choice(op, approximate, "approximate", words)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.gelu(x, self.approximate)


class Softplus(Module):
    """y = ln(1 + e^(β x)) / β, see :func:`tinyflow.ops.softplus`."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        op = type(self).__name__
        self.beta = steepness(op, beta)
        self.threshold = number(op, threshold, "threshold", -math.inf)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return ops.softplus(x, self.beta, self.threshold)
