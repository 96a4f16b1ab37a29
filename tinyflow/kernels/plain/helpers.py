"""Threads that wait for work awake, without holding Python's lock.

A sleeping thread takes 50 microseconds to wake, on a virtual machine, and the one who
waits for its answer as long again. glibc's spin locks, called through ctypes, wait in a
loop of machine code outside Python's lock. Unlike POSIX, glibc lets a thread unlock
what another has locked. After `IDLE` seconds without work the helpers go to sleep, as
those of OpenMP and OpenBLAS do.

An interrupt, or whatever one thread raises in another, may come after any call. So the
team is taken out of its place while it works, and put back only by who got all its
results: who is disturbed in between leaves none, and the next begins with a new one.
What must happen all the same is either one call of C, which nothing comes between, or
said twice, one `finally` in another, and harmless the second time.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

from tinyflow.kernels.cores import mine

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

local = threading.local()
"""Its `inside` is true in a thread that works on a part, or shares one out."""

_lock = threading.Lock()
_team: Team | None = None


def inside() -> bool:
    """Whether this thread works on a part already, or no other works any more."""
    return getattr(local, "inside", False) or sys.is_finalizing()


def run(
    work: Callable[[int, int], Result], cuts: Sequence[int], size: int
) -> list[Result]:
    """The results of work on the parts between the cuts, all at once.

    One caller at a time has the helpers, the others wait for their turn. If there are
    none to be had, the caller does all parts itself: the same parts, the same bits.

    Args:
        work: is given the two ends of a part. What it raises is raised here, when all
            parts have ended.
        cuts: the ends, in order; no more than size + 2.
        size: how many helpers there are.
    """
    global _team
    with _lock:
        team, _team = _team, None
        try:
            if team is not None and not team.fits(size):
                team.close()
                team = None
            team = team or _start(size)
            if team is None:
                return [work(*ends) for ends in pairwise(cuts)]
            results = team.run(work, cuts)
        except BaseException:
            if team is not None:
                team.close()
            raise
        _team = team
        return results


def dismiss() -> None:
    """End the helpers, who take their buffers with them; the next run has new ones."""
    global _team
    with _lock:
        team, _team = _team, None
        if team is not None:
            team.close()


def _start(size: int) -> Team | None:
    """A new team; None if the process may have no more threads."""
    team = Team(size)
    try:
        team.start()
    except RuntimeError:  # "can't start new thread"
        team.close()
        return None
    return team


class _Helper(threading.Thread):
    """Does one job after the other."""

    def __init__(self) -> None:
        super().__init__(name="tinyflow", daemon=True)
        self._words = (ctypes.c_int * 64)()  # two locks, on lines of the cache apart
        start = ctypes.addressof(self._words)
        self.go, self.done = start, start + 128
        for address in (self.go, self.done):
            _init(address, 0)
            _spin(address)
        self.bed = threading.Lock()
        self.bed.acquire()
        self.job: Callable[[], Any] | None = None
        self.outcome: tuple[Any, BaseException | None] | None = None
        self.busy = self.asleep = self.closed = self.ended = False

    def run(self) -> None:
        """Until the team is closed, or another thread raises something in this one."""
        try:
            local.inside = True
            while True:
                _spin(self.go)
                if self.asleep:
                    self.bed.acquire()
                    self.asleep = False
                if self.closed or self.job is None:
                    break
                try:
                    self.outcome = self.job(), None
                except BaseException as error:
                    self.outcome = None, error
                self.job = None  # let go of its arrays
                _unlock(self.done)
        except BaseException as error:
            self.outcome = None, error
        finally:
            self.ended = True
            _unlock(self.done)  # nobody waits for what will not come

    def take(self, job: Callable[[], Any]) -> None:
        """Begin a job."""
        begin, *given = (self.bed.release,) if self.asleep else (_unlock, self.go)
        self.job, self.outcome, self.busy = job, None, True
        begin(*given)

    def rest(self) -> None:
        """Sleep until there is a job."""
        if not self.asleep:
            self.asleep = True
            _unlock(self.go)

    def close(self) -> None:
        """End, after the job there may be."""
        self.closed = True
        _unlock(self.go)
        _open(self.bed)


class Team:
    """Helpers that keep off the core of the thread they help.

    Linux likes to wake a thread on its waker's core, where both then share the time of
    one while another idles.
    """

    def __init__(self, size: int) -> None:
        self._helpers = [_Helper() for _ in range(size)]
        self._avoided = -1
        self._turns = 0  # goes up when a run begins and when it ends
        self._bed = threading.Lock()
        self._bed.acquire()
        self._asleep = self._closed = False
        self._watcher = threading.Thread(
            target=self._watch, name="tinyflow-idle", daemon=True
        )

    def start(self) -> None:
        """Start all threads; the one first that ends the others."""
        self._watcher.start()
        for helper in self._helpers:
            helper.start()

    def fits(self, size: int) -> bool:
        """Whether it has so many helpers, all at work."""
        ended = self._closed or any(helper.ended for helper in self._helpers)
        return not ended and len(self._helpers) == size

    def close(self) -> None:
        """End all threads."""
        self._closed = True
        for helper in self._helpers:
            helper.close()
        _open(self._bed)

    def run(
        self, work: Callable[[int, int], Result], cuts: Sequence[int]
    ) -> list[Result]:
        """See :func:`run`."""
        self._turns += 1
        if self._asleep:
            self._asleep = False
            self._bed.release()
        self._step_aside()
        taken = self._helpers[: len(cuts) - 2]
        try:
            for helper, *part in zip(taken, cuts[1:], cuts[2:], strict=False):
                helper.take(partial(copy_context().run, work, *part))
            results = [work(cuts[0], cuts[1])]
        finally:  # nothing goes on behind the caller's back
            try:
                _wait(taken)
            finally:
                _wait(taken)
        for helper in taken:
            outcome, helper.outcome = helper.outcome, None
            if outcome is None:
                raise RuntimeError("a thread that shared the work ended before it")
            result, error = outcome
            if error is not None:
                raise error
            results.append(result)
        self._turns += 1
        return results

    def _step_aside(self) -> None:
        """Leave the core we are on to us."""
        here = _core()
        if here != self._avoided and len(mine()) > len(self._helpers):
            self._avoided = here
            with suppress(OSError):  # a sandbox forbids it, or our cores were changed
                for helper in self._helpers:
                    if helper.native_id is not None:
                        os.sched_setaffinity(helper.native_id, mine() - {here})

    def _watch(self) -> None:
        """Send the helpers to sleep when there has been no work for a while."""
        seen = -1
        try:
            while not self._closed:
                time.sleep(IDLE)
                if seen == self._turns:
                    with _lock:  # nobody works with a team now
                        if _team is not self:
                            break
                        if seen == self._turns:
                            for helper in self._helpers:
                                helper.rest()
                            self._asleep = True
                    if self._asleep:
                        self._bed.acquire()
                seen = self._turns
        except BaseException:  # raised by another thread, to end this one
            pass
        finally:  # without us they would wait awake for ever
            with _lock:
                self.close()


def _open(lock: threading.Lock) -> None:
    """Let the one through who waits at it, if someone does."""
    if lock.locked():
        lock.release()


def _wait(helpers: list[_Helper]) -> None:
    """Wait, awake, for the ends of their jobs."""
    for helper in helpers:
        if helper.busy:
            helper.busy = False
            _spin(helper.done)


def _after_fork() -> None:
    """In a forked child the helpers are gone."""
    global _lock, _team
    _lock, _team = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
