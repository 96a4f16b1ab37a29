"""Convolution of maps with few channels: full columns, one wide product.

With C = 3 a row of the kernel has so few numbers that products by kernel row
(``conv_rows.py``) spend their time adding up outputs. Here the row columns are stacked
once more, along H, into the columns of an im2col,

    full[o, q, n, u, v, c] = x[o s + u d - p, q s + v d - p, n, c],

block by block in the L2 cache, for y = full W^T and dW = g^T full with kh kw C columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.layout import pixels
from tinyflow.kernels.plain.columns import row_columns
from tinyflow.kernels.plain.scratch import scratch
from tinyflow.kernels.window import Windows

BLOCK_BYTES = 4 << 20
"""Full columns gathered at a time, in bytes (one output row at least)."""


def forward(x: Array, w: Array, grid: Windows, y: Array) -> None:
    """Write the output for x (H, W, N, C) and w (kh, kw, K, C) to y (H', W', N, K).

    Traffic: x is read and y written once; the columns stay in L2.
    """
    xp = array_module(x)
    k = w.shape[2]
    taken = [w[row.index, col.index].T for row in grid.rows for col in grid.cols]
    matrix = xp.concatenate(taken)
    for target, full in _blocks(x, grid):
        xp.matmul(full, matrix, out=y[target].reshape(-1, k))


def weight_grad(g: Array, x: Array, grid: Windows, dw: Array) -> None:
    """Write the gradient dW (kh, kw, K, C) for g (H', W', N, K) and x (H, W, N, C)."""
    xp = array_module(x)
    k, c = dw.shape[2:]
    total = xp.zeros((k, len(grid.rows) * len(grid.cols) * c), dtype=x.dtype)
    for target, full in _blocks(x, grid):
        total += xp.matmul(g[target].reshape(-1, k).T, full)
    dw[...] = 0
    for u, row in enumerate(grid.rows):
        for v, col in enumerate(grid.cols):
            begin = (u * len(grid.cols) + v) * c
            dw[row.index, col.index] = total[:, begin : begin + c]


def _blocks(x: Array, grid: Windows) -> Iterator[tuple[slice, Array]]:
    """Blocks of output rows, and their full columns as a matrix until the next one."""
    width, step = grid.out[1] * x.shape[2], grid.stride[0]
    row_length = len(grid.cols) * x.shape[3]
    height = grid.out[0]
    if isinstance(x, np.ndarray):
        row_bytes = width * len(grid.rows) * row_length * x.itemsize
        height = max(1, BLOCK_BYTES // row_bytes)
    for a in range(0, grid.out[0], height):
        b = min(a + height, grid.out[0])
        full = scratch("full", (b - a, width, len(grid.rows), row_length), x)
        met = []
        for u, tap in enumerate(grid.rows):
            lo, hi = max(tap.lo, a), max(tap.lo, a, min(tap.hi, b))
            full[: lo - a, :, u] = 0
            full[hi - a :, :, u] = 0
            if lo < hi:
                start = tap.start + (lo - tap.lo) * step
                met.append((u, lo, hi, start, start + (hi - lo - 1) * step + 1))
        if met:  # else these rows see nothing but padding
            begin, end = min(m[3] for m in met), max(m[4] for m in met)
            col = pixels(row_columns(x[begin:end], grid, clear=True))
            to = pixels(full)
            for u, lo, hi, start, stop in met:
                to[lo - a : hi - a, :, u] = col[start - begin : stop - begin : step]
        yield slice(a, b), full.reshape((b - a) * width, -1)
