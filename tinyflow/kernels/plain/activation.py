"""Activations and their gradients, entry by entry, in blocks that stay in the cache.

In the formulas e = exp(-|x|) and σ(x) = 1 / (1 + e), or e / (1 + e) where x < 0: there
is no overflow, and nothing cancels, neither in σ nor in 1 - σ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.plain import threads
from tinyflow.kernels.plain.mask import kept, rectified
from tinyflow.kernels.plain.scratch import zeros


def entries(work: Callable[..., object], *arrays: Array) -> Array:
    """A new array that ``work(*arrays, it)`` fills."""
    y: Array = array_module(arrays[-1]).empty_like(arrays[-1])
    threads.pointwise(work, *arrays, y)
    return y


def relu(x: Array, y: Array) -> None:
    """The maximum of x and 0."""
    array_module(x).maximum(x, zeros(x), out=y)


def relu_grad(g: Array, y: Array, dx: Array) -> None:
    """0 where y ≤ 0, else g."""
    kept(g, rectified(y), dx)


def relu6(x: Array, y: Array) -> None:
    """x, no less than 0 and no more than 6."""
    x.clip(0, 6, out=y)


def relu6_grad(g: Array, y: Array, dx: Array) -> None:
    """The gradient g where 0 < y < 6, else 0."""
    kept(g, (y > 0) & (y < 6), dx)


def sigmoid(x: Array, y: Array) -> None:
    """σ(x)."""
    e = _exp(x)
    array_module(x).maximum(e, x >= 0, out=y)  # e, or 1: no more than 1 is e
    e += 1
    y /= e


def sigmoid_grad(g: Array, x: Array, dx: Array) -> None:
    """The gradient g σ (1 - σ) = g e / (1 + e)²."""
    xp, e = array_module(x), _exp(x)
    below = 1 + e
    below *= below
    e /= below
    xp.multiply(g, e, out=dx)


def silu(x: Array, y: Array) -> None:
    """x σ(x) = x / (1 + e⁻ˣ); 0 where e⁻ˣ has no number, below -88 in float32."""
    xp = array_module(x)
    xp.negative(x, out=y)
    with np.errstate(over="ignore"):
        xp.exp(y, out=y)
    y += 1
    xp.divide(xp.maximum(x, -_most(x)), y, out=y)  # -∞ / ∞ is not 0


def silu_grad(g: Array, x: Array, dx: Array) -> None:
    """The gradient g σ (1 + x (1 - σ))."""
    xp = array_module(x)
    slope, most = xp.empty_like(x), _most(x)
    sigmoid(-x, slope)
    slope *= x.clip(-most, most)  # 0 times an infinite number is not 0
    slope += 1
    sigmoid(x, dx)
    dx *= slope
    xp.multiply(g, dx, out=dx)


def _most(x: Array) -> float:
    """The largest number in the dtype of x."""
    return float(np.finfo(x.dtype).max)


def _exp(x: Array) -> Array:
    """The e of the formulas, new."""
    xp = array_module(x)
    e = abs(x)  # and its negative: many times as fast as copysign
    xp.negative(e, out=e)
    result: Array = xp.exp(e, out=e)
    return result
