"""Windows as the C code takes them: two axes, made once for each shape."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels import pool
from tinyflow.kernels.engine import How, Shape
from tinyflow.kernels.window import out_size


class Axis(ctypes.Structure):
    """One axis of a window: ``axis`` in conv.h."""

    _fields_ = tuple(
        (name, ctypes.c_long)
        for name in ("size", "out", "kernel", "stride", "dilation", "before", "adjoint")
    )


def ref(axis: Axis) -> object:
    """A pointer to it."""
    return ctypes.byref(axis)


def takes(a: Array, b: Array, how: How, w_shape: Shape) -> bool:
    """Both float32 and not empty, one group, at most 256 taps."""
    return (
        a.dtype == np.float32
        and b.dtype == np.float32
        and how[3] == 1
        and w_shape[2] * w_shape[3] <= 256
        and a.size > 0
        and b.size > 0
    )


@lru_cache(maxsize=1024)
def axes(x_shape: Shape, w_shape: Shape, how: How) -> tuple[Axis, Axis]:
    """Vertical and horizontal axis; they are only read, and so may be shared."""
    stride, padding, dilation, _ = how
    made = []
    for a in (0, 1):
        before, after = padding[2 * a], padding[2 * a + 1]
        size, kernel = x_shape[2 + a], w_shape[2 + a]
        out = out_size(size, kernel, stride[a], dilation[a], before, after)
        made.append(Axis(size, out, kernel, stride[a], dilation[a], before, 0))
    return made[0], made[1]


@lru_cache(maxsize=1024)
def adjoints(x_shape: Shape, w_shape: Shape, how: How) -> tuple[Axis, Axis]:
    """The axes of the input gradient."""
    v, h = axes(x_shape, w_shape, how)
    return adjoint(v), adjoint(h)


def adjoint(a: Axis) -> Axis:
    """Input and output exchanged."""
    return Axis(a.out, a.size, a.kernel, a.stride, a.dilation, a.before, 1)


def pool_axes(x_shape: Shape, how: pool.How) -> tuple[Axis, Axis] | None:
    """The axes of a window that the C code takes: whole windows, up to 256 taps."""
    kernel, stride, padding, dilation, ceil_mode = how
    if ceil_mode or kernel[0] * kernel[1] > 256:
        return None
    square = (stride, pool.four_sides(padding), dilation, 1)
    return axes(x_shape, (0, 0, *kernel), square)
