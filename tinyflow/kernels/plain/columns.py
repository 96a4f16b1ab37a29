"""Gathering what a kernel's horizontal taps see, so that a product can take it.

Write x for the (H, W, N, C) buffer, s, d, p for stride, dilation, padding. Then

    col[r, o, n, v, c] = x[r, o s + v d - p, n, c]      (H, W', N, kw, C).
"""

from __future__ import annotations

from tinyflow.backend import Array
from tinyflow.kernels.layout import pixels
from tinyflow.kernels.plain.scratch import scratch
from tinyflow.kernels.window import Tap, Windows


def needs_no_gather(x: Array, grid: Windows) -> bool:
    """Whether the columns are x itself: one horizontal tap, which meets all of it."""
    whole = [Tap(grid.cols[0].index, 0, x.shape[1], 0)]
    return grid.cols == whole and grid.stride[1] == 1 and grid.out[1] == int(x.shape[1])


def row_columns(x: Array, grid: Windows, clear: bool) -> Array:
    """The columns of some input rows, (rows, W' N, kw C).

    Only taps that meet the map are stored; where one of them looks over the edge, its
    columns are zero. Blocks of one call share a buffer, so `clear` once is enough.
    """
    height, _, n, c = x.shape
    if needs_no_gather(x, grid):
        return x.reshape(height, -1, c)
    col = scratch("columns", (height, grid.out[1], n, len(grid.cols), c), x)
    to, of = pixels(col), pixels(x)
    for v, tap in enumerate(grid.cols):
        if clear:
            col[:, : tap.lo, :, v] = 0
            col[:, tap.hi :, :, v] = 0
        to[:, tap.target, :, v] = of[:, tap.source(grid.stride[1])]
    return col.reshape(height, grid.out[1] * n, -1)
