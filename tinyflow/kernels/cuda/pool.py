"""Pooling of images (N, H, W, C): launches pool.cu."""

from __future__ import annotations

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.cuda.module import (
    APPLY_BLOCKS,
    Dims,
    Rows,
    as_rows,
    launch,
    rows,
    tiles,
)
from tinyflow.kernels.geometry import Pair, Window


def max_pool2d(
    x: Array, window: Window, *, out: Array | None = None
) -> tuple[Array, Array]:
    """The maximum over each window, and its tap u kw + v as uint8: at most 256 taps."""
    if window.taps > 256:
        raise ValueError(f"max_pool2d: {window.kernel} has more than 256 taps")
    y = _image(x, window.out(x.shape[1:3]), out)
    taps = array_module(x).empty(y.shape, np.uint8)
    of, steps = _together("max_pool2d", y, x)
    if of.m and of.c:
        t = tiles(of.m, of.c, of.variant.vector, APPLY_BLOCKS, 1)
        launch(
            *(of.variant, "max_pool", t.grid, t.block, x, steps[1], y, steps[0], taps),
            *(of.m, of.c, t.chunk),
            *shapes(x.shape, y.shape, window),
        )
    return y, taps


def max_pool2d_input_grad(
    g: Array,
    taps: Array,
    x_shape: Dims,
    window: Window,
    *,
    out: Array | None = None,
) -> Array:
    """Each g at the pixel its maximum came from. `x_shape` is (N, H, W, C)."""
    name = "max_pool2d_input_grad"
    if taps.dtype != np.uint8 or taps.shape != g.shape or not taps.flags.c_contiguous:
        raise ValueError(f"{name}: the taps must be uint8, contiguous, shaped like g")
    dx = _image(g, x_shape[1:3], out)
    of, steps = _together(name, dx, g)
    if of.m and of.c:
        t = tiles(of.m, of.c, of.variant.vector, APPLY_BLOCKS, 1)
        launch(
            *(of.variant, "max_pool_gradient", t.grid, t.block, g, steps[1], taps),
            *(dx, steps[0], of.m, of.c, t.chunk),
            *shapes(x_shape, g.shape, window),
        )
    return dx


def avg_pool2d(
    x: Array,
    window: Window,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """The average over each window."""
    border, y = window.padding, _image(x, window.out(x.shape[1:3]), out)
    of, steps = _together("avg_pool2d", y, x)
    if of.m and of.c:
        t = tiles(of.m, of.c, of.variant.vector, APPLY_BLOCKS, 1)
        launch(
            *(of.variant, "avg_pool", t.grid, t.block, x, steps[1], y, steps[0]),
            *(of.m, of.c, t.chunk),
            *shapes(x.shape, y.shape, window),
            *(border[1], border[3], int(count_include_pad), divisor_override or 0),
        )
    return y


def avg_pool2d_input_grad(
    g: Array,
    x_shape: Dims,
    window: Window,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Each g, divided, at all pixels of its window. `x_shape` is (N, H, W, C)."""
    border, dx = window.padding, _image(g, x_shape[1:3], out)
    of, steps = _together("avg_pool2d_input_grad", dx, g)
    if of.m and of.c:
        t = tiles(of.m, of.c, of.variant.vector, APPLY_BLOCKS, 1)
        launch(
            *(of.variant, "avg_pool_gradient", t.grid, t.block, g, steps[1]),
            *(dx, steps[0], of.m, of.c, t.chunk),
            *shapes(x_shape, g.shape, window),
            *(border[1], border[3], int(count_include_pad), divisor_override or 0),
        )
    return dx


def global_avg_pool2d(x: Array) -> Array:
    """The average over each map, (N, C)."""
    n, h, w, c = x.shape
    y: Array = array_module(x).empty((n, c), x.dtype)
    of = rows("pool", "global_avg_pool2d", as_rows("global_avg_pool2d", x))
    if of.m and of.c:
        t = tiles(h * w, c, of.variant.vector)
        launch(
            *(of.variant, "global_avg_pool", (t.grid[0], int(n)), t.block),
            *(x, of.steps[0], y, of.m, of.c, h * w),
        )
    return y


def global_avg_pool2d_input_grad(
    g: Array, size: Pair, *, out: Array | None = None
) -> Array:
    """The gradient g (N, C) / (H W) at every pixel, (N, H, W, C); `size` is (H, W)."""
    name = "global_avg_pool2d_input_grad"
    if g.ndim != 2 or not g.flags.c_contiguous:
        raise ValueError(f"{name}: needs contiguous (N, C), got {g.shape}")
    n, c = g.shape
    dx = _image(g.reshape(n, 1, 1, c), size, out)
    of, steps = _together(name, dx, g.reshape(n, 1, 1, c))
    if of.m and of.c:
        area = size[0] * size[1]
        t = tiles(area, c, of.variant.vector)
        launch(
            *(of.variant, "global_avg_pool_gradient", (t.grid[0], int(n)), t.block),
            *(g, dx, steps[0], of.m, of.c, area),
        )
    return dx


def _image(like: Array, size: Dims, out: Array | None) -> Array:
    """`out`, checked, or a new image of that height and width."""
    shape = (like.shape[0], *size, like.shape[3])
    if out is None:
        new: Array = array_module(like).empty(shape, like.dtype)
        return new
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, the result {shape}")
    return out


def _together(name: str, written: Array, read: Array) -> tuple[Rows, Dims]:
    """The rows of the image that is written, vectors both allow, and both row steps."""
    of = rows("pool", name, as_rows(name, written))
    other = rows("pool", name, as_rows(name, read))
    if of.variant.dtype != other.variant.dtype or written.shape[3] != read.shape[3]:
        raise ValueError(f"{name}: the images differ in type or channels")
    narrow = min(of.variant, other.variant, key=lambda v: v.vector)
    return of._replace(variant=narrow), (of.steps[0], other.steps[0])


def shapes(x_shape: Dims, y_shape: Dims, window: Window) -> tuple[int, ...]:
    """GEOMETRY in pool.cu."""
    kernel, stride, border, dilation, _ = window
    sizes = (*x_shape[1:3], *y_shape[1:3], *kernel, *stride)
    return tuple(map(int, (*sizes, border[0], border[2], *dilation)))
