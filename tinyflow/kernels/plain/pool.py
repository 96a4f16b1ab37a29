"""Pooling over windows, tap by tap: each tap is one strided slice of the map.

x is (N, C, H, W), y and g (N, C, H', W'). Buffers are (H, W, N, C), so a slice is
made of contiguous runs of N C (or more) numbers. Output rows are done in blocks that
stay in the L2 cache over all kh kw taps: memory sees x and y once each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.geometry import Shape, Window
from tinyflow.kernels.layout import swap, to_hwnc
from tinyflow.kernels.plain.mask import kept
from tinyflow.kernels.plain.scratch import scratch
from tinyflow.kernels.window import Place, Windows, windows
from tinyflow.sums import FEW

BLOCK_BYTES = 256 << 10
"""Bytes of output per block (one row at least)."""


def max_pool2d_forward(x: Array, window: Window) -> tuple[Array, Array]:
    """The maximum over each window, and which tap (u kw + v) it came from.

    As in PyTorch, padding never wins, the first of equal maxima does, and a NaN beats
    everything before it. A window of nothing but padding gives -inf from tap 0: callers
    refuse such windows.

    Returns:
        y, and the taps as uint8 (int32 beyond 256 of them), both new.
    """
    xp = array_module(x)
    xb = to_hwnc(x)
    grid = windows(xb.shape[:2], window)
    y = xp.full((*grid.out, *xb.shape[2:]), -xp.inf, dtype=x.dtype)
    argmax = xp.empty(y.shape, dtype="uint8" if window.taps <= 256 else "i4")
    argmax[...] = _first_taps(argmax, window.kernel[1], grid)
    for tap, target, source in _shifts(y, window.kernel[1], grid):
        seen, best = xb[source], y[target]
        better = seen > best
        better |= seen != seen
        xp.maximum(best, seen, out=best)
        if tap:  # taps come in rising order, so the last to win is the largest
            winner = argmax[target]
            xp.maximum(winner, better * argmax.dtype.type(tap), out=winner)
    return swap(y), swap(argmax)


def max_pool2d_input_grad(
    g: Array, argmax: Array, x_shape: Shape, window: Window
) -> Array:
    """∂L/∂x: each g at the pixel its maximum came from, summed over windows."""
    xp = array_module(g)
    gb, winner = to_hwnc(g), to_hwnc(argmax)
    n, c, h, w = x_shape
    grid = windows((h, w), window)
    kernel, stride, _, dilation, _ = window
    alone = dilation == (1, 1) and stride[0] >= kernel[0] and stride[1] >= kernel[1]
    dx = xp.zeros((h, w, n, c), g.dtype if alone else _sum_dtype(g, window))
    for tap, target, source in _shifts(gb, window.kernel[1], grid):
        hit = winner[target] == tap
        if alone:  # no pixel is seen twice
            kept(gb[target], hit, dx[source])
        else:
            dx[source] += kept(gb[target], hit, scratch("product", hit.shape, g))
    return swap(dx.astype(g.dtype, copy=False))


def avg_pool2d_forward(
    x: Array, window: Window, count_include_pad: bool, divisor_override: int | None
) -> Array:
    """(Sum over each window) / D, new; D is :func:`_divisor`'s."""
    xb = to_hwnc(x)
    grid = windows(xb.shape[:2], window)
    y = array_module(x).zeros((*grid.out, *xb.shape[2:]), _sum_dtype(x, window))
    for _, target, source in _shifts(y, window.kernel[1], grid):
        y[target] += xb[source]
    y /= _divisor(y, x.shape[2:], window, count_include_pad, divisor_override)
    return swap(y.astype(x.dtype, copy=False))


def avg_pool2d_input_grad(
    g: Array,
    x_shape: Shape,
    window: Window,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    """∂L/∂x = sum of g / D over the windows that saw x, new."""
    gb = to_hwnc(g)
    n, c, h, w = x_shape
    grid = windows((h, w), window)
    each = _divisor(gb, x_shape[2:], window, count_include_pad, divisor_override)
    share = gb / each
    dx = array_module(g).zeros((h, w, n, c), _sum_dtype(g, window))
    for _, target, source in _shifts(share, window.kernel[1], grid):
        dx[source] += share[target]
    return swap(dx.astype(g.dtype, copy=False))


def _sum_dtype(x: Array, window: Window) -> Any:
    """In which sums over a window are taken: double if it is large, on the CPU."""
    wide = window.taps > FEW and isinstance(x, np.ndarray)
    return np.float64 if wide else x.dtype


def _shifts(y: Array, kw: int, grid: Windows) -> Iterator[tuple[int, Place, Place]]:
    """Every (tap number, place in y, place in x) of :meth:`Windows.shifts`."""
    height = grid.out[0]
    if isinstance(y, np.ndarray):
        height = max(1, BLOCK_BYTES // max(1, y[0].nbytes))
    for row, col, target, source in grid.shifts(height):
        yield row.index * kw + col.index, target, source


def _first_taps(like: Array, kw: int, grid: Windows) -> Array:
    """The first tap of each window that lies inside the map, (H', W', 1, 1)."""
    xp = array_module(like)
    first_row = xp.zeros((grid.out[0], 1, 1, 1), dtype=like.dtype)
    first_col = xp.zeros((1, grid.out[1], 1, 1), dtype=like.dtype)
    for tap in reversed(grid.rows):
        first_row[tap.target] = tap.index * kw
    for tap in reversed(grid.cols):
        first_col[:, tap.target] = tap.index
    result: Array = first_row + first_col
    return result


def _divisor(
    like: Array,
    size: Shape,
    window: Window,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Array:
    """D per window, (H', W', 1, 1): its pixels, with those of the padding or without.

    What hangs over the padding (`ceil_mode`) never counts.
    """
    xp = array_module(like)
    if divisor_override is not None:
        constant: Array = xp.full((1, 1, 1, 1), divisor_override, dtype=like.dtype)
        return constant
    counts = []
    for a, out in enumerate(window.out(size)):
        before, after = window.padding[2 * a : 2 * a + 2]
        start = xp.arange(out) * window.stride[a] - before
        end = xp.minimum(start + window.kernel[a], size[a] + after)
        if not count_include_pad:
            start, end = xp.maximum(start, 0), xp.minimum(end, size[a])
        counts.append(end - start)
    area: Array = (counts[0][:, None] * counts[1]).astype(like.dtype)[..., None, None]
    return area
