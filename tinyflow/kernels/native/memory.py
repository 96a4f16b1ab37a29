"""How an array lies in memory, as the C code asks for it."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels.layout import columns, from_rows, strides, swap, to_rows

_HEAD = object.__basicsize__
_pointer_at = ctypes.c_void_p.from_address


def _slow_address(array: Array | None) -> int | None:
    """Address of the first entry."""
    return None if array is None else array.__array_interface__["data"][0]


def _fast_address(array: Array | None) -> int | None:
    """The pointer behind the object's head: a step asks thousands of times."""
    return None if array is None else _pointer_at(id(array) + _HEAD).value


_probe = np.zeros(1)
_fast = _fast_address(_probe) == _slow_address(_probe)  # true of CPython
ptr = _fast_address if _fast else _slow_address


@cache
def zeros(n: int) -> Array:
    """Zeros (n,), shared: only to be read."""
    return np.zeros(n, np.float32)


def one_sample(x: Array) -> Array | None:
    """(N, C, H, W) as (1, N C, H, W): a view, or None if x is not stored so."""
    rows = columns(x)
    return None if rows is None else from_rows(rows, (1, rows.shape[1], *x.shape[2:]))


def rows_in_place(x: Array) -> Array | None:
    """The matrix of :func:`to_rows`, or None if that would be a copy."""
    if x.ndim != 4 or x.dtype != np.float32 or not x.size:
        return None
    rows = to_rows(x)
    return rows if rows.strides[1] == 4 and np.may_share_memory(rows, x) else None


def as_rows(x: Array) -> Array | None:
    """x as a matrix with a channel a column, its rows at any distance; float32."""
    if x.dtype != np.float32 or not x.size:
        return None
    rows = to_rows(x)
    if rows.strides[1] != 4 or rows.strides[0] < 4 * rows.shape[1]:
        rows = np.ascontiguousarray(rows)
    return rows


def step(rows: Array) -> int:
    """Floats from one row to the next."""
    return rows.strides[0] // 4


def per_channel(s: Array) -> Array:
    """`s` (C,) as float32 without gaps; to be kept while its address is used."""
    return np.ascontiguousarray(s, np.float32)


def alike(*arrays: Array) -> bool:
    """Whether the arrays are float32 and lie in memory alike, without gaps."""
    first = arrays[0]
    places = strides(first)
    if not (first.flags.forc or (first.ndim == 4 and swap(first).flags.c_contiguous)):
        return False
    return all(
        a.dtype == np.float32 and a.shape == first.shape and strides(a) == places
        for a in arrays
    )
