"""Progress in the terminal: a live bar, or plain lines where nobody is watching."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from tinyflow.train.events import Event, Start, Step
from tinyflow.train.line import Status
from tinyflow.train.metrics import EpochRow, Times

if TYPE_CHECKING:
    from rich.console import Console

EVERY = 5.0  # seconds between plain lines within an epoch


class PlainReport:
    """One line at the start, one per epoch, and one about every 5 s in between."""

    def __init__(self) -> None:
        self._start: Start | None = None
        self._took: Times | None = None
        self._begun = self._shown = 0.0

    def __enter__(self) -> PlainReport:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        """Print what is due."""
        now = time.monotonic()
        if isinstance(event, Start):
            self._start, self._begun = event, now
            self.line(describe(event))
        elif isinstance(event, EpochRow):
            self.line(summary(event, self._start, self._took))
        elif isinstance(event, Times):
            self._took = event
            return
        elif now - self._shown >= EVERY and (status := self.status(event)) is not None:
            self.line(status.text())
        else:
            return
        self._shown = now

    def status(self, step: Step) -> Status | None:
        """Where the run is after a step; None before its start was reported."""
        if self._start is None:
            return None
        return Status(self._start, step, time.monotonic() - self._begun)

    def line(self, text: str) -> None:
        """Print a line at once, even into a pipe."""
        print(text, flush=True)


class BarReport(PlainReport):
    """A live bar for the epoch being trained, and one line per finished epoch."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        from rich.live import Live

        self._status: Status | str = ""
        self._bar = Live(
            console=console,
            transient=True,
            refresh_per_second=10,
            get_renderable=lambda: self._status,
        )

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Rewrite the line, or print above it."""
        if isinstance(event, Step):
            self._status = self.status(event) or ""
            return
        super().__call__(event)
        if isinstance(event, Start):
            self._status = ""
            self._bar.start()

    def line(self, text: str) -> None:
        """Print a line above the bar, or plainly before there is one."""
        self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)


def terminal_report() -> PlainReport:
    """The bar on a terminal, plain lines elsewhere."""
    return BarReport() if is_live(sys.stdout) else PlainReport()


def is_live(stream: object) -> bool:
    """Whether a line written to `stream` can be rewritten."""
    terminal = getattr(stream, "isatty", lambda: False)()
    return bool(terminal) and os.environ.get("TERM") != "dumb"


def describe(start: Start) -> str:
    """What is trained on what, with what, where."""
    return (
        f"{start.model}, {start.parameters:,} parameters, on {start.dataset}: "
        f"{start.train_images:,} training and {start.test_images:,} test images, "
        f"{start.epochs} epochs of {start.steps} steps, lr {start.lr:g}\n"
        f"device: {start.device} ({start.reason}), {start.kernels}"
        + (f"\ngoes on after step {start.done}" if start.done else "")
    )


def summary(row: EpochRow, start: Start | None, took: Times | None) -> str:
    """What an epoch measured."""
    parts = [f"epoch {row.epoch}{f'/{start.epochs}' if start else ''}"]
    for name in ("train", "val", "test"):
        loss = getattr(row, f"{name}_loss")
        accuracy = getattr(row, f"{name}_accuracy")
        if loss == loss:  # there may be no validation images
            parts.append(f"{name} loss {loss:.3f}  accuracy {100 * accuracy:.1f} %")
    if took is not None:
        parts.append(f"{took.images_per_second:.0f} images/s  {took.seconds:.1f} s")
    return "  ".join(parts)
