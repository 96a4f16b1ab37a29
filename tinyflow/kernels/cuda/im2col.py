"""Explicit columns of images (N, H, W, C): launches im2col.cu."""

from __future__ import annotations

from tinyflow.backend import Array, array_module
from tinyflow.kernels.cuda.module import (
    APPLY_BLOCKS,
    Dims,
    aligned,
    as_rows,
    launch,
    rows,
    tiles,
)
from tinyflow.kernels.cuda.pool import shapes
from tinyflow.kernels.cuda.source import Variant
from tinyflow.kernels.geometry import Window


def im2col(x: Array, window: Window, groups: int = 1) -> Array:
    """What each tap of each window sees, (N H' W', groups, kh kw, C / groups).

    With weights (K, C / groups, kh, kw) the convolution is, for each group, the product
    of these rows with the weights as (kh kw C / groups, K / groups).
    """
    n, h, w, c = x.shape
    size, taps = window.out((h, w)), window.taps
    width = _width("im2col", c, groups)
    shape = (n * size[0] * size[1], groups, taps, width)
    columns: Array = array_module(x).empty(shape, x.dtype)
    of = rows("im2col", "im2col", as_rows("im2col", x))
    variant = _narrow(of.variant, width, columns)
    if columns.size:
        m = shape[0] * taps
        t = tiles(m, c, variant.vector, APPLY_BLOCKS)
        geometry = shapes(x.shape, (n, *size, c), window)
        launch(
            *(variant, "im2col", t.grid, t.block, x, of.steps[0], columns),
            *(m, of.c, t.chunk, width, *geometry),
        )
    return columns


def col2im(
    columns: Array,
    x_shape: Dims,
    window: Window,
    *,
    out: Array | None = None,
) -> Array:
    """The adjoint of :func:`im2col`: each pixel sums the entries copied from it.

    `x_shape` is (N, H, W, C).
    """
    groups, c = columns.shape[1], x_shape[3]
    width, size = _width("col2im", c, groups), window.out(x_shape[1:3])
    shape = (x_shape[0] * size[0] * size[1], groups, window.taps, width)
    if columns.shape != shape or not columns.flags.c_contiguous:
        raise ValueError(
            f"col2im: columns {columns.shape}, contiguous {shape} expected"
        )
    x = array_module(columns).empty(x_shape, columns.dtype) if out is None else out
    if x.shape != tuple(x_shape) or x.dtype != columns.dtype:
        raise ValueError(f"col2im: out is {x.dtype} {x.shape}, {x_shape} expected")
    of = rows("im2col", "col2im", as_rows("col2im", x))
    variant = _narrow(of.variant, width, columns)
    if of.m and of.c:
        t = tiles(of.m, of.c, variant.vector, APPLY_BLOCKS)
        geometry = shapes(x_shape, (x_shape[0], *size, c), window)
        launch(
            *(variant, "col2im", t.grid, t.block, columns, x, of.steps[0]),
            *(of.m, of.c, t.chunk, width, *geometry),
        )
    return x


def _width(name: str, channels: int, groups: int) -> int:
    if groups < 1 or channels % groups:
        raise ValueError(f"{name}: {groups} groups do not divide {channels} channels")
    return int(channels // groups)


def _narrow(variant: Variant, width: int, columns: Array) -> Variant:
    """The variant, or the one without vectors if a group is no whole number of them."""
    if width % variant.vector == 0 and aligned(columns):
        return variant
    return Variant(variant.unit, variant.dtype)
