"""A process that turns files into pixels, started by :mod:`tinyflow.data.pool`.

It is told numbers of slots of shared memory through one pipe, finds a job in each, puts
the pixels in its place, and sends the number back through another. It ends when whoever
asked is gone: nothing can be read any more, or nobody reads what it sends.

It runs as a script, by its path, and imports neither the package around it, whose
engine would take most of a start, nor the caller's own main program, which need not
guard itself against being imported. Ctrl-C is its parent's to answer.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import types
from pathlib import Path

WIDTH = 4
"""Bytes of a number in a pipe; written and read whole, since pipes deal in more."""


def main(slot: int, memory: int, jobs: int, answers: int) -> None:
    """Work until nobody asks.

    Args:
        slot: bytes of one.
        memory, jobs, answers: open files: shared memory, what to read, where to write.
    """
    import numpy as np

    from tinyflow.data.base import DataError
    from tinyflow.data.picture import Job, picture

    with mmap.mmap(memory, 0) as held:
        while number := os.read(jobs, WIDTH):
            begin = slot * int.from_bytes(number, "little")
            length = int.from_bytes(held[begin : begin + WIDTH], "little")
            told = held[begin + WIDTH : begin + WIDTH + length]
            try:
                pixels = picture(Job(*json.loads(told)))
            except Exception as error:
                said = str(error) if isinstance(error, DataError) else repr(error)
                text = said.encode("utf-8", "backslashreplace")[: slot - WIDTH]
                held[begin : begin + WIDTH] = len(text).to_bytes(WIDTH, "little")
                held[begin + WIDTH : begin + WIDTH + len(text)] = text
                failed = 1
            else:
                place = np.frombuffer(held, np.uint8, pixels.size, begin)
                place.reshape(pixels.shape)[...] = pixels
                del place  # else the memory could not be closed
                failed = 0
            answer = int.from_bytes(number, "little") << 1 | failed
            os.write(answers, answer.to_bytes(WIDTH, "little"))


def _without_the_engine(package: Path) -> None:
    """Make ``tinyflow`` and ``tinyflow.data`` mere folders, whose files are not run."""
    for name, folder in (("tinyflow", package), ("tinyflow.data", package / "data")):
        module = types.ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path[:] = json.loads(sys.argv[1])
    _without_the_engine(Path(__file__).parent.parent)
    try:
        main(*map(int, sys.argv[2:]))
    except BrokenPipeError:
        pass
