"""How a command ends: by itself, by a signal, or with nobody left to read.

SIGINT (Ctrl-C), SIGTERM and SIGHUP stop it alike, as a ``KeyboardInterrupt``: what is
finished is kept, what is half made goes, and the exit code is 128 + the signal. One
that the caller ignores (nohup, a background job) stays ignored.

Standard output is not the run folder. If it is closed or its reader has gone
(``| head -1``), the command goes on without it.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from tinyflow.commands.streams import open_minded
from tinyflow.signals import INTERRUPTS

GONE = (errno.EPIPE, errno.EIO)  # no reader; a terminal that was hung up
_stopped: list[int] = []
_failed: list[OSError] = []


def run(name: str, app: Callable[[], Any]) -> NoReturn:
    """Run a command line so that it ends well whenever it is stopped; exits.

    Args:
        name: of the program, for its one sentence.
        app: parses the arguments, does the work, and exits.
    """
    _keep_streams()
    open_minded()
    for number in INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    result: Any = 0
    try:
        app()
    except SystemExit as end:
        result = end.code
    except KeyboardInterrupt:
        _say(f"{name}: interrupted")
    for number in INTERRUPTS:  # there is nothing left to stop
        signal.signal(number, signal.SIG_IGN)
    if _stopped:
        result = code()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if _failed:
        _say(f"{name}: standard output cannot be written ({_failed[0].strerror})")
        result = result or 1
    sys.exit(result)


def code() -> int:
    """The exit code of a command that was stopped: 130 after Ctrl-C."""
    return 128 + (_stopped[0] if _stopped else signal.SIGINT)


def _stop(number: int, frame: FrameType | None) -> None:
    _stopped.append(number)
    raise KeyboardInterrupt


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _keep_streams() -> None:
    """Standard streams that can be written to whatever becomes of their readers."""
    for number in range(3):  # a closed one would become the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        if os.name == "nt" and old is not None and old.isatty():
            continue  # a console there is no file
        file = io.BufferedWriter(_Lasting(number, "w", closefd=False))
        new = io.TextIOWrapper(
            file,
            encoding=old.encoding if old else "utf-8",
            errors=old.errors if old else "replace",
            line_buffering=bool(old and (old.line_buffering or old.write_through)),
        )
        setattr(sys, name, new)


class _Lasting(io.FileIO):
    """A stream that writes to nowhere once nobody reads it."""

    def write(self, data: Any, /) -> int:
        """Write what can be written; the rest is counted as written."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE and self.fileno() == 1:
                _failed.append(error)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes
