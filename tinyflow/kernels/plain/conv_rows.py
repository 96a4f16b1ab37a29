"""Convolution by row columns: gather the taps of one axis, slide along the other.

Write x for the (H, W, N, C) buffer, s, d, p for stride, dilation, padding. The columns

    col[r, o, n, v, c] = x[r, o s + v d - p, n, c]      (H, W', N, kw, C)

hold, for each input row, what the kernel's kw horizontal taps see: kw copies of x,
where a full im2col makes kh kw. A row of the kernel is then one matrix product, and its
shift along H a choice of rows, contiguous in memory (W[u] is that row, (K, kw C)):

    y[o]  += col[o + u - p] W[u]^T       output
    dW[u] += g[o]^T col[o + u - p]       weight gradient

Rows in the vertical padding are neither stored nor multiplied. A vertical stride s is
s sums of stride 1, over x[0::s], x[1::s], ... Rows are done in blocks whose columns
stay in the L2 cache, so that main memory sees x once and y about once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.plain.columns import needs_no_gather, row_columns
from tinyflow.kernels.plain.scratch import scratch
from tinyflow.kernels.window import Windows, phases

BLOCK_BYTES = 2 << 20
"""Columns gathered at a time, in bytes (one row at least)."""

WEIGHT_BLOCK_ROWS = 4096
"""Matrix rows per product of the weight gradient: adding products up must be cheap."""


THIN = 64
"""Up to this many output channels the weight product is made transposed, (kw C, K).

BLAS divides the longer side among its threads: 16 channels gain a factor of two. Larger
kernels gain nothing and would pay for turning the result.
"""


def forward(x: Array, w: Array, grid: Windows, y: Array) -> None:
    """Write the output for x (H, W, N, C) and w (kh, kw, K, C) to y (H', W', N, K).

    Traffic: x is read once, its columns written and read in L2, y written once and
    updated kh - 1 times while its rows are warm.
    """
    xp = array_module(x)
    first = grid.rows[0].index
    y[: grid.rows[0].lo] = 0
    y[grid.rows[0].hi :] = 0
    kernel = _kernel_rows(w, grid)
    for tap, target, col in _blocks(x, grid, least_rows=1):
        rows = y[target].reshape(-1, w.shape[2])
        if tap == first:  # comes to every output row before the other taps do
            xp.matmul(col, kernel[tap], out=rows)
        else:
            product = scratch("product", rows.shape, x)
            xp.matmul(col, kernel[tap], out=product)
            rows += product


def weight_grad(g: Array, x: Array, grid: Windows, dw: Array) -> None:
    """Write the gradient dW (kh, kw, K, C) for g (H', W', N, K) and x (H, W, N, C).

    Traffic: x and g are read once, the columns written once (made again here rather
    than kept from the forward pass).
    """
    xp = array_module(x)
    kh, kw, k, c = dw.shape
    if len(grid.rows) < kh or len(grid.cols) < kw:
        dw[...] = 0  # some taps meet nothing but padding
    width, thin = len(grid.cols) * c, k <= THIN
    total = scratch("total", (kh, width, k) if thin else (kh, k, width), x)
    seen = set()
    for tap, target, col in _blocks(x, grid, least_rows=WEIGHT_BLOCK_ROWS):
        rows = g[target].reshape(-1, k)
        factors = (col.T, rows) if thin else (rows.T, col)
        if tap in seen:
            product = scratch("product", total.shape[1:], x)
            xp.matmul(*factors, out=product)
            total[tap] += product
        else:
            seen.add(tap)
            xp.matmul(*factors, out=total[tap])
    for tap in seen:
        sums = total[tap].T if thin else total[tap]
        for v, met in enumerate(grid.cols):
            dw[tap, met.index] = sums[:, v * c : (v + 1) * c]


def _kernel_rows(w: Array, grid: Windows) -> dict[int, Array]:
    """W[u]^T, a (kw C, K) matrix for each vertical tap u, of the taps that count."""
    rows = {}
    for u in (tap.index for tap in grid.rows):
        taken = [w[u, tap.index].T for tap in grid.cols]
        xp = array_module(w)
        rows[u] = taken[0] if len(taken) == 1 else xp.concatenate(taken)
    return rows


def _blocks(
    x: Array, grid: Windows, least_rows: int
) -> Iterator[tuple[int, slice, Array]]:
    """Every product to be made: (tap u, output rows, their columns as a matrix).

    A product's columns are valid until the next one is asked for.
    """
    for phase, met in phases(grid.rows, grid.stride[0]):
        thinned = x[phase :: grid.stride[0]]
        begin = min(tap.start for tap in met)
        end = max(tap.start + tap.hi - tap.lo for tap in met)
        step = _block_height(x, grid, least_rows)
        for a in range(begin, end, step):
            b = min(a + step, end)
            col = row_columns(thinned[a:b], grid, clear=a == begin)
            for tap in met:
                shift = tap.start - tap.lo  # output row o reads input row o + shift
                lo, hi = max(tap.lo, a - shift), min(tap.hi, b - shift)
                if lo < hi:
                    taken = col[lo + shift - a : hi + shift - a]
                    yield tap.index, slice(lo, hi), taken.reshape(-1, col.shape[-1])


def _block_height(x: Array, grid: Windows, least_rows: int) -> int:
    """Input rows whose columns are gathered at a time."""
    if not isinstance(x, np.ndarray) or needs_no_gather(x, grid):
        return int(x.shape[0])  # a GPU wants few large launches, not a warm L2 cache
    pixels_per_row = grid.out[1] * int(x.shape[2])
    bytes_per_row = pixels_per_row * len(grid.cols) * int(x.shape[3]) * x.itemsize
    return max(1, BLOCK_BYTES // bytes_per_row, -(-least_rows // pixels_per_row))
