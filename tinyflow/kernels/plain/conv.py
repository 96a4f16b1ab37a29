"""2-d convolution and its two gradients: which kernel does which shape.

Notation, throughout this folder: x (N, C, H, W), w (K, C/groups, kh, kw), y and g
(N, K, H', W'); the border is zeros. Arrays are stored as :mod:`tinyflow.kernels.layout`
says, which is also the order of every result; an input stored otherwise is copied once.
Weights are best stored the same way, as (kh, kw, K, C), which is how their gradient
comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tinyflow.backend import Array, array_module
from tinyflow.kernels.geometry import Conv, Shape
from tinyflow.kernels.layout import from_rows, swap, to_hwnc, to_rows
from tinyflow.kernels.plain import (
    conv_depthwise,
    conv_rows,
    conv_stack,
    conv_taps,
    threads,
)
from tinyflow.kernels.plain.product import product
from tinyflow.kernels.window import Windows, adjoint, windows

Result = TypeVar("Result")

STACK_LENGTH = 32
"""Kernels of at most this many horizontal taps times channels are stacked."""

TAP_WIDTH = 4
"""Maps up to this wide are convolved tap by tap."""

TAP_CHANNELS = 256
"""So are maps of this many channels or more, at any width."""


def conv2d_forward(x: Array, w: Array, geometry: Conv) -> Array:
    """Output y[n,k,i,j] = Σ_{c,u,v} w[k,c,u,v] x[n, c, i·s+u·d-p, j·s+v·d-p], new."""
    xb, wb, groups = to_hwnc(x), to_hwnc(w), geometry.groups
    grid = windows(xb.shape[:2], geometry.window(wb.shape[:2]))
    if groups == 1 and (tap := grid.only_tap(xb.shape[:2])):
        return _pixels_times(xb, wb[tap].T)
    if _depthwise(wb, groups):
        return swap(conv_depthwise.forward(xb, wb[..., 0], grid))
    return swap(_grouped(xb, wb, grid, groups))


def conv2d_input_grad(g: Array, w: Array, x_shape: Shape, geometry: Conv) -> Array:
    """∂L/∂x[n,c,r,q] = Σ w[k,c,u,v] g[n,k,i,j] over i·s+u·d-p = r, j·s+v·d-p = q, new.

    With stride 1 this is a convolution of g with the kernel turned by 180 degrees and
    its input and output channels exchanged. With a stride it is one such convolution
    for each remainder of (r, q) modulo the stride, with those taps of the kernel that
    meet it: together they make exactly the products of the forward pass.
    """
    gb, wb = to_hwnc(g), to_hwnc(w)
    n, c, h, width = x_shape
    grid, stride = windows((h, width), geometry.window(wb.shape[:2])), geometry.stride
    groups = geometry.groups
    if groups == 1 and (tap := grid.only_tap((h, width))):
        return _pixels_times(gb, wb[tap])
    if _depthwise(wb, groups):
        return swap(conv_depthwise.input_grad(gb, wb[..., 0], (h, width, n, c), grid))
    # Within a group, (kh, kw, K, C) -> (kh, kw, C, K); groups stay in their order.
    kh, kw, k, cg = wb.shape
    turned = wb.reshape(kh, kw, groups, k // groups, cg).swapaxes(-1, -2)
    turned = turned.reshape(kh, kw, c, k // groups)
    rows, cols = adjoint(grid.rows, stride[0]), adjoint(grid.cols, stride[1])
    if stride == (1, 1) and rows and cols:
        dense = Windows(rows[0][1], cols[0][1], (1, 1), (h, width))
        return swap(_grouped(gb, turned, dense, groups))
    dx = array_module(g).zeros((h, width, n, c), dtype=g.dtype)
    for row_phase, row_taps in rows:
        for col_phase, col_taps in cols:
            part = dx[row_phase :: stride[0], col_phase :: stride[1]]
            dense = Windows(row_taps, col_taps, (1, 1), part.shape[:2])
            part[...] = _grouped(gb, turned, dense, groups)
    return swap(dx)


def conv2d_weight_grad(g: Array, x: Array, w_shape: Shape, geometry: Conv) -> Array:
    """∂L/∂w[k,c,u,v] = Σ_{n,i,j} g[n,k,i,j] x[n, c, i·s+u·d-p, j·s+v·d-p], new."""
    gb, xb = to_hwnc(g), to_hwnc(x)
    (k, cg, kh, kw), groups = w_shape, geometry.groups
    grid = windows(xb.shape[:2], geometry.window((kh, kw)))
    if groups == 1 and (tap := grid.only_tap(xb.shape[:2])):
        sums = product(to_rows(swap(gb)).T, to_rows(swap(xb)), len(x))
        if kh == kw == 1:
            return swap(sums.reshape(1, 1, k, cg))
        dw = array_module(x).zeros((kh, kw, k, cg), dtype=x.dtype)
        dw[tap] = sums
        return swap(dw)
    if cg == 1 and k == groups:
        return swap(conv_depthwise.weight_grad(gb, xb, (kh, kw, k), grid)[..., None])
    if groups == 1:
        return swap(_dense_weight_grad(gb, xb, (kh, kw, k, cg), grid))
    xp = array_module(x)
    dw = xp.empty((kh, kw, k, cg), dtype=x.dtype)
    for i in range(groups):
        ks, cs = _channels(i, k // groups), _channels(i, cg)
        gi, xi = (xp.ascontiguousarray(z) for z in (gb[..., ks], xb[..., cs]))
        dw[:, :, ks] = _dense_weight_grad(gi, xi, (kh, kw, k // groups, cg), grid)
    return swap(dw)


def _pixels_times(x: Array, matrix: Array) -> Array:
    """Each pixel of x (H, W, N, C) times a matrix (C, K), as (N, K, H, W)."""
    h, w, n, _ = x.shape
    y = product(to_rows(swap(x)), matrix, n)
    return from_rows(y, (n, matrix.shape[1], h, w))


def _depthwise(w: Array, groups: int) -> bool:
    """Whether w (kh, kw, K, C/groups) gives every channel one kernel of its own."""
    return (w.shape[2], w.shape[3]) == (groups, 1)


def _channels(group: int, count: int) -> slice:
    return slice(group * count, (group + 1) * count)


def _grouped(x: Array, w: Array, grid: Windows, groups: int) -> Array:
    """Output (H', W', N, K) of x (H, W, N, C) and w (kh, kw, K, C/groups)."""
    if groups == 1:
        return _dense(x, w, grid)
    xp = array_module(x)
    k, c = w.shape[2] // groups, w.shape[3]
    y: Array = xp.empty((*grid.out, x.shape[2], w.shape[2]), dtype=x.dtype)
    for i in range(groups):
        ks, cs = _channels(i, k), _channels(i, c)
        y[..., ks] = _dense(xp.ascontiguousarray(x[..., cs]), w[:, :, ks], grid)
    return y


def _dense(x: Array, w: Array, grid: Windows) -> Array:
    """One group, by the kernel that suits it; the selection rule of the whole library.

    Where a single tap meets the whole map, as in 1x1 kernels, nothing comes here: that
    is one product.

    * Few channels (images): the full columns, one product (`conv_stack`).
    * Many channels, or a small map: tap by tap (`conv_taps`). On small maps gathered
      columns would hold the largest share of zeros; with many channels the products
      are large enough not to need joining.
    * All others, and kernels with one column of taps that meets the map, such as 5x1
      kernels: row columns (`conv_rows`), whose gather is cheap or nothing.

    The weight gradient has the same first rule and `conv_rows` for the rest.

    Threads take rows of the output; or, where those are few, channels of it.
    """
    xp = array_module(x)
    y: Array = xp.empty((*grid.out, x.shape[2], w.shape[2]), dtype=x.dtype)
    if _empty(y, x, grid):
        y[...] = 0
        return y
    narrow = grid.out[1] <= TAP_WIDTH or x.shape[3] >= TAP_CHANNELS
    if _few_channels(x, grid):
        kernel = conv_stack.forward
    elif len(grid.cols) > 1 and narrow:
        kernel = conv_taps.forward
    else:
        kernel = conv_rows.forward

    def some_rows(lo: int, hi: int) -> None:
        part = grid.part(lo, hi)
        if part.rows:
            kernel(x, w, part, y[lo:hi])
        else:
            y[lo:hi] = 0

    def some_channels(lo: int, hi: int) -> None:
        kernel(x, w[:, :, lo:hi], grid, y[..., lo:hi])

    _divide(y, _products(x, w.shape, grid), some_rows, some_channels)
    return y


def _dense_weight_grad(
    g: Array, x: Array, w_shape: tuple[int, ...], grid: Windows
) -> Array:
    """The gradient dW (kh, kw, K, C) of one group; see :func:`_dense` for the rule."""
    xp = array_module(x)
    dw: Array = xp.empty(w_shape, dtype=x.dtype)
    if _empty(dw, x, grid):
        dw[...] = 0
        return dw
    kernel = (conv_stack if _few_channels(x, grid) else conv_rows).weight_grad

    def some_rows(lo: int, hi: int) -> Array:
        part = grid.part(lo, hi)
        sums = dw if lo == 0 else xp.empty(w_shape, dtype=x.dtype)
        if part.rows:
            kernel(g[lo:hi], x, part, sums)
        else:
            sums[...] = 0
        return sums

    def some_channels(lo: int, hi: int) -> Array:
        kernel(g[..., lo:hi], x, grid, dw[:, :, lo:hi])
        return dw

    for sums in _divide(g, _products(x, w_shape, grid), some_rows, some_channels):
        if sums is not dw:
            dw += sums
    return dw


def _divide(
    y: Array,
    products: int,
    some_rows: Callable[[int, int], Result],
    some_channels: Callable[[int, int], Result],
) -> list[Result]:
    """Work on y (H', W', N, K) shared among threads by rows, or by channels."""
    rows, _, samples, channels = y.shape
    along_channels = channels > y.size // channels or rows < threads.count()
    total, work = (channels, some_channels) if along_channels else (rows, some_rows)
    least = -(-threads.PRODUCTS * total // products)
    return threads.divide(y, total, least, work, samples)


def _products(x: Array, w_shape: tuple[int, ...], grid: Windows) -> int:
    """Multiplications of a convolution, those with padding included."""
    taken = len(grid.rows) * len(grid.cols) * int(w_shape[2]) * int(w_shape[3])
    return grid.out[0] * grid.out[1] * int(x.shape[2]) * taken


def _empty(result: Array, x: Array, grid: Windows) -> bool:
    """Whether there is nothing but padding, no image, or no result."""
    return not (grid.rows and grid.cols and x.size and result.size)


def _few_channels(x: Array, grid: Windows) -> bool:
    return len(grid.rows) > 1 and len(grid.cols) * int(x.shape[3]) <= STACK_LENGTH
