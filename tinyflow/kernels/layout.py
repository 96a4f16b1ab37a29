"""Memory order: logical (N, C, H, W), stored with the channels last and N third.

Every 4-d array has PyTorch's logical shape. Those on the hot path are transposed views
of (H, W, N, C) buffers, called HWNC below. In that order a row of the image is one
contiguous block for the whole batch, so a shift of the image by a pixel is a pointer
offset, and a batch of pixels is a matrix with C columns that BLAS takes as it is.

The permutation (2, 3, 0, 1) is its own inverse, hence one function both ways.
"""

from __future__ import annotations

import numpy as np

from tinyflow.backend import Array, array_module


def swap(x: Array) -> Array:
    """(N, C, H, W) -> (H, W, N, C) and back: a view, nothing is copied."""
    return x.transpose(2, 3, 0, 1)


def to_hwnc(x: Array) -> Array:
    """The HWNC buffer of x (N, C, H, W): itself if stored so, else a copy."""
    buffer: Array = array_module(x).ascontiguousarray(swap(x))
    return buffer


def to_rows(x: Array) -> Array:
    """Matrix (H W N, C) of x (N, C, H, W).

    A view if x is stored as HWNC, or is a slice of the channels of such an array.
    """
    n, c, h, w = x.shape
    rows: Array = swap(x).reshape(h * w * n, c)
    return rows


def from_rows(rows: Array, shape: tuple[int, ...]) -> Array:
    """The (N, C, H, W) view of a matrix (H W N, C), inverse of :func:`to_rows`."""
    n, c, h, w = shape
    return swap(rows.reshape(h, w, n, c))


def columns(x: Array) -> Array | None:
    """Matrix (H W, N C) of x (N, C, H, W): a view, or None if x is not stored so."""
    xb = swap(x)
    if not xb.flags.c_contiguous:
        return None
    h, w, n, c = xb.shape
    rows: Array = xb.reshape(h * w, n * c)
    return rows


def strides(a: Array) -> list[int]:
    """The strides that matter: those of axes longer than 1."""
    return [step for step, n in zip(a.strides, a.shape, strict=True) if n > 1]


def flatten(*arrays: Array) -> list[Array] | None:
    """Each as a vector in memory order; None if they differ in it or have gaps."""
    first = arrays[0]
    places = strides(first)
    if any(a.shape != first.shape or strides(a) != places for a in arrays[1:]):
        return None
    flat = [a.ravel(order="K") for a in arrays]
    return flat if np.may_share_memory(flat[0], first) else None


def pixels(x: Array) -> Array:
    """View x (..., C) as an array (...) of whole pixels, where NumPy allows.

    A copy of strided pixels then moves C numbers at a time, in one loop over many
    pixels instead of one loop per pixel: 15 % of a 16-channel convolution. The last
    axis must be contiguous. CuPy has no such dtype and gets x back.
    """
    if not isinstance(x, np.ndarray):
        return x
    return x.view(np.dtype((np.void, x.shape[-1] * x.itemsize)))[..., 0]
