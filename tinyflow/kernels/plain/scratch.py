"""Buffers that a kernel fills and forgets, kept from call to call.

The pages of a large new array are mapped one fault at a time as they are first written,
which costs more than the writing. Columns, products and transforms live only within
one kernel call, so each thread keeps one buffer per purpose and lends it out again.
"""

from __future__ import annotations

import ctypes
import math
import threading
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module

KEEP_BYTES = 32 << 20
"""Buffers up to this size are kept; larger ones are made and dropped.

The kernels have four purposes (columns, full, product, total), so a thread keeps at
most 128 MiB, freed when it ends.
"""

BLOCK = 1 << 18
"""Entries of a block of elementwise work: few, long calls, for threads hand each other
Python's lock."""

_kept = threading.local()


def keep_freed_memory() -> bool:
    """Ask the C library not to hand freed memory back to the system; whether it agreed.

    A training step frees and asks for the same arrays again. Given back in between,
    their pages are mapped, and zeroed, one fault at a time: a quarter of a small
    network's step. The process's peak stays what it was. Only glibc understands
    (``mallopt(3)``); elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    no_mapping = mallopt(-4, 0)  # M_MMAP_MAX: large arrays too come from the heap
    no_trimming = mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    return bool(no_mapping and no_trimming)


def let_go() -> None:
    """Give back this thread's buffers, and to the system what the C library keeps."""
    _kept.__dict__.clear()
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def scratch(purpose: str, shape: tuple[int, ...], like: Array) -> Array:
    """An uninitialised C-ordered array with the library and dtype of `like`.

    It is valid until this thread asks for the same purpose again, and must never be
    returned to a caller. CuPy pools its memory already and gets a new array.
    """
    xp = array_module(like)
    size = math.prod(shape) * like.itemsize
    if xp is not np or size > KEEP_BYTES:
        fresh: Array = xp.empty(shape, dtype=like.dtype)
        return fresh
    buffers: dict[str, Any] = _kept.__dict__
    buffer = buffers.get(purpose)
    if buffer is None or buffer.nbytes < size:
        buffer = buffers[purpose] = np.empty(size, dtype=np.uint8)
    lent: Array = buffer[:size].view(like.dtype).reshape(shape)
    return lent


def zeros(like: Array) -> Any:
    """Zeros in the shape and dtype of `like`, only to be read; a plain 0 for others.

    That is, on a GPU and for more than a block. NumPy's maximum of an array and an
    array takes a quarter of the time it needs for an array and a number.
    """
    if not isinstance(like, np.ndarray) or like.size > BLOCK:
        return 0
    return _zeros(like.dtype)[: like.size].reshape(like.shape)


@cache
def _zeros(dtype: np.dtype[Any]) -> Array:
    return np.zeros(BLOCK, dtype)
