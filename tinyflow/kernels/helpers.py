"""Threads that wait for work awake, without holding Python's lock.

A sleeping thread takes 50 microseconds to wake, on a virtual machine, and the one who
waits for its answer as long again. glibc's spin locks, called through ctypes, wait in a
loop of machine code outside Python's lock. Unlike POSIX, glibc lets a thread unlock
what another has locked. After `IDLE` seconds without work the helpers go to sleep, as
those of OpenMP and OpenBLAS do.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import cache, partial
from typing import Any, TypeVar

Result = TypeVar("Result")

IDLE = 0.01
"""Seconds after which helpers sleep, up to twice that."""

AVAILABLE = sys.platform == "linux" and "CS_GNU_LIBC_VERSION" in os.confstr_names
"""Whether the C library is glibc."""

_spin: Callable[[int], object]
_unlock: Callable[[int], object]
_init: Callable[[int, int], object]
_core: Callable[[], int]

if AVAILABLE:
    _held = ctypes.PyDLL(None)  # calls through it keep Python's lock
    _core, _unlock = _held.sched_getcpu, _held.pthread_spin_unlock
    _init, _spin = _held.pthread_spin_init, ctypes.CDLL(None).pthread_spin_lock
    for _function in (_init, _spin, _unlock):
        _function.argtypes = [ctypes.c_void_p]
    _init.argtypes = [ctypes.c_void_p, ctypes.c_int]

_local = threading.local()


def inside() -> bool:
    """Whether this thread works on a part already."""
    return getattr(_local, "inside", False)


@cache
def cores() -> set[int]:
    """The cores we may use; none where the system does not say."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else set()


class _Helper(threading.Thread):
    """Does one job after the other."""

    def __init__(self) -> None:
        super().__init__(name="tinyflow", daemon=True)
        self._words = (ctypes.c_int * 64)()  # two locks, on lines of the cache apart
        start = ctypes.addressof(self._words)
        self.go, self.done = start, start + 128
        self.job: Callable[[], Any] = int
        self.result: Any = None
        self.error: BaseException | None = None
        self.bed = threading.Lock()
        self.asleep = False
        self.busy = False
        for address in (self.go, self.done):
            _init(address, 0)
            _spin(address)
        self.start()

    def run(self) -> None:
        """Until the process ends."""
        _local.inside = True
        while True:
            _spin(self.go)
            try:
                self.result, self.error = self.job(), None
            except BaseException as error:
                self.error = error
            _unlock(self.done)

    def take(self, job: Callable[[], Any]) -> None:
        """Begin a job."""
        if self.busy:  # an interrupt kept someone from waiting for the last one
            self.wait()
        if self.asleep:
            self._wake()
        self.job, self.busy = job, True
        _unlock(self.go)

    def wait(self) -> None:
        """Wait, awake, for the end of the job."""
        _spin(self.done)
        self.busy = False

    def sleep(self) -> None:
        """Put it to sleep: its job is to wait for a lock."""
        self.bed.acquire()
        self.job, self.asleep = self.bed.acquire, True
        _unlock(self.go)

    def _wake(self) -> None:
        """Wait until it waits awake."""
        self.bed.release()
        _spin(self.done)
        self.bed.release()  # that it took itself
        self.asleep = False


class Team:
    """Helpers that keep off the core of the thread they help.

    Linux likes to wake a thread on its waker's core, where both then share the time of
    one while another idles.
    """

    def __init__(self, size: int) -> None:
        self._helpers = [_Helper() for _ in range(size)]
        self._avoided = -1
        self._runs = 0
        self._lock = threading.Lock()
        self._awake = threading.Event()
        threading.Thread(target=self._watch, name="tinyflow-idle", daemon=True).start()

    def run(self, work: Callable[[int, int], Result], cuts: list[int]) -> list[Result]:
        """The results of work on the parts between the cuts, all at once."""
        with self._lock:
            self._runs += 1
            self._awake.set()
            self._step_aside()
            taken = self._helpers[: len(cuts) - 2]
            try:
                for helper, *part in zip(taken, cuts[1:], cuts[2:], strict=False):
                    helper.take(partial(copy_context().run, work, *part))
                _local.inside = True
                first = work(0, cuts[1])
            finally:
                _local.inside = False
                for helper in taken:  # nothing goes on behind the caller's back
                    if helper.busy:
                        helper.wait()
            for helper in taken:
                if helper.error is not None:
                    raise helper.error
            results = [first, *(helper.result for helper in taken)]
            for helper in taken:
                helper.job, helper.result = int, None  # let go of its arrays
            return results

    def _step_aside(self) -> None:
        """Leave the core we are on to us."""
        here = _core()
        if here != self._avoided and len(cores()) > len(self._helpers):
            self._avoided = here
            for helper in self._helpers:
                os.sched_setaffinity(helper.native_id or 0, cores() - {here})

    def _watch(self) -> None:
        """Send the helpers to sleep when there has been no work for a while."""
        seen = -1
        self._awake.set()
        while self._awake.wait():
            time.sleep(IDLE)
            with self._lock:
                if self._runs == seen:
                    self._awake.clear()
                    for helper in self._helpers:
                        if not helper.asleep:
                            helper.sleep()
                seen = self._runs
