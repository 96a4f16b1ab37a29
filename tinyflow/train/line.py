"""Where a run is, in one line of any width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyflow.train.events import Start, Step

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

GAP = "  "
BAR = 10, 40
"""Columns of the shortest and the longest bar."""


def duration(seconds: float) -> str:
    """``50 s``, ``1 min 20 s``, ``12 min`` or ``3 h 5 min``."""
    if seconds < 59.5:
        return f"{max(seconds, 1):.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


@dataclass(frozen=True)
class Status:
    """Where a run is.

    Attributes:
        start: what was said at its start.
        step: the last step.
        passed: seconds since then.
    """

    start: Start
    step: Step
    passed: float

    @property
    def done(self) -> int:
        """Steps of the run that are done."""
        return (self.step.epoch - 1) * self.start.steps + self.step.step

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.start.total

    @property
    def left(self) -> str:
        """``about 3 min left``, if it goes on as it went so far."""
        each = self.passed / max(self.done - self.start.done, 1)
        return f"about {duration(each * (self.total - self.done))} left"

    def parts(self) -> list[tuple[int, str]]:
        """What there is to say, in its order, each with its rank: 0 is said first."""
        step, start = self.step, self.start
        return [
            (1, f"epoch {step.epoch}/{start.epochs}"),
            (6, f"step {step.step}/{start.steps}"),
            (3, f"loss {step.loss:.3f}"),
            (2, f"accuracy {100 * step.accuracy:.1f} %"),
            (4, f"{step.images_per_second:.0f} images/s"),
            (5, f"rate {step.lr:.3g}"),
            (0, self.left),
        ]

    def text(self) -> str:
        """All of it."""
        return GAP.join(said for _, said in self.parts())

    def fitted(self, width: int, full: str = "━", empty: str = "─") -> str:
        """What of it fits into `width` columns, the most wanted first, and a bar.

        Args:
            width: at least 1.
            full, empty: letters of the bar.
        """
        parts = self.parts()
        while len(parts) > 1 and len(GAP.join(said for _, said in parts)) > width:
            parts.remove(max(parts))
        line = GAP.join(said for _, said in parts)
        if len(line) > width:
            line = line.removeprefix("about ").removesuffix(" left")
        room = min(width - len(line) - len(GAP), BAR[1])
        if room < BAR[0]:
            return line[:width]
        whole = room * self.done // self.total
        return f"{full * whole}{empty * (room - whole)}{GAP}{line}"

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[Text]:
        from rich.text import Text

        letters = ("#", "-") if options.ascii_only else ("━", "─")
        # A console of Windows goes on to the next line after the last column.
        line = self.fitted(max(options.max_width - 1, 1), *letters)
        yield Text(line, no_wrap=True, overflow="crop", end="")
