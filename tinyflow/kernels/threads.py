"""One pool of threads for all that NumPy computes here.

NumPy works on one thread. BLAS has threads of its own, which spin for a while after
each product and would fight with ours for the cores. So products take one thread each,
and what is divided is the work around them: every thread gathers, multiplies and adds
up a part of its own, which stays in its core's cache.

Work comes in pieces of a tenth of a millisecond, and waking a sleeping thread takes
half as long. So helpers wait awake (:mod:`tinyflow.kernels.helpers`), which glibc
offers to Python; elsewhere there are none, and BLAS keeps its threads. Threads hand
each other Python's lock between NumPy's calls: few long calls share better than many
short ones.

A few samples make work too small for that, and BLAS keeps its threads: which of the two
it is must not change from one operator to the next.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels import helpers
from tinyflow.kernels.layout import flatten
from tinyflow.kernels.scratch import BLOCK

Result = TypeVar("Result")

WORTH = 1 << 17
"""Entries of arrays that a thread must get, or it takes longer to tell it of them."""

PRODUCTS = 8_000_000
"""The same for multiplications in matrix products."""

FEW = 4
"""Samples up to which BLAS shares out single products, and nothing else is shared."""


@cache
def wanted() -> int:
    """TINYFLOW_NUM_THREADS, else OMP_NUM_THREADS, else the cores we may use."""
    for name in ("TINYFLOW_NUM_THREADS", "OMP_NUM_THREADS"):
        wish = os.environ.get(name, "")
        if wish.isdigit() and int(wish) > 0:
            return int(wish)
    return len(helpers.cores()) or os.cpu_count() or 1


@cache
def count() -> int:
    """Threads that NumPy's work is shared among, this one included."""
    return wanted() if helpers.AVAILABLE else 1


def share(
    like: Array,
    total: int,
    least: int,
    work: Callable[[int, int], Result],
    samples: int = FEW + 1,
) -> list[Result]:
    """The results of ``work(start, stop)`` over contiguous parts of range(total).

    Args:
        like: an array that is worked on; on a GPU there is one part.
        total: how many pieces there are.
        least: of them for each thread.
        work: is given parts equal within one piece. What it raises is raised here.
            `share` within it does not divide further.
        samples: in the batch.
    """
    parts = min(count(), total // max(least, 1))
    whole = parts < 2 or samples <= FEW or not isinstance(like, np.ndarray)
    if whole or helpers.inside():
        return [work(0, total)]
    cuts = [total * i // parts for i in range(parts + 1)]
    return _team().run(work, cuts)


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

    with one_blas_thread(samples):
        return [
            result for results in share(like, 2, 1, part, samples) for result in results
        ]


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

    share(first, first.size, WORTH, part, len(first))


@cache
def _team() -> helpers.Team:
    return helpers.Team(count() - 1)


class _Blas:
    """How many are inside `one_blas_thread`, and what to restore after the last."""

    lock = threading.Lock()
    inside = 0
    before: list[int]


@contextmanager
def one_blas_thread(samples: int = FEW + 1) -> Iterator[None]:
    """Products of NumPy's BLAS take one thread while inside, if work is shared."""
    if samples <= FEW:
        yield
        return
    libraries = _libraries()
    with _Blas.lock:
        if not _Blas.inside:
            _Blas.before = [library.get_num_threads() for library in libraries]
            for library in libraries:
                library.set_num_threads(1)
        _Blas.inside += 1
    try:
        yield
    finally:
        with _Blas.lock:
            _Blas.inside -= 1
            if not _Blas.inside:
                for library, threads in zip(libraries, _Blas.before, strict=True):
                    library.set_num_threads(threads)


@cache
def _libraries() -> list[Any]:
    """The BLAS libraries whose threads we take the place of."""
    if count() == 1:
        return []
    from threadpoolctl import ThreadpoolController

    found: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return found


def _forget() -> None:
    """In a forked child the helpers are gone."""
    _Blas.lock, _Blas.inside = threading.Lock(), 0
    _team.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
