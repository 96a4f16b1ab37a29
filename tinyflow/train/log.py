"""What a run prints, with the time of each line, in ``log.txt`` of its folder."""

from __future__ import annotations

import time

from tinyflow.atomic import appending
from tinyflow.train.events import Event, Start
from tinyflow.train.folder import RunFolder
from tinyflow.train.report import PlainReport

FILE = "log.txt"


class LogReport(PlainReport):
    """Plain lines, appended to the file; a run that goes on appends to what is there.

    What is said before the start of the run is written after it: until then nobody
    knows whether the folder will be kept.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self._folder = folder
        self.path = folder.file(FILE)
        self._before: list[str] | None = []

    def __call__(self, event: Event) -> None:
        """Write what is due.

        Raises:
            OSError: it cannot be written.
        """
        if isinstance(event, Start) and self._before is not None:
            self.path.touch()
            before, self._before = self._before, None
            for sentence in before:
                self.line(sentence)
        super().__call__(event)

    def line(self, text: str) -> None:
        """Append a line, or keep it until the run has begun.

        Raises:
            OSError: it cannot be written, or the folder is no longer the run's.
        """
        if self._before is not None:
            self._before.append(text)
            return
        self._folder.check()
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        lines = "".join(f"{now}  {line}\n" for line in text.splitlines())
        with appending(self.path, lines):
            pass
