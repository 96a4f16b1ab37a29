"""Depthwise convolution: each channel has its own kernel, so there is no matrix.

With x and y as (H, W, N, C) buffers and w as (kh, kw, C), per tap (u, v):

    y[o, q]  += x[o s + u d - p, q s + v d - p] w[u, v]
    dx[...]  += g[o, q] w[u, v]
    dw[u, v]  = sum over o, q, n of g[o, q] x[...]

Traffic: each tap reads its shifted map and writes a product; rows are done in blocks so
that the product stays in the cache. Many channels are long enough to be multiplied and
added up in one go, a row of them at a time. Threads take samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.plain import threads
from tinyflow.kernels.plain.scratch import scratch
from tinyflow.kernels.window import Place, Tap, Windows
from tinyflow.sums import column_sums

BLOCK_BYTES = 1 << 20
"""Bytes of output per block (one row at least)."""


MANY = 64
"""Channels from which a window is one sum."""

Result = TypeVar("Result")
Shift: TypeAlias = tuple[Tap, Tap, Place, Place]
"""Vertical and horizontal tap, where to and where from."""


def _shared(like: Array, work: Callable[[slice], Result]) -> list[Result]:
    """The work on all samples of `like` (H, W, N, C), in parts."""
    n = int(like.shape[2])
    least = -(-threads.WORTH * n // max(1, int(like.size)))
    return threads.divide(like, n, least, lambda lo, hi: work(slice(lo, hi)), n)


def forward(x: Array, w: Array, grid: Windows) -> Array:
    """The output (H', W', N, C), new, for x (H, W, N, C) and w (kh, kw, C)."""
    xp = array_module(x)
    whole: Array = xp.zeros((*grid.out, *x.shape[2:]), dtype=x.dtype)
    summed = xp is np and x.shape[3] >= MANY

    def part(samples: slice) -> None:
        part_of_x, y = x[:, :, samples], whole[:, :, samples]
        if summed:
            _sum(part_of_x, w, grid, y)
            return
        _add(y, part_of_x, w, grid.shifts(_height(y)))

    _shared(whole, part)
    return whole


def _add(y: Array, x: Array, w: Array, shifts: Iterable[Shift]) -> None:
    """Adds x w at each tap to the places of y that it meets."""
    xp = array_module(x)
    for row, col, target, source in shifts:
        product = scratch("product", y[target].shape, x)
        xp.multiply(x[source], w[row.index, col.index], out=product)
        y[target] += product


def _sum(x: Array, w: Array, grid: Windows, y: Array) -> None:
    """Writes to y the sums over whole windows of x, padded."""
    if not (grid.rows and grid.cols):
        return
    axes = [
        _Axis.of(*axis)
        for axis in zip(
            (grid.rows, grid.cols), grid.stride, grid.out, x.shape[:2], strict=True
        )
    ]
    wide = scratch("columns", (*(a.size for a in axes), *x.shape[2:]), x)
    wide[...] = 0
    v, h = axes
    wide[v.before : v.before + len(x), h.before : h.before + x.shape[1]] = x
    down, across, *rest = wide.strides
    shape = v.out, h.out, v.taps, h.taps, *x.shape[2:]
    strides = v.stride * down, h.stride * across, v.apart * down, h.apart * across
    windows = np.lib.stride_tricks.as_strided(
        wide[v.first :, h.first :], shape, (*strides, *rest)
    )
    taps = w[grid.rows[0].index :, grid.cols[0].index :][: v.taps, : h.taps]
    np.einsum("hwuvnc,uvc->hwnc", windows, taps, out=y)


class _Axis(NamedTuple):
    """One axis of windows over a padded map: what as_strided needs."""

    before: int
    size: int
    first: int
    taps: int
    apart: int
    stride: int
    out: int

    @classmethod
    def of(cls, taps: list[Tap], stride: int, out: int, size: int) -> _Axis:
        """For outputs 0 … out - 1 of a map of `size` pixels."""
        shifts = [t.start - t.lo * stride for t in taps]
        before = max(0, -shifts[0])
        end = max(size, (out - 1) * stride + shifts[-1] + 1)
        apart = shifts[1] - shifts[0] if len(shifts) > 1 else 1
        first = before + shifts[0]
        return cls(before, before + end, first, len(taps), apart, stride, out)


def input_grad(g: Array, w: Array, x_shape: tuple[int, ...], grid: Windows) -> Array:
    """The gradient dx (H, W, N, C), new, for g (H', W', N, C)."""
    xp = array_module(g)
    whole: Array = xp.zeros(x_shape, dtype=g.dtype)

    def part(samples: slice) -> None:
        part_of_g, dx = g[:, :, samples], whole[:, :, samples]
        shifts = grid.shifts(_height(part_of_g))
        _add(dx, part_of_g, w, ((row, col, b, a) for row, col, a, b in shifts))

    _shared(whole, part)
    return whole


def weight_grad(g: Array, x: Array, w_shape: tuple[int, ...], grid: Windows) -> Array:
    """The gradient dw (kh, kw, C), new, for g (H', W', N, C) and x (H, W, N, C)."""
    xp = array_module(x)

    def part(samples: slice) -> Array:
        part_of_g, part_of_x = g[:, :, samples], x[:, :, samples]
        dw: Array = xp.zeros(w_shape, dtype="float64" if xp is np else x.dtype)
        for row, col, target, source in grid.shifts(_height(part_of_g)):
            product = scratch("product", part_of_g[target].shape, x)
            xp.multiply(part_of_g[target], part_of_x[source], out=product)
            dw[row.index, col.index] += column_sums(product.reshape(-1, w_shape[2]))
        return dw

    parts = _shared(x, part)
    dw: Array = sum(parts[1:], parts[0])
    return dw.astype(x.dtype)


def _height(y: Array) -> int:
    """Output rows per block; a GPU wants few large launches instead."""
    if not isinstance(y, np.ndarray):
        return max(1, int(y.shape[0]))
    return max(1, BLOCK_BYTES // max(1, int(y[0].nbytes)))
