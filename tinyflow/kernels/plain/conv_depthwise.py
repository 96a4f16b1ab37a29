"""Depthwise convolution: each channel has its own kernel, so there is no matrix.

With x and y as (H, W, N, C) buffers and w as (kh, kw, C), per tap (u, v):

    y[o, q]  += x[o s + u d - p, q s + v d - p] w[u, v]
    dx[...]  += g[o, q] w[u, v]
    dw[u, v]  = sum over o, q, n of g[o, q] x[...]

Traffic: each tap reads its shifted map and writes a product; rows are done in blocks so
that the product stays in the cache.
"""

from __future__ import annotations

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.plain.scratch import scratch
from tinyflow.kernels.window import Windows
from tinyflow.sums import column_sums

BLOCK_BYTES = 1 << 20
"""Bytes of output per block (one row at least)."""


def forward(x: Array, w: Array, grid: Windows) -> Array:
    """The output (H', W', N, C), new, for x (H, W, N, C) and w (kh, kw, C)."""
    xp = array_module(x)
    y: Array = xp.zeros((*grid.out, *x.shape[2:]), dtype=x.dtype)
    for row, col, target, source in grid.shifts(_height(y)):
        product = scratch("product", y[target].shape, x)
        xp.multiply(x[source], w[row.index, col.index], out=product)
        y[target] += product
    return y


def input_grad(g: Array, w: Array, x_shape: tuple[int, ...], grid: Windows) -> Array:
    """The gradient dx (H, W, N, C), new, for g (H', W', N, C)."""
    xp = array_module(g)
    dx: Array = xp.zeros(x_shape, dtype=g.dtype)
    for row, col, target, source in grid.shifts(_height(g)):
        product = scratch("product", g[target].shape, g)
        xp.multiply(g[target], w[row.index, col.index], out=product)
        dx[source] += product
    return dx


def weight_grad(g: Array, x: Array, w_shape: tuple[int, ...], grid: Windows) -> Array:
    """The gradient dw (kh, kw, C), new, for g (H', W', N, C) and x (H, W, N, C)."""
    xp = array_module(x)
    dw: Array = xp.zeros(w_shape, dtype="float64" if xp is np else x.dtype)
    for row, col, target, source in grid.shifts(_height(g)):
        product = scratch("product", g[target].shape, x)
        xp.multiply(g[target], x[source], out=product)
        dw[row.index, col.index] += column_sums(product.reshape(-1, w_shape[2]))
    return dw.astype(x.dtype)


def _height(y: Array) -> int:
    """Output rows per block; a GPU wants few large launches instead."""
    if not isinstance(y, np.ndarray):
        return max(1, int(y.shape[0]))
    return max(1, BLOCK_BYTES // max(1, int(y[0].nbytes)))
