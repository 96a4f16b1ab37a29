"""What TF32 does to a gradient, computed on a CPU.

Tensor cores round the operands of a product to 10 bits of mantissa and add up in
float32. An engine that rounds them so, and is plain otherwise, says how far a network's
gradients are from those of float32: an expectation to hold a GPU's against. It depends
on the network far more than on the arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels.table import Engine

TF32 = 10
"""Bits of mantissa, the leading one not counted; float32 has 23."""


def rounded(x: Array, bits: int = TF32) -> Array:
    """float32 numbers with so many bits of mantissa, to the nearest; ties to even."""
    drop = 23 - bits
    if not drop:
        return x
    word = x.view(np.uint32)
    odd = (word >> np.uint32(drop)) & np.uint32(1)
    word = word + (np.uint32((1 << (drop - 1)) - 1) + odd)
    return (word >> np.uint32(drop) << np.uint32(drop)).view(np.float32)


class Rounded(Engine):
    """Plain array code whose convolutions and products round their operands.

    Args:
        bits: of mantissa that are left.
    """

    name = "rounded"
    shares = False

    def __init__(self, bits: int = TF32) -> None:
        self.bits = bits

    def _both(self, a: Array, b: Array) -> tuple[Array, Array]:
        return rounded(a, self.bits), rounded(b, self.bits)

    def conv2d(self, x: Array, w: Array, *rest: Any, **how: Any) -> Array:
        """Of rounded x and w."""
        return super().conv2d(*self._both(x, w), *rest, **how)

    def conv2d_input_grad(self, g: Array, w: Array, *rest: Any) -> Array:
        """Of rounded g and w."""
        return super().conv2d_input_grad(*self._both(g, w), *rest)

    def conv2d_weight_grad(self, g: Array, x: Array, *rest: Any) -> Array:
        """Of rounded g and x."""
        return super().conv2d_weight_grad(*self._both(g, x), *rest)

    def linear(self, x: Array, w: Array) -> Array:
        """Of rounded x and w."""
        return super().linear(*self._both(x, w))

    def linear_input_grad(self, g: Array, w: Array) -> Array:
        """Of rounded g and w."""
        return super().linear_input_grad(*self._both(g, w))

    def linear_weight_grad(self, g: Array, x: Array) -> Array:
        """Of rounded g and x."""
        return super().linear_weight_grad(*self._both(g, x))
