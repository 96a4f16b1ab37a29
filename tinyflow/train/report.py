"""Progress in the terminal: a live bar, or plain lines where nobody is watching."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from tinyflow.train.events import Event, Start, Step
from tinyflow.train.metrics import EpochRow, Times

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

METRICS = "loss", "accuracy"
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
        elif now - self._shown >= EVERY and self._start is not None:
            self.line(
                f"epoch {event.epoch}/{self._start.epochs}  "
                f"step {event.step}/{self._start.steps}  {means(event)}  "
                f"about {self._left(event, self._start, now - self._begun)} left"
            )
        else:
            return
        self._shown = now

    @staticmethod
    def _left(step: Step, start: Start, passed: float) -> str:
        done = (step.epoch - 1) * start.steps + step.step
        left = start.total - done
        return duration(passed * left / (done - start.done))

    def line(self, text: str) -> None:
        """Print a line at once, even into a pipe."""
        print(text, flush=True)


class BarReport(PlainReport):
    """A live bar for the epoch being trained, and one line per finished epoch."""

    def __init__(self) -> None:
        super().__init__()
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[means]}"),
            transient=True,
        )
        self._task: TaskID | None = None

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Move the bar, or print above it."""
        if not isinstance(event, Step):
            super().__call__(event)
        if isinstance(event, Start):
            self._task = self._bar.add_task(
                "", total=event.total, completed=event.done, means=""
            )
            self._bar.start()
        elif isinstance(event, Step) and self._task is not None and self._start:
            self._bar.update(
                self._task,
                description=f"epoch {event.epoch}/{self._start.epochs}",
                completed=(event.epoch - 1) * self._start.steps + event.step,
                means=means(event),
            )

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


def duration(seconds: float) -> str:
    """``50 s``, ``1 min 20 s``, ``12 min`` or ``3 h 5 min``."""
    if seconds < 59.5:
        return f"{max(seconds, 1):.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def describe(start: Start) -> str:
    """What is trained on what, with what, where."""
    return (
        f"{start.model}, {start.parameters:,} parameters, on {start.dataset}: "
        f"{start.train_images:,} training and {start.test_images:,} test images, "
        f"{start.epochs} epochs of {start.steps} steps, lr {start.lr:g}\n"
        f"device: {start.device} ({start.reason}), {start.kernels}"
    )


def means(step: Step) -> str:
    """The epoch's means so far."""
    return (
        f"loss {step.loss:.3f}  accuracy {100 * step.accuracy:.1f} %  "
        f"{step.images_per_second:.0f} images/s"
    )


def summary(row: EpochRow, start: Start | None, took: Times | None) -> str:
    """What an epoch measured."""
    parts = [f"epoch {row.epoch}{f'/{start.epochs}' if start else ''}"]
    for name in ("train", "val", "test"):
        loss, accuracy = (getattr(row, f"{name}_{what}") for what in METRICS)
        if loss == loss:  # there may be no validation images
            parts.append(f"{name} loss {loss:.3f}  accuracy {100 * accuracy:.1f} %")
    if took is not None:
        parts.append(f"{took.images_per_second:.0f} images/s  {took.seconds:.1f} s")
    return "  ".join(parts)
