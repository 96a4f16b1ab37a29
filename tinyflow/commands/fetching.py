"""``--download``: what is not there is fetched before training begins."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from tinyflow.commands import ending
from tinyflow.commands.parsing import fail
from tinyflow.data.download import Fetching, fetch
from tinyflow.train.line import duration
from tinyflow.train.report import EVERY, is_live

LIVE = 0.1  # seconds between two states of a line that somebody watches


class Line:
    """A line that follows the file, or one every 5 s where nobody is watching."""

    def __init__(self) -> None:
        self._live = is_live(sys.stdout)
        self._path, self._first, self._begun, self._shown = "", 0, 0.0, 0.0

    def __call__(self, at: Fetching) -> None:
        """Print what is due."""
        now, whole = time.monotonic(), at.done >= at.size
        if at.path != self._path:
            self._path, self._first, self._begun = at.path, at.done, now
        elif not whole and now - self._shown < (LIVE if self._live else EVERY):
            return
        self._shown = now
        unit, name = (1e6, "MB") if at.size >= 1e6 else (1e3, "kB")
        text = f"{at.path}  {at.done / unit:.1f} of {at.size / unit:.1f} {name}"
        if not whole and (come := at.done - self._first) > 0:
            left = (now - self._begun) * (at.size - at.done) / come
            text += f"  about {duration(left)} left"
        if self._live:
            text = f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}"
        print(text, end="" if self._live and not whole else "\n", flush=True)


def fetch_shown(program: str, name: str, folder: Path, mirror: str | None) -> None:
    """Fetch a data set with a progress line.

    Raises:
        DataError: see :func:`tinyflow.data.fetch`.
    """
    try:
        fetch(name, folder, mirror, Line())
    except KeyboardInterrupt:
        said = f"interrupted; what has come is kept in {folder}, and goes on from there"
        fail(program, said, ending.code())
