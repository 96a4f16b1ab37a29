"""Activations as modules: each calls the operator of its name."""

from __future__ import annotations

from tinyflow import ops
from tinyflow.module import Module
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
