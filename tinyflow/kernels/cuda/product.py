"""The product of two matrices without cuBLAS: launches product.cu."""

from __future__ import annotations

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.cuda.module import dtype_of, launch
from tinyflow.kernels.cuda.source import Variant

TILE = 64
"""Rows and columns of the result a block computes; TILE in product.cu."""


def product(a: Array, b: Array) -> Array:
    """C = A B, row-major; a (M, K), b (K, N) in any memory order.

    Raises:
        ValueError: the shapes do not fit.
        TypeError: not both float32 or both bfloat16.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"product: {a.shape} and {b.shape} do not fit together")
    dtype = dtype_of("product", a, b)
    (m, k), n = a.shape, b.shape[1]
    c: Array = array_module(a).empty((m, n), a.dtype)
    if m and n:
        grid = -(-n // TILE), -(-m // TILE)
        steps = [[np.int64(s // x.itemsize) for s in x.strides] for x in (a, b)]
        arguments = (a, *steps[0], b, *steps[1], c, int(m), int(n), int(k))
        launch(Variant("product", dtype), "product", grid, (16, 16), *arguments)
    return c
