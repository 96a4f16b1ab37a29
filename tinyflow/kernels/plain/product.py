"""The product of two matrices, shared among threads."""

from __future__ import annotations

from tinyflow.backend import Array, array_module
from tinyflow.kernels.plain import threads


def product(a: Array, b: Array, samples: int) -> Array:
    """The product a b of (M, D) and (D, N) in any memory order, new.

    Threads take rows or columns of it, whichever there are more of. `samples`: see
    :func:`tinyflow.kernels.plain.threads.divide`.
    """
    (m, depth), n = a.shape, b.shape[1]
    matmul = array_module(a).matmul
    y: Array = array_module(a).empty((m, n), a.dtype)
    least = -(-threads.PRODUCTS * max(m, n) // max(m * n * depth, 1))

    def rows(lo: int, hi: int) -> None:
        matmul(a[lo:hi], b, out=y[lo:hi])

    def columns(lo: int, hi: int) -> None:
        matmul(a, b[:, lo:hi], out=y[:, lo:hi])

    threads.divide(a, max(m, n), least, rows if m >= n else columns, samples)
    return y
