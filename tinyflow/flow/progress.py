"""How far an analysis is and how long it will still take, on terminals and in logs.

A thread of its own looks every now and then, so that a single long step is not silent
either: on a terminal it rewrites one line, elsewhere it writes a plain line to standard
output about every five seconds. An analysis that is over sooner writes none.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tinyflow.train.line import duration
from tinyflow.train.report import is_live

EVERY = 5.0  # seconds between plain lines
REDRAW = 0.5  # between two looks at the line on a terminal
SURE = 0.03  # part of the whole from which on what remains is guessed

Told = Callable[[float], None]
"""Called with the part of a piece of work, 0 to 1, that is done."""


def silent(done: float) -> None:
    """For callers who do not care how far it is."""


class Progress:
    """What is being done, how much of the whole that is, and what remains."""

    def __init__(self) -> None:
        self._live = is_live(sys.stderr)
        self._stream = sys.stderr if self._live else sys.stdout
        self._what, self._total = "", 1.0
        self._done, self._weight, self._within = 0.0, 0.0, 0.0
        self._poll: Callable[[], float] | None = None
        self._start = self._begun = time.monotonic()
        self._shown = False
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()
        with self.hidden():
            pass

    def plan(self, total: float) -> None:
        """Say how much work there will be, in the unit of :meth:`begin`'s weights."""
        self._total = max(total, 1e-9)

    def begin(self, what: str, weight: float = 1.0) -> None:
        """Say what is done now; whatever was begun before is finished."""
        self._done += self._weight
        self._poll, self._within = None, 0.0
        self._what, self._weight, self._begun = what, weight, time.monotonic()

    def within(self, done: float) -> None:
        """Say which part, 0 to 1, of what was begun is done."""
        self._poll, self._within = None, done

    def watch(self, poll: Callable[[], float]) -> None:
        """Let the thread ask for that part itself."""
        self._poll = poll

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """No progress on the screen while something else is printed."""
        with self._lock:
            if self._shown:
                print("\r\x1b[K", end="", file=self._stream, flush=True)
                self._shown = False
            yield

    def fraction(self) -> float:
        """The part of the whole that is done."""
        within = self._poll() if self._poll is not None else self._within
        if not within and self._done and self._weight:
            # Nobody says: guess from what the parts before took.
            pace = (self._begun - self._start) / self._done
            passed = time.monotonic() - self._begun
            within = passed / (passed + pace * self._weight + 1e-9)
        done = self._done + self._weight * min(max(within, 0.0), 1.0)
        return min(done / self._total, 1.0)

    def line(self) -> str:
        """``paths of resnet110 · 40% · about 1 min 20 s left``."""
        passed, part = time.monotonic() - self._start, self.fraction()
        if part < SURE:
            return f"{self._what} · {duration(passed)} so far"
        if part > 1 - SURE / 3:
            return f"{self._what} · nearly done"
        left = duration(passed * (1 - part) / part)
        return f"{self._what} · {part:.0%} · about {left} left"

    def _run(self) -> None:
        while not self._end.wait(REDRAW if self._live else EVERY):
            if not self._what:
                continue
            try:
                with self._lock:
                    self._show(self.line())
            except (OSError, ValueError):  # nobody reads it any more
                return

    def _show(self, line: str) -> None:
        if self._live:
            print(f"\r\x1b[K{line}", end="", file=self._stream, flush=True)
            self._shown = True
        else:
            print(line, file=self._stream, flush=True)
