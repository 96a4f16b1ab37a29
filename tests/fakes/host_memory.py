"""The memory pool of a recording, played by the host.

What a step allocates while it is recorded is given out again, on the same stream, as
soon as nobody holds it: a graph replays addresses, and knows no arrays. So whoever
reads memory that was written too early, kept too shortly, or never, reads garbage in a
replay, as on a GPU.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import defaultdict
from typing import Any

import numpy as np

UNIT = 512
"""Bytes that sizes are rounded up to, as in CuPy's pool."""


EMPTY = np.empty
"""NumPy's own, whatever stands in its place during a recording."""


class Pool:
    """Blocks by stream and size."""

    def __init__(self) -> None:
        self.blocks: list[np.ndarray] = []
        self._free: dict[tuple[bool, int], list[np.ndarray]] = defaultdict(list)

    def empty(
        self, stream: bool, shape: tuple[int, ...], dtype: np.dtype
    ) -> np.ndarray:
        """A new C-ordered array; its block is free again when the last view is gone."""
        wanted = math.prod(shape) * dtype.itemsize
        size = max(UNIT, -(-wanted // UNIT) * UNIT)
        free = self._free[stream, size]
        if not free:
            self.blocks.append(EMPTY(size, np.uint8))
        block = free.pop() if free else self.blocks[-1]
        held = (ctypes.c_ubyte * size).from_address(block.ctypes.data)
        weakref.finalize(held, free.append, block)
        return np.frombuffer(held, np.uint8)[:wanted].view(dtype).reshape(shape)

    def spoil(self) -> None:
        """Fill everything with bits that are NaN as floats of any width."""
        for block in self.blocks:
            block[...] = 0xFF


def address_only(x: Any) -> Any:
    """The same array of what lies there, which keeps nothing of a pool alive."""
    if not isinstance(x, np.ndarray) or not x.size or not _of_a_pool(x):
        return x
    extent = sum((n - 1) * s for n, s in zip(x.shape, x.strides, strict=True))
    memory = (ctypes.c_ubyte * (extent + x.itemsize)).from_address(x.ctypes.data)
    return np.ndarray(x.shape, x.dtype, memory, strides=x.strides)


def _of_a_pool(x: np.ndarray) -> bool:
    root: Any = x
    while isinstance(root, np.ndarray):
        root = root.base
    return root is not None
