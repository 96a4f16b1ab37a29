"""One pool of threads for all that NumPy computes here.

NumPy works on one thread. BLAS has threads of its own, which spin for a while after
each product and would fight with ours for the cores. So products take one thread each,
and what is divided is the work around them: every thread gathers, multiplies and adds
up a part of its own, which stays in its core's cache.

Work comes in pieces of a tenth of a millisecond, and waking a sleeping thread takes
half as long. So helpers wait awake (:mod:`tinyflow.kernels.plain.helpers`), which glibc
offers to Python; elsewhere there are none, and BLAS keeps its threads. Threads hand
each other Python's lock between NumPy's calls: few long calls share better than many
short ones.

A few samples make work too small for that, and BLAS keeps its threads: which of the two
it is must not change from one operator to the next. BLAS also keeps them where they
cannot be taken from it (``blas.py``); then nothing is shared. Results may differ in the
last digits with the number of threads, not with who calls from where.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels.cores import wanted
from tinyflow.kernels.layout import flatten
from tinyflow.kernels.plain import blas, helpers
from tinyflow.kernels.plain.scratch import BLOCK

Result = TypeVar("Result")

WORTH = 1 << 17
"""Entries of arrays that a thread must get, or it takes longer to tell it of them."""

PRODUCTS = 8_000_000
"""The same for multiplications in matrix products."""

FEW = 4
"""Samples up to which BLAS shares out single products, and nothing else is shared."""


@cache
def count() -> int:
    """Threads that NumPy's work is shared among, this one included."""
    return wanted() if helpers.AVAILABLE else 1


def divide(
    like: Array,
    total: int,
    least: int,
    work: Callable[[int, int], Result],
    samples: int = FEW + 1,
) -> list[Result]:
    """The results of ``work(start, stop)`` over contiguous parts of range(total).

    NumPy's BLAS is on one thread meanwhile.

    Args:
        like: an array that is worked on; on a GPU there is one part.
        total: how many pieces there are.
        least: of them for each thread.
        work: is given parts equal within one piece. What it raises is raised here.
            `divide` within it does not divide further.
        samples: in the batch; with FEW there is one part, and BLAS has its threads.
    """
    size = count() - 1
    few = not size or samples <= FEW or not isinstance(like, np.ndarray)
    if few or helpers.inside():
        return [work(0, total)]
    parts = min(size + 1, total // max(least, 1))
    local = helpers.local
    try:
        local.inside = True
        if not blas.take() or parts < 2:
            return [work(0, total)]
        cuts = [total * i // parts for i in range(parts + 1)]
        return helpers.run(work, cuts, size)
    finally:  # an interrupt keeps one call from being made, not two
        try:
            blas.give()
        finally:
            try:
                blas.give()
            finally:
                local.inside = False


def both(
    like: Array,
    samples: int,
    first: Callable[[], Result],
    second: Callable[[], Result],
) -> list[Result]:
    """Their results, computed at the same time, each on one thread."""
    tasks = first, second

    def part(lo: int, hi: int) -> list[Result]:
        return [task() for task in tasks[lo:hi]]

    return [r for results in divide(like, 2, 1, part, samples) for r in results]


def pointwise(work: Callable[..., object], *arrays: Array) -> None:
    """Call ``work(*arrays)``, or the same on views of parts of them, shared out.

    For what writes each entry of one array from the same entries of others. Large
    arrays of one shape that lie in memory alike, without gaps, are done block by block.
    """
    first = arrays[0]
    large = first.size > BLOCK and isinstance(first, np.ndarray)
    flat = flatten(*arrays) if large else None
    if flat is None:
        work(*arrays)
        return

    def part(lo: int, hi: int) -> None:
        for start in range(lo, hi, BLOCK):
            work(*(a[start : min(start + BLOCK, hi)] for a in flat))

    divide(first, first.size, WORTH, part, len(first))
