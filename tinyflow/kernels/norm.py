"""Batch normalisation's array code: moments, one affine pass, and its two gradients.

x, g, y and the residual are (N, C, H, W); what belongs to a channel is (C,). All of it
is done on the (H W N, C) matrix, where a channel is a column; x may be a slice of the
channels of a wider buffer.
"""

from __future__ import annotations

from tinyflow.backend import Array, array_module
from tinyflow.kernels.layout import from_rows, to_rows


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and variance of each channel, the variance with 1/M of its M values."""
    rows = to_rows(x)
    m = rows.shape[0]
    mean = column_sum(rows, x.shape[0]) / m
    centred = rows - mean
    centred *= centred
    return mean, column_sum(centred, x.shape[0]) / m


def normalize(
    x: Array, scale: Array, shift: Array, residual: Array | None, relu: bool
) -> Array:
    """Scale x + shift, plus the residual, then max(·, 0) with `relu`: a new array."""
    y: Array = to_rows(x) * scale
    y += shift
    if residual is not None:
        y += to_rows(residual)
    if relu:
        array_module(y).maximum(y, 0, out=y)
    return from_rows(y, x.shape)


def through_relu(g: Array, y: Array | None) -> Array:
    """The gradient before the ReLU that gave `y`; `g` itself if there was none."""
    return g if y is None else g * (y > 0)


def gradient_sums(g: Array, x: Array, mean: Array) -> tuple[Array, Array]:
    """Σ g and Σ g (x - mean) per channel."""
    rows, n = to_rows(g), x.shape[0]
    centred = to_rows(x) - mean
    centred *= rows
    return column_sum(rows, n), column_sum(centred, n)


def input_grad(g: Array, x: Array, a: Array, b: Array, c: Array) -> Array:
    """The sum a g + b x + c with one a, b, c per channel, new."""
    dx: Array = to_rows(g) * a
    dx += to_rows(x) * b
    dx += c
    return from_rows(dx, x.shape)


def column_sum(rows: Array, n: int) -> Array:
    """Σ over the rows of a (H·W·N, C) matrix, in two levels: per pixel, then samples.

    Two levels keep the float32 rounding of 10⁵ terms at that of a few hundred, and the
    first runs along contiguous memory.
    """
    c = rows.shape[1]
    if n > 1 and rows.flags.c_contiguous:
        rows = rows.reshape(-1, n * c).sum(axis=0).reshape(n, c)
    elif n > 1:
        rows = rows.reshape(-1, n, c).sum(axis=0)
    total: Array = rows.sum(axis=0)
    return total
