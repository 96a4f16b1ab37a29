"""Batch normalisation's array code: moments, one affine pass, and its two gradients.

x, g, y and the residual are (N, C, H, W); what belongs to a channel is (C,). All of it
is done on the (H W N, C) matrix, where a channel is a column; x may be a slice of the
channels of a wider buffer. On the CPU the rows are done in blocks that stay in the
cache from one array operation to the next, and where the matrix lies close its rows are
taken N at a time, (H W, N C), since NumPy is slow on short rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.layout import columns, from_rows, swap, to_rows
from tinyflow.kernels.plain import threads
from tinyflow.kernels.plain.mask import kept, rectified
from tinyflow.kernels.plain.scratch import BLOCK, scratch, zeros
from tinyflow.sums import column_products, column_sums

SHORT = 256
"""Rows of fewer channels are taken N at a time."""

Result = TypeVar("Result")


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and variance of each channel, the variance with 1/M of its M values.

    Each column is measured about the mean of a sample of it, so that no value and no
    mean, however far off, costs digits, and then moved to its channel's origin.
    """
    xp, (rows,), n = array_module(x), *_matrices(x)
    near = _near(rows)

    def part(lo: int, hi: int) -> tuple[Array, Array]:
        first, second = _zero_sums(rows), _zero_sums(rows)
        for block in _blocks(rows, lo, hi):
            centred = scratch("product", rows[block].shape, x)
            xp.subtract(rows[block], near, out=centred)
            first += column_sums(centred)
            second += column_products(centred, centred)
        return first, second

    first, second = _sums(len(x), rows, part)
    origin = near[: x.shape[1]].astype(first.dtype)
    moved = near - _spread(origin, n)
    second += moved * (2 * first + len(rows) * moved)
    first += len(rows) * moved
    m = len(rows) * n
    first, second = _fold(first, n) / m, _fold(second, n) / m
    var = xp.maximum(second - first * first, 0)
    return (first + origin).astype(x.dtype), var.astype(x.dtype)


def _near(rows: Array) -> Array:
    """About the mean of each column; exactly what is in it if that is one number.

    Of 2√M of its M values, by an odd step: few things repeat themselves so.
    """
    xp, first = array_module(rows), rows[0]
    some = rows[:: math.isqrt(len(rows)) // 2 | 1]
    near = first + (column_sums(some - first) / len(some)).astype(rows.dtype)
    found: Array = xp.where(xp.isfinite(near), near, 0)
    return found


def gain(var: Array, eps: float, weight: Array | None) -> Array:
    """The factor γ/√(σ² + ε) of each channel; without γ, 1/√(σ² + ε)."""
    inv_std: Array = 1 / array_module(var).sqrt(var + eps)
    return inv_std if weight is None else weight * inv_std


def normalize(
    x: Array, scale: Array, shift: Array, residual: Array | None, relu: bool
) -> Array:
    """Scale x + shift, plus the residual, then max(·, 0) with `relu`: a new array."""
    xp = array_module(x)
    arrays, n = _matrices(*((x,) if residual is None else (x, residual)))
    rows = arrays[0]
    y = xp.empty(rows.shape, x.dtype)
    scale, shift = _spread(scale, n), _spread(shift, n)

    def part(lo: int, hi: int) -> None:
        for block in _blocks(rows, lo, hi):
            to = y[block]
            xp.multiply(rows[block], scale, out=to)
            to += shift
            if residual is not None:
                to += arrays[1][block]
            if relu:
                xp.maximum(to, zeros(to), out=to)

    _divide(len(x), rows, part)
    return from_rows(y, x.shape)


def gradient_sums(
    g: Array, x: Array, mean: Array, y: Array | None
) -> tuple[Array, Array, Array]:
    """Σ g and Σ g (x - mean) per channel, and g.

    With `y`, the output of a ReLU, g is first sent back through it. Where g is a slice,
    on its own: its rows would be summed in another order than those of the new array
    that a ReLU apart hands back.
    """
    xp = array_module(x)
    if y is not None and not to_rows(g).flags.c_contiguous:
        g, y = kept(g, rectified(y)), None
    (gr, xr, *yr), n = _matrices(*((g, x) if y is None else (g, x, y)))
    masked = gr if y is None else xp.empty(gr.shape, g.dtype)
    mean = _spread(mean, n)

    def part(lo: int, hi: int) -> tuple[Array, Array]:
        first, second = _zero_sums(gr), _zero_sums(gr)
        for block in _blocks(gr, lo, hi):
            sent = masked[block]
            if y is not None:
                kept(gr[block], rectified(yr[0][block]), sent)
            first += column_sums(sent)
            centred = scratch("product", sent.shape, x)
            xp.subtract(xr[block], mean, out=centred)
            second += column_products(centred, sent)
        return first, second

    first, second = (_fold(s, n).astype(x.dtype) for s in _sums(len(x), gr, part))
    return first, second, g if y is None else from_rows(masked, x.shape)


def input_grad(g: Array, x: Array, a: Array, b: Array, c: Array) -> Array:
    """The sum a g + b x + c with one a, b, c per channel, new."""
    xp = array_module(x)
    (gr, xr), n = _matrices(g, x)
    a, b, c = (_spread(s, n) for s in (a, b, c))
    dx = xp.empty(gr.shape, g.dtype)

    def part(lo: int, hi: int) -> None:
        for block in _blocks(gr, lo, hi):
            to = dx[block]
            xp.multiply(gr[block], a, out=to)
            product = scratch("product", to.shape, x)
            xp.multiply(xr[block], b, out=product)
            to += product
            to += c

    _divide(len(x), gr, part)
    return from_rows(dx, x.shape)


def gate(x: Array, s: Array) -> Array:
    """The product of x (N, C, H, W) and s (N, C, 1, 1), new."""
    rows, gates = columns(x), columns(s)
    if rows is None or gates is None:
        result: Array = x * s
        return result
    y = array_module(x).empty(rows.shape, x.dtype)

    def part(lo: int, hi: int) -> None:
        array_module(x).multiply(rows[lo:hi], gates, out=y[lo:hi])

    _divide(len(x), rows, part)
    return from_rows(y, x.shape)


def gate_sums(g: Array, x: Array) -> Array:
    """Σ g x over each map, (N, C, 1, 1); where memory orders differ, g x itself."""
    sent, rows = columns(g), columns(x)
    if sent is None or rows is None:
        result: Array = g * x
        return result
    (total,) = _sums(
        len(x), rows, lambda lo, hi: (column_products(sent[lo:hi], rows[lo:hi]),)
    )
    return swap(total.astype(x.dtype).reshape(1, 1, *x.shape[:2]))


def channel_sum(g: Array) -> Array:
    """Σ over all but the channels of (N, C, H, W)."""
    (rows,), n = _matrices(g)

    def part(lo: int, hi: int) -> tuple[Array]:
        total = _zero_sums(rows)
        for block in _blocks(rows, lo, hi):
            total += column_sums(rows[block])
        return (total,)

    (total,) = _sums(len(g), rows, part)
    return _fold(total, n).astype(g.dtype)


def _divide(
    samples: int, rows: Array, part: Callable[[int, int], Result]
) -> list[Result]:
    """The results of part(first row, last row + 1), shared among threads."""
    least = threads.WORTH // max(rows.shape[1], 1)
    return threads.divide(rows, len(rows), least, part, samples)


def _sums(
    samples: int, rows: Array, part: Callable[[int, int], tuple[Array, ...]]
) -> list[Array]:
    """The same, added up."""
    parts = _divide(samples, rows, part)
    return [sum(s[1:], s[0]) for s in zip(*parts, strict=True)]


def _matrices(*arrays: Array) -> tuple[list[Array], int]:
    """(H W N, C) of each, or (H W, N C) and how often the columns repeat channels."""
    n, c = arrays[0].shape[:2]
    rows = [to_rows(a) for a in arrays]
    if n > 1 and c < SHORT and all(r.flags.c_contiguous for r in rows):
        return [r.reshape(len(r) // n, n * c) for r in rows], n
    return rows, 1


def _blocks(rows: Array, lo: int, hi: int) -> Iterator[slice]:
    """Blocks of rows lo ... hi - 1; one block on a GPU."""
    width = max(rows.shape[1], 1)
    step = max(1, BLOCK // width if isinstance(rows, np.ndarray) else hi - lo)
    for start in range(lo, hi, step):
        yield slice(start, min(start + step, hi))


def _zero_sums(rows: Array) -> Array:
    """Room for sums over blocks; in double precision where there are many."""
    xp = array_module(rows)
    zeros: Array = xp.zeros(rows.shape[1], "float64" if xp is np else rows.dtype)
    return zeros


def _spread(s: Array, n: int) -> Array:
    if n == 1:
        return s
    spread: Array = array_module(s).broadcast_to(s, (n, len(s))).reshape(-1)
    return spread


def _fold(s: Array, n: int) -> Array:
    total: Array = s if n == 1 else s.reshape(n, -1).sum(axis=0)
    return total
