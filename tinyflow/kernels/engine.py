"""Which code runs the operators that take the time: one table, one rule.

:class:`Engine` is the plain array code, always there, right for every dtype and on
every device, and what the others are checked against. A faster engine is a subclass
that overrides what it does better; what it does not take it hands to ``super()``.
Operators ask :func:`engine` for the one that suits an array and know nothing else.
"""

from __future__ import annotations

from tinyflow.backend import Array, array_module
from tinyflow.kernels import conv, norm, pool

How = tuple[conv.Pair, conv.Border, conv.Pair, int]
"""Stride, padding, dilation and groups of a convolution."""

Shape = tuple[int, ...]


class Engine:
    """Plain array code."""

    name = "numpy"

    def conv2d(self, x: Array, w: Array, how: How) -> Array:
        """See :func:`tinyflow.kernels.conv.conv2d_forward`."""
        return conv.conv2d_forward(x, w, *how)

    def conv2d_input_grad(self, g: Array, w: Array, x_shape: Shape, how: How) -> Array:
        """See :func:`tinyflow.kernels.conv.conv2d_input_grad`."""
        return conv.conv2d_input_grad(g, w, x_shape, *how)

    def conv2d_weight_grad(self, g: Array, x: Array, w_shape: Shape, how: How) -> Array:
        """See :func:`tinyflow.kernels.conv.conv2d_weight_grad`."""
        return conv.conv2d_weight_grad(g, x, w_shape, *how)

    def product(self, a: Array, b: Array) -> Array:
        """Matrix product a b of two 2-d arrays in any memory order."""
        result: Array = a @ b
        return result

    def moments(self, x: Array) -> tuple[Array, Array]:
        """See :func:`tinyflow.kernels.norm.moments`."""
        return norm.moments(x)

    def normalize(
        self,
        x: Array,
        scale: Array,
        shift: Array,
        residual: Array | None = None,
        relu: bool = False,
    ) -> Array:
        """See :func:`tinyflow.kernels.norm.normalize`."""
        return norm.normalize(x, scale, shift, residual, relu)

    def normalize_sums(
        self, g: Array, x: Array, mean: Array, y: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Σ g and Σ g (x - mean) per channel, and the g they were taken of.

        With `y`, the output of a ReLU, g is first sent back through it.
        """
        g = norm.through_relu(g, y)
        return *norm.gradient_sums(g, x, mean), g

    def normalize_input_grad(
        self, g: Array, x: Array, a: Array, b: Array, c: Array
    ) -> Array:
        """See :func:`tinyflow.kernels.norm.input_grad`."""
        return norm.input_grad(g, x, a, b, c)

    def relu(self, x: Array) -> Array:
        """The maximum of x and 0."""
        y: Array = array_module(x).maximum(x, 0)
        return y

    def relu_grad(self, g: Array, y: Array) -> Array:
        """The gradient g where y > 0, else 0."""
        return g * (y > 0)

    def max_pool2d(self, x: Array, how: pool.How) -> tuple[Array, Array]:
        """See :func:`tinyflow.kernels.pool.max_pool2d_forward`."""
        return pool.max_pool2d_forward(x, *how)

    def max_pool2d_input_grad(
        self, g: Array, argmax: Array, x_shape: Shape, how: pool.How
    ) -> Array:
        """See :func:`tinyflow.kernels.pool.max_pool2d_input_grad`."""
        return pool.max_pool2d_input_grad(g, argmax, x_shape, *how)


PLAIN = Engine()


def engine(x: Array) -> Engine:
    """The engine for an array like `x`."""
    return PLAIN
