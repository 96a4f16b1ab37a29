"""Convolution and its two gradients, as calls of the C code.

A group of channels is a convolution of its own that reads and writes slices of wider
maps where they lie. Where every channel is a group (depthwise) there is a kernel of its
own. Each function returns None where the C code does not take the arrays.
"""

from __future__ import annotations

import ctypes
import math

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels.geometry import Conv, Shape
from tinyflow.kernels.layout import swap, to_hwnc
from tinyflow.kernels.native.memory import per_channel, ptr
from tinyflow.kernels.native.windows import Axis, adjoints, axes, ref, takes

FLOATS = 4
"""Bytes of one."""
WIDEST = 16
"""Floats of the widest vector; depthwise rows are at least as long."""
PARTS = 8
"""Sums side by side in the depthwise weight gradient: PARTS in depthwise.c."""


def forward(
    library: ctypes.CDLL, x: Array, w: Array, geometry: Conv, bias: Array | None
) -> Array | None:
    """Convolution; see :meth:`tinyflow.kernels.table.Engine.conv2d`."""
    if not takes(x, w, geometry, w.shape):
        return None
    v, h = axes(x.shape, w.shape, geometry)
    shape = v.out, h.out, x.shape[0], w.shape[0]
    b = None if bias is None else per_channel(bias)
    return _conv(library, x, w, b, shape, v, h, geometry.groups, True)


def input_grad(
    library: ctypes.CDLL, g: Array, w: Array, x_shape: Shape, geometry: Conv
) -> Array | None:
    """Its input gradient: the same sum over adjoint axes."""
    if not takes(g, w, geometry, w.shape) or not math.prod(x_shape):
        return None
    n, c, height, width = x_shape
    v, h = adjoints(x_shape, w.shape, geometry)
    shape = height, width, n, c
    return _conv(library, g, w, None, shape, v, h, geometry.groups, False)


def weight_grad(
    library: ctypes.CDLL, g: Array, x: Array, w_shape: Shape, geometry: Conv
) -> Array | None:
    """Its weight gradient, stored as (kh, kw, K, C/groups)."""
    if not takes(g, x, geometry, w_shape):
        return None
    v, h = axes(x.shape, w_shape, geometry)
    (k, c, kh, kw), groups = w_shape, geometry.groups
    if _is_depthwise(w_shape, groups):
        return _depthwise_weights(library, g, x, w_shape, v, h)
    (gb, ldg), (xb, ldx) = _buffer(g), _buffer(x)
    size = x.shape[0], c, k // groups, ref(v), ref(h)
    room = library.tinyflow_weights_room(*size)
    sums = np.empty(room, np.float32) if room else None
    dw = np.empty((kh, kw, k, c), np.float32)
    part = dw if groups == 1 else np.empty((kh, kw, k // groups, c), np.float32)
    for i in range(groups):
        at = slice(i * (k // groups), (i + 1) * (k // groups))
        where = _at(gb, at.start), ldg, _at(xb, i * c), ldx
        library.tinyflow_conv_weights(*where, ptr(part), ptr(sums), *size)
        if groups > 1:
            dw[:, :, at] = part
    return swap(dw)


def _conv(
    library: ctypes.CDLL,
    x: Array,
    w: Array,
    bias: Array | None,
    shape: Shape,
    v: Axis,
    h: Axis,
    groups: int,
    forward: bool,
) -> Array | None:
    """One call for each group, or for all if depthwise; (H', W', N, K) of `shape`."""
    if _is_depthwise(w.shape, groups):
        return _depthwise(library, x, w, bias, shape, v, h)
    (xb, ldx), wb = _buffer(x), to_hwnc(w)
    y = np.empty(shape, np.float32)
    n, c, k = shape[2], x.shape[1] // groups, shape[3] // groups
    ldw = math.prod(wb.shape[2:])
    for i in range(groups):
        library.tinyflow_conv(
            _at(xb, i * c),
            ldx,
            _at(wb, i * c * k),
            ldw,
            None if bias is None else _at(bias, i * k),
            _at(y, i * k),
            shape[3],
            n,
            c,
            k,
            ref(v),
            ref(h),
            int(forward),
        )
    return swap(y)


def _at(array: Array, floats: int) -> int:
    """The address so many floats from the beginning."""
    return int(ptr(array) or 0) + FLOATS * floats


def _buffer(x: Array) -> tuple[Array, int]:
    """(H, W, N, C) of x, slices of channels as they lie; floats from row to row."""
    xb = swap(x)
    _, width, n, c = xb.shape
    if not xb.flags.c_contiguous:
        steps, apart = xb.strides, (width * n, n, 1)
        longest = max(range(3), key=lambda a: xb.shape[a])
        row = steps[longest] // apart[longest]
        wanted = [row * a for a in apart] + [FLOATS]
        pairs = zip(steps, wanted, xb.shape, strict=True)
        fits = row >= FLOATS * c and row % FLOATS == 0
        if fits and all(a == b for a, b, size in pairs if size > 1):
            return xb, row // FLOATS
    return np.ascontiguousarray(xb), c


def _is_depthwise(w_shape: Shape, groups: int) -> bool:
    """Whether every channel has one kernel of its own."""
    return groups > 1 and w_shape[:2] == (groups, 1)


def _joined(n: int, c: int) -> int | None:
    """How many samples count as one, so that its row is WIDEST or longer."""
    return next((r for r in range(1, n + 1) if n % r == 0 and r * c >= WIDEST), None)


def _depthwise(
    library: ctypes.CDLL,
    x: Array,
    w: Array,
    bias: Array | None,
    shape: Shape,
    v: Axis,
    h: Axis,
) -> Array | None:
    """Depthwise convolution, or its input gradient: (H', W', N, C) of `shape`."""
    *_, n, c = shape
    if (r := _joined(n, c)) is None:
        return None
    xb, wb = to_hwnc(x), np.tile(to_hwnc(w)[..., 0], r)
    b = None if bias is None else np.tile(bias, r)
    y = np.empty(shape, np.float32)
    size = n // r, r * c, ref(v), ref(h)
    library.tinyflow_depthwise(ptr(xb), ptr(wb), ptr(b), ptr(y), *size)
    return swap(y)


def _depthwise_weights(
    library: ctypes.CDLL, g: Array, x: Array, w_shape: Shape, v: Axis, h: Axis
) -> Array | None:
    """The weight gradient of one, stored as (kh, kw, C, 1)."""
    c, _, kh, kw = w_shape
    if (r := _joined(len(x), c)) is None:
        return None
    gb, xb = to_hwnc(g), to_hwnc(x)
    sums = np.empty((PARTS, kh, kw, r, c), np.float32)
    size = len(x) // r, r * c, ref(v), ref(h)
    library.tinyflow_depthwise_weights(ptr(gb), ptr(xb), ptr(sums), *size)
    return swap(sums[0].sum(axis=2)[..., None])
