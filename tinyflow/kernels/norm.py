"""Batch normalisation's array code: moments, one affine pass, and its two gradients.

x, g, y and the residual are (N, C, H, W); what belongs to a channel is (C,). All of it
is done on the (H W N, C) matrix, where a channel is a column; x may be a slice of the
channels of a wider buffer. On the CPU the rows are done in blocks that stay in the
cache from one array operation to the next, and where the matrix lies close its rows are
taken N at a time, (H W, N C), since NumPy is slow on short rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.layout import from_rows, to_rows
from tinyflow.kernels.scratch import scratch

BLOCK = 1 << 15
"""Entries of a block."""

SHORT = 256
"""Rows of fewer channels are taken N at a time."""


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and variance of each channel, the variance with 1/M of its M values."""
    (rows,), n = _matrices(x)
    m = x.size // x.shape[1]
    near = rows[0, : x.shape[1]]  # about a sample: a mean far off costs no digits
    about = _spread(near, n)
    first, second = _zero_sums(rows), _zero_sums(rows)
    for block in _blocks(rows):
        centred = scratch("product", rows[block].shape, x)
        array_module(x).subtract(rows[block], about, out=centred)
        first += centred.sum(axis=0)
        centred *= centred
        second += centred.sum(axis=0)
    mean, square = _fold(first, n) / m, _fold(second, n) / m
    var = array_module(x).maximum(square - mean * mean, 0)
    return (mean + near).astype(x.dtype), var.astype(x.dtype)


def normalize(
    x: Array, scale: Array, shift: Array, residual: Array | None, relu: bool
) -> Array:
    """Scale x + shift, plus the residual, then max(·, 0) with `relu`: a new array."""
    xp = array_module(x)
    arrays, n = _matrices(*((x,) if residual is None else (x, residual)))
    rows = arrays[0]
    y = xp.empty(rows.shape, x.dtype)
    scale, shift = _spread(scale, n), _spread(shift, n)
    for block in _blocks(rows):
        part = y[block]
        xp.multiply(rows[block], scale, out=part)
        part += shift
        if residual is not None:
            part += arrays[1][block]
        if relu:
            xp.maximum(part, 0, out=part)
    return from_rows(y, x.shape)


def gradient_sums(
    g: Array, x: Array, mean: Array, y: Array | None
) -> tuple[Array, Array, Array]:
    """Σ g and Σ g (x - mean) per channel, and g.

    With `y`, the output of a ReLU, g is first sent back through it.
    """
    xp = array_module(x)
    (gr, xr, *yr), n = _matrices(*((g, x) if y is None else (g, x, y)))
    masked = gr if y is None else xp.empty(gr.shape, g.dtype)
    mean = _spread(mean, n)
    first, second = _zero_sums(gr), _zero_sums(gr)
    for block in _blocks(gr):
        part = masked[block]
        if y is not None:
            xp.multiply(gr[block], yr[0][block] > 0, out=part)
        first += part.sum(axis=0)
        centred = scratch("product", part.shape, x)
        xp.subtract(xr[block], mean, out=centred)
        centred *= part
        second += centred.sum(axis=0)
    sums = (_fold(s, n).astype(x.dtype) for s in (first, second))
    if y is not None:
        g = from_rows(masked, x.shape)
    return next(sums), next(sums), g


def input_grad(g: Array, x: Array, a: Array, b: Array, c: Array) -> Array:
    """The sum a g + b x + c with one a, b, c per channel, new."""
    xp = array_module(x)
    (gr, xr), n = _matrices(g, x)
    a, b, c = (_spread(s, n) for s in (a, b, c))
    dx = xp.empty(gr.shape, g.dtype)
    for block in _blocks(gr):
        part = dx[block]
        xp.multiply(gr[block], a, out=part)
        product = scratch("product", part.shape, x)
        xp.multiply(xr[block], b, out=product)
        part += product
        part += c
    return from_rows(dx, x.shape)


def channel_sum(g: Array) -> Array:
    """Σ over all but the channels of (N, C, H, W)."""
    (rows,), n = _matrices(g)
    total = _zero_sums(rows)
    for block in _blocks(rows):
        total += rows[block].sum(axis=0)
    return _fold(total, n).astype(g.dtype)


def _matrices(*arrays: Array) -> tuple[list[Array], int]:
    """(H W N, C) of each, or (H W, N C) and how often the columns repeat channels."""
    n, c = arrays[0].shape[:2]
    rows = [to_rows(a) for a in arrays]
    if n > 1 and c < SHORT and all(r.flags.c_contiguous for r in rows):
        return [r.reshape(len(r) // n, n * c) for r in rows], n
    return rows, 1


def _blocks(rows: Array) -> Iterator[slice]:
    """Blocks of rows; one block on a GPU."""
    count, width = rows.shape
    step = max(1, BLOCK // max(width, 1)) if isinstance(rows, np.ndarray) else count
    for start in range(0, count, max(step, 1)):
        yield slice(start, start + step)


def _zero_sums(rows: Array) -> Array:
    """Room for sums over blocks; in double precision where there are many."""
    xp = array_module(rows)
    zeros: Array = xp.zeros(rows.shape[1], "float64" if xp is np else rows.dtype)
    return zeros


def _spread(s: Array, n: int) -> Array:
    if n == 1:
        return s
    spread: Array = array_module(s).concatenate([s] * n)
    return spread


def _fold(s: Array, n: int) -> Array:
    total: Array = s if n == 1 else s.reshape(n, -1).sum(axis=0)
    return total
