"""Memory order on a GPU: logical (N, C, H, W), stored with the channels last.

The order in which cuDNN's tensor-core convolutions read images, and in which an image
is a matrix of N H W pixels by C channels. Weights (K, C, kh, kw) lie as (K, kh, kw, C)
for the same reason. CuPy, unlike NumPy, writes the result of an elementwise operation
in C order whatever the order of its inputs was, so arithmetic on images has to be done
on the buffers, never on their logical views.

The permutation is (0, 2, 3, 1), its inverse (0, 3, 1, 2).
"""

from __future__ import annotations

from tinyflow.backend import Array, array_module
from tinyflow.kernels.cuda.module import address, aligned, step


def to_nhwc(x: Array) -> Array:
    """The (N, H, W, C) buffer of x (N, C, H, W): itself if stored so, else a copy."""
    buffer: Array = array_module(x).ascontiguousarray(x.transpose(0, 2, 3, 1))
    return buffer


def from_nhwc(buffer: Array) -> Array:
    """The logical (N, C, H, W) view of a buffer (N, H, W, C); nothing is copied."""
    return buffer.transpose(0, 3, 1, 2)


def to_rows(x: Array) -> Array:
    """Matrix (N H W, C) of x (N, C, H, W), or (N, C) itself, its columns adjacent.

    A view if x is stored channels last, or is a slice of the channels of such an array:
    then its rows are further apart than C numbers. Else a copy.
    """
    rows = x if x.ndim == 2 else x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])
    (m, c), (down, right) = rows.shape, rows.strides
    if (c > 1 and right != x.itemsize) or (m > 1 and down < c * x.itemsize):
        rows = array_module(x).ascontiguousarray(rows)
    return rows


def from_rows(rows: Array, shape: tuple[int, ...]) -> Array:
    """The view of shape (N, C, H, W) or (N, C) of a matrix of rows."""
    if len(shape) == 2:
        return rows
    n, c, h, w = shape
    return from_nhwc(rows.reshape(n, h, w, c))


def takes(*arrays: Array) -> bool:
    """Whether all are float32 or all bfloat16."""
    names = {a.dtype.name for a in arrays}
    return names in ({"float32"}, {"bfloat16"})


def contiguous(x: Array) -> Array:
    """`x` itself, or a copy in C order."""
    result: Array = array_module(x).ascontiguousarray(x)
    return result


def same_memory(rows: Array, x: Array) -> bool:
    """Whether `rows` is a view of x and not a copy."""
    return address(rows) == address(x)


def to_image(x: Array) -> Array:
    """(N, H, W, C), adjacent channels and evenly spaced pixels; a view if it can be."""
    n, c, h, w = x.shape
    return to_rows(x).reshape(n, h, w, c)


def to_pixels(x: Array, gaps: bool = True) -> tuple[Array, int]:
    """(N, H, W, C) as cuDNN reads it, and how many foreign entries follow each pixel.

    A view if x is stored channels last, or with `gaps` is a slice of the channels of
    such an array: then the rest of the wider pixel lies between two of x. Else a copy;
    so too if x, or with a gap any of its pixels, begins at no multiple of 16 bytes.
    """
    n, c, h, w = x.shape
    rows = to_rows(x)
    wide = step("to_pixels", rows)
    fits = wide == c or (gaps and wide * x.itemsize % 16 == 0)
    if not (fits and aligned(rows)):
        rows, wide = rows.copy(), c
    return rows.reshape(n, h, w, c), wide - c


def empty_alike(rows: Array) -> Array:
    """A new matrix of that shape and dtype whose rows are as far apart."""
    m, c = rows.shape
    wide = array_module(rows).empty((m, step("empty_alike", rows)), rows.dtype)
    new: Array = wide[:, :c]
    return new


def stored(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the buffer of images of that logical shape."""
    n, c, h, w = shape
    return n, h, w, c


def to_matrix(x: Array) -> Array:
    """Images of one pixel as a matrix, row-major."""
    return contiguous(x.reshape(x.shape[:2]))
