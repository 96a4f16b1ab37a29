"""Masks select, they do not multiply: 0 times an infinite number is not 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyflow.backend import Array, array_module


def kept(g: Array, where: Array, out: Array | None = None) -> Array:
    """Entries of g where the boolean mask holds, else 0; new, or written to `out`.

    The mask multiplies the bits of g, read as an integer: as fast as a product, ten
    times as fast as a masked copy, and an infinite or undefined g leaves 0.
    """
    xp, bits = array_module(g), f"i{g.dtype.itemsize}"
    if out is None:
        out = xp.empty_like(g)
    xp.multiply(g.view(bits), where, out=out.view(bits))
    return out


def rectified(y: Array) -> Array:
    """Where a ReLU with output y let pass: above 0, and where it is not a number.

    So PyTorch does it: what is undefined going forward is not hidden going back.
    """
    xp = array_module(y)
    stopped: Array = xp.asarray(y <= 0)
    passed: Array = xp.logical_not(stopped, out=stopped)
    return passed


def dropout(
    x: Array, p: float, generator: Any
) -> tuple[Array, Callable[[Array], Array]]:
    """X / (1 - p) with probability 1 - p, else 0, and its pullback, the same."""
    drawn = generator.random(x.shape, dtype="float32")
    keep = array_module(x).asarray(drawn) >= p
    factor = 0.0 if p == 1 else 1 / (1 - p)

    def masked(z: Array) -> Array:
        return kept(z * factor, keep)

    return masked(x), masked
