"""Sums that keep their digits, however many numbers they are of.

NumPy adds in pairs along the fastest axis of an array only. Along all others it keeps
one running sum per result, whose error grows with every number: a percent of the sum
of two million. Here such a sum is taken in parts of a few hundred rows, each a product
with ones, which is also several times as fast, and the parts are added in double
precision. On a GPU sums are trees already.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module

ROWS = 512
"""Rows that a product with ones adds up in the precision of the array."""

FEWER = 32
"""Rows of products, which NumPy adds up one by one."""

PART = 8192
"""Squares of a vector that BLAS adds up, many of them side by side."""

FEW = 128
"""So few numbers may be added one by one; NumPy's pairs begin there."""


def total(x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """The sum of x over `axes`, none of them negative, in the dtype of x."""
    shape = [1 if i in axes else n for i, n in enumerate(x.shape)]
    if not isinstance(x, np.ndarray) or x.size <= FEW * math.prod(shape):
        plain: Array = x.sum(axis=axes, keepdims=keepdims)
        return plain
    # The axes as they lie in memory, slowest first; those of length 1 lie anywhere.
    order = sorted(range(x.ndim), key=lambda i: (x.shape[i] == 1, -abs(x.strides[i])))
    long = [i for i in order if x.shape[i] > 1]
    gone, stay = [i for i in long if i in axes], [i for i in long if i not in axes]
    xm = x.transpose(order)
    if long == stay + gone and (len(gone) == 1 or xm.flags.c_contiguous):
        sums = x.sum(axis=axes)  # in pairs
    elif long == gone + stay:
        sums = column_sums(xm.reshape(-1, math.prod(shape)))
        sums = sums.reshape([x.shape[i] for i in stay])
        sums = sums.transpose([stay.index(i) for i in sorted(stay)])
    else:
        sums = x.sum(axis=axes, dtype="float64")
    if not keepdims:
        shape = [n for i, n in enumerate(x.shape) if i not in axes]
    result: Array = np.asarray(sums, x.dtype).reshape(shape)
    return result


def column_sums(rows: Array) -> Array:
    """Σ over the rows of a matrix (M, C): float64 of NumPy's, else its own dtype."""
    if not isinstance(rows, np.ndarray):
        sums: Array = rows.sum(axis=0)
        return sums
    ones = _ones(rows.dtype)
    parts, rest = divmod(len(rows), ROWS)
    found: Array = (ones[:rest] @ rows[parts * ROWS :]).astype("float64")
    if parts:
        whole = rows[: parts * ROWS].reshape(parts, ROWS, rows.shape[1])
        found += (ones @ whole).sum(axis=0, dtype="float64")
    return found


def column_products(a: Array, b: Array) -> Array:
    """Σ a b over the rows of two matrices (M, C), without writing a b; as above."""
    if not isinstance(a, np.ndarray):
        sums: Array = array_module(a).einsum("ij,ij->j", a, b)
        return sums
    parts = len(a) // FEWER
    cut = parts * FEWER
    found: Array = np.zeros(a.shape[1])
    if cut < len(a):
        found += np.einsum("ij,ij->j", a[cut:], b[cut:])
    if parts:
        shape = parts, FEWER, a.shape[1]
        pair = a[:cut].reshape(shape), b[:cut].reshape(shape)
        found += np.einsum("kij,kij->kj", *pair).sum(axis=0, dtype="float64")
    return found


def squares(flat: Array) -> Array:
    """Σ x² of a vector; long ones in parts, since BLAS keeps one running sum."""
    if not isinstance(flat, np.ndarray) or flat.size <= PART:
        whole: Array = flat @ flat
        return whole
    parts = flat.size // PART
    rows = flat[: parts * PART].reshape(parts, PART)
    rest = flat[parts * PART :]
    sums = (rows[:, None] @ rows[:, :, None]).sum(dtype="float64") + rest @ rest
    result: Array = sums.astype(flat.dtype)
    return result


@cache
def _ones(dtype: np.dtype[Any]) -> Array:
    return np.ones(ROWS, dtype)
