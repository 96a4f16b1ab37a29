"""The part of the table of kernels that works entry by entry: activations."""

from __future__ import annotations

from tinyflow.backend import Array
from tinyflow.kernels.plain import activation
from tinyflow.kernels.plain.activation import entries


class Activations:
    """Plain array code; see :class:`tinyflow.kernels.table.Engine`."""

    def relu(self, x: Array) -> Array:
        """The maximum of x and 0."""
        return entries(activation.relu, x)

    def relu_grad(self, g: Array, y: Array) -> Array:
        """The gradient 0 where y ≤ 0, else g."""
        return entries(activation.relu_grad, g, y)

    def relu6(self, x: Array) -> Array:
        """The minimum of 6 and the maximum of x and 0."""
        return entries(activation.relu6, x)

    def relu6_grad(self, g: Array, y: Array) -> Array:
        """The gradient g where 0 < y < 6, else 0."""
        return entries(activation.relu6_grad, g, y)

    def sigmoid(self, x: Array) -> Array:
        """σ(x) = 1 / (1 + e⁻ˣ) to the last digits, without overflow."""
        return entries(activation.sigmoid, x)

    def sigmoid_grad(self, g: Array, x: Array) -> Array:
        """The gradient g σ(x) (1 - σ(x)), to the last digits."""
        return entries(activation.sigmoid_grad, g, x)

    def silu(self, x: Array) -> Array:
        """The product x σ(x)."""
        return entries(activation.silu, x)

    def silu_grad(self, g: Array, x: Array) -> Array:
        """The gradient g σ(x) (1 + x (1 - σ(x)))."""
        return entries(activation.silu_grad, g, x)
