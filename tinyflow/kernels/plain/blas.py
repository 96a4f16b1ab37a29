"""NumPy's BLAS, kept to one thread while ours share the work.

Its number of threads belongs to the whole process. It is taken as long as any thread is
inside, and what it was is written down before: whatever happens, even an interrupt
between two lines, the next who gives it back, or takes it, finds out and puts it right.

The libraries are called directly. threadpoolctl finds them, but its own calls do
nothing in any thread but the first that made one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any


class _Library:
    """A BLAS: how its threads are counted and set, and what to restore, or 0."""

    def __init__(self, get: Callable[[], int], set_: Callable[[int], object]) -> None:
        self.get, self.set, self.before = get, set_, 0


_lock = threading.Lock()
_inside: set[int] = set()
"""The threads that need BLAS to be on one thread."""


def take() -> bool:
    """Keep BLAS to one thread until this thread calls :func:`give`; whether it is."""
    libraries = _libraries()
    if libraries is None:
        return False
    with _lock:
        _inside.add(threading.get_ident())
        for library in libraries:
            number = library.get()
            if number != 1:
                library.before = number
                library.set(1)
                if library.get() != 1:
                    return False
    return _seen_by_others()


def give() -> None:
    """This thread needs it no more; calling it twice does no harm."""
    _inside.discard(threading.get_ident())
    if not _inside:
        _restore()


def _restore() -> None:
    with _lock:
        for library in _libraries() or ():
            if library.before and not _inside:
                library.set(library.before)
                library.before = 0


@cache
def _libraries() -> list[_Library] | None:
    """The BLAS libraries of this process; None if one keeps its threads anyway.

    With OpenMP each thread has a number of its own, which we could not set for all.
    """
    try:
        from threadpoolctl import ThreadpoolController

        found = ThreadpoolController().select(user_api="blas").lib_controllers
        if any(getattr(c, "threading_layer", "") == "openmp" for c in found):
            return None
        return [_library(controller) for controller in found]
    except Exception:  # whatever it is, BLAS has its threads and nothing is shared
        return None


def _library(controller: Any) -> _Library:
    """Its two functions, by whichever names NumPy's builders gave them."""
    for prefix, suffix in product(("", "scipy_"), ("", "64_", "_64")):
        name = f"{prefix}openblas_%s_num_threads{suffix}"
        get = getattr(controller.dynlib, name % "get", None)
        set_ = getattr(controller.dynlib, name % "set", None)
        if get is not None and set_ is not None:
            return _Library(get, set_)
    return _Library(controller.get_num_threads, controller.set_num_threads)


@cache
def _seen_by_others() -> bool:
    """Whether a number set by one thread, now 1, is what others get."""
    seen: list[int] = []
    libraries = _libraries() or []
    other = threading.Thread(
        target=lambda: seen.extend(library.get() for library in libraries), daemon=True
    )
    try:
        other.start()
    except RuntimeError:  # no more threads can be had
        return False
    other.join()
    return seen == [1] * len(libraries)


def _after_fork() -> None:
    """In the child only the thread that forked is left."""
    global _lock
    _lock = threading.Lock()
    _inside.intersection_update({threading.get_ident()})
    if not _inside and _libraries.cache_info().currsize:
        _restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
