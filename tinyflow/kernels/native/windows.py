"""Windows as the C code takes them: two axes, made once for each shape."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels.geometry import Conv, Shape, Window


class Axis(ctypes.Structure):
    """One axis of a window: ``axis`` in conv.h."""

    _fields_ = tuple(
        (name, ctypes.c_long)
        for name in ("size", "out", "kernel", "stride", "dilation", "before", "adjoint")
    )


def ref(axis: Axis) -> object:
    """A pointer to it."""
    return ctypes.byref(axis)


def takes(a: Array, b: Array, geometry: Conv, w_shape: Shape) -> bool:
    """Both float32 and not empty, at most 256 taps."""
    return (
        a.dtype == np.float32
        and b.dtype == np.float32
        and w_shape[2] * w_shape[3] <= 256
        and a.size > 0
        and b.size > 0
    )


@lru_cache(maxsize=1024)
def axes(x_shape: Shape, w_shape: Shape, geometry: Conv) -> tuple[Axis, Axis]:
    """Vertical and horizontal axis; they are only read, and so may be shared."""
    return _axes(x_shape[2:], geometry.window((w_shape[2], w_shape[3])))


def _axes(size: Shape, window: Window) -> tuple[Axis, Axis]:
    kernel, stride, padding, dilation, _ = window
    out = window.out(size)
    v, h = (
        Axis(size[a], out[a], kernel[a], stride[a], dilation[a], padding[2 * a], 0)
        for a in (0, 1)
    )
    return v, h


@lru_cache(maxsize=1024)
def adjoints(x_shape: Shape, w_shape: Shape, geometry: Conv) -> tuple[Axis, Axis]:
    """The axes of the input gradient."""
    v, h = axes(x_shape, w_shape, geometry)
    return adjoint(v), adjoint(h)


def adjoint(a: Axis) -> Axis:
    """Input and output exchanged."""
    return Axis(a.out, a.size, a.kernel, a.stride, a.dilation, a.before, 1)


@lru_cache(maxsize=1024)
def pool_axes(x_shape: Shape, window: Window) -> tuple[Axis, Axis] | None:
    """The axes of a window that the C code takes: whole windows, up to 256 taps."""
    if window.ceil_mode or window.taps > 256:
        return None
    return _axes(x_shape[2:], window)
