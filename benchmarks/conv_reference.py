"""Convolution and its two gradients, slow and obvious: what ``plain/conv.py`` means.

The map is padded in full; each tap then sees one strided slice of it, contracted with
the tap's (K, C/groups) matrix group by group. See `conv` for notation and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator

from tinyflow.backend import Array, array_module
from tinyflow.kernels.geometry import Border, Conv, Pair, Shape


def conv2d_forward(x: Array, w: Array, geometry: Conv) -> Array:
    """Output y[n,k,i,j] = Σ_{c,u,v} w[k,c,u,v] x[n, c, i·s+u·d-p, j·s+v·d-p]."""
    xp, (stride, padding, dilation, groups) = array_module(x), geometry
    padded = _pad(x, padding)
    out = _out(padded.shape, w.shape, stride, dilation)
    y = xp.zeros((x.shape[0], groups, w.shape[0] // groups, *out), dtype=x.dtype)
    for u, v, place in _taps(w.shape, out, stride, dilation):
        seen = _split(padded[place], groups)
        tap = w[:, :, u, v].reshape(groups, -1, w.shape[1])
        y += xp.einsum("ngcij,gkc->ngkij", seen, tap)
    result: Array = y.reshape(x.shape[0], w.shape[0], *out)
    return result


def conv2d_input_grad(g: Array, w: Array, x_shape: Shape, geometry: Conv) -> Array:
    """∂L/∂x: each product of the forward pass, read backwards and added where x was."""
    xp, (stride, padding, dilation, groups) = array_module(g), geometry
    n, c, h, width = x_shape
    top, bottom, left, right = padding
    padded = xp.zeros((n, c, h + top + bottom, width + left + right), dtype=g.dtype)
    for u, v, place in _taps(w.shape, g.shape[2:], stride, dilation):
        tap = w[:, :, u, v].reshape(groups, -1, w.shape[1])
        back = xp.einsum("ngkij,gkc->ngcij", _split(g, groups), tap)
        padded[place] += back.reshape(n, c, *g.shape[2:])
    dx: Array = padded[:, :, top : top + h, left : left + width].copy()
    return dx


def conv2d_weight_grad(g: Array, x: Array, w_shape: Shape, geometry: Conv) -> Array:
    """∂L/∂w: for each tap, g against the slice of x that the tap saw."""
    xp, (stride, padding, dilation, groups) = array_module(g), geometry
    padded = _pad(x, padding)
    dw: Array = xp.zeros(w_shape, dtype=x.dtype)
    for u, v, place in _taps(w_shape, g.shape[2:], stride, dilation):
        seen = _split(padded[place], groups)
        tap = xp.einsum("ngkij,ngcij->gkc", _split(g, groups), seen)
        dw[:, :, u, v] = tap.reshape(w_shape[:2])
    return dw


def _pad(x: Array, padding: Border) -> Array:
    top, bottom, left, right = padding
    border = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded: Array = array_module(x).pad(x, border)
    return padded


def _split(x: Array, groups: int) -> Array:
    """(N, C, ...) as (N, groups, C/groups, ...)."""
    return x.reshape(x.shape[0], groups, -1, *x.shape[2:])


def _out(padded: Shape, w_shape: Shape, stride: Pair, dilation: Pair) -> Pair:
    h, w = (
        (padded[a] - dilation[a - 2] * (w_shape[a] - 1) - 1) // stride[a - 2] + 1
        for a in (2, 3)
    )
    return h, w


Place = tuple[slice, slice, slice, slice]


def _taps(
    w_shape: tuple[int, ...], out: tuple[int, ...], stride: Pair, dilation: Pair
) -> Iterator[tuple[int, int, Place]]:
    """Every tap (u, v) and the pixels of the padded map that it sees."""
    everything = slice(None)
    for u in range(w_shape[2]):
        for v in range(w_shape[3]):
            rows, cols = (
                slice(t * d, t * d + (size - 1) * s + 1, s)
                for t, d, size, s in zip((u, v), dilation, out, stride, strict=True)
            )
            yield u, v, (everything, everything, rows, cols)
