"""Convolution tap by tap: no columns at all, kh kw products of shifted maps.

With x and y as (H, W, N, C) buffers, s, d, p for stride, dilation, padding,

    y[o, q] += x[o s + u d - p, q s + v d - p] W[u, v]^T      for each tap (u, v).

The shifted map is a view; only outputs whose input lies inside are multiplied, so no
zero of the padding ever is: on a 2x2 map a 3x3 kernel costs 4/9 of an im2col.
"""

from __future__ import annotations

from tinyflow.backend import Array, array_module
from tinyflow.kernels.plain.scratch import scratch
from tinyflow.kernels.window import Tap, Windows


def forward(x: Array, w: Array, grid: Windows, y: Array) -> None:
    """Write the output for x (H, W, N, C) and w (kh, kw, K, C) to y (H', W', N, K).

    Traffic: x is read, and y updated through a product of its size, once per tap. It
    suits maps that the caches hold and kernels with many channels.
    """
    xp = array_module(x)
    n, c, k = x.shape[2], x.shape[3], w.shape[2]
    pairs = [(row, col) for row in grid.rows for col in grid.cols]
    pairs.sort(key=lambda pair: _area(*pair), reverse=True)
    whole = _area(*pairs[0]) == grid.out[0] * grid.out[1]
    if not whole:
        y[...] = 0
    for row, col in pairs:
        target = y[row.target, col.target]
        height, width = target.shape[:2]
        shifted = x[row.source(grid.stride[0]), col.source(grid.stride[1])]
        wt = w[row.index, col.index].T
        if width == grid.out[1]:  # whole rows, one matrix
            height, width = 1, height * width
        source = shifted.reshape(height, width * n, c)
        if whole and (row, col) == pairs[0]:
            xp.matmul(source, wt, out=target.reshape(height, width * n, k))
        else:
            product = scratch("product", (height, width * n, k), x)
            xp.matmul(source, wt, out=product)
            target += product.reshape(target.shape)


def _area(row: Tap, col: Tap) -> int:
    """How many outputs the tap meets."""
    return (row.hi - row.lo) * (col.hi - col.lo)
