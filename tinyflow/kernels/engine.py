"""Which engine an array gets: plain array code, the C kernels, or a GPU's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels.table import Engine

PLAIN = Engine()
_forced: list[Engine] = []


def engine(x: Array) -> Engine:
    """The engine for an array like `x`.

    float32 on the CPU: the C kernels if they have been built; float32 and bfloat16 on a
    GPU: its kernels. All else, float64 above all: plain array code.
    """
    if _forced:
        return _forced[-1]
    if isinstance(x, np.ndarray):
        return _compiled() if x.dtype == np.float32 else PLAIN
    return _cuda() if x.dtype.name in ("float32", "bfloat16") else PLAIN


@contextmanager
def forced(choice: Engine) -> Iterator[None]:
    """Use `choice` for every array, to compare engines."""
    _forced.append(choice)
    try:
        yield
    finally:
        _forced.pop()


@cache
def _cuda() -> Engine:
    from tinyflow.kernels.cuda.engine import cuda_engine

    return cuda_engine()


@cache
def _compiled() -> Engine:
    from tinyflow.kernels.native.library import (
        load,
    )  # what it imports depends on this file

    library, _ = load()
    if library is None:
        return PLAIN
    from tinyflow.kernels.native.engine import NativeEngine

    return NativeEngine(library)
