"""Progress in a cell of a notebook: a line that is rewritten, and one per epoch."""

from __future__ import annotations

import sys
import time
from typing import Any

from tinyflow.train.events import Event, Step
from tinyflow.train.report import PlainReport, terminal_report

WIDTH = 110
"""Columns of a cell."""
REWRITTEN = 0.2
"""Seconds between two states of the line."""


def in_notebook() -> bool:
    """Whether this is a notebook's kernel, whose cells can show more than text."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def live_report() -> PlainReport:
    """Whatever shows a run best here: a cell's line, a terminal's bar, or plain lines.

    ``with live_report() as report: train(config, report)``.
    """
    return NotebookReport() if in_notebook() else terminal_report()


class NotebookReport(PlainReport):
    """A live line in the cell that is running; what stays is printed below it."""

    def __init__(self) -> None:
        super().__init__()
        self._cell: Any = None
        self._rewritten = 0.0

    def __exit__(self, *exc: object) -> None:
        if self._cell is not None:
            self._cell.update({"text/plain": ""}, raw=True)

    def __call__(self, event: Event) -> None:
        """Rewrite the line, or print."""
        if not isinstance(event, Step):
            super().__call__(event)
        elif (status := self.status(event)) is not None:
            now = time.monotonic()
            if now - self._rewritten >= REWRITTEN:
                self._rewritten = now
                self._show(status.fitted(WIDTH))

    def _show(self, line: str) -> None:
        content = {"text/plain": line}
        if self._cell is not None:
            self._cell.update(content, raw=True)
            return
        from IPython import display

        show: Any = display.display
        self._cell = show(content, raw=True, display_id=True)
