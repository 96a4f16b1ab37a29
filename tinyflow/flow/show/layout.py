"""Tables in plain text that fit any width and never cut a number.

A column writes all its numbers in one way. Columns that do not fit beside each other
are stacked: the table goes on below, with its first column again. Every column has a
meaning, which stands below the table.
"""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

GAP = "  "
NARROWEST, PROSE = 40, 100  # columns; no line of text is longer than PROSE
MOST_DECIMALS = 4
Writer: TypeAlias = Callable[[Sequence[Any]], list[str]]


def fill(text: str, most: int, first: str = "", later: str = "") -> str:
    """`text` in lines of at most `most` letters; 1e-12 is not broken at its hyphen."""
    return textwrap.fill(
        text,
        most,
        initial_indent=first,
        subsequent_indent=later,
        break_on_hyphens=False,
    )


def width() -> int:
    """Columns of the terminal or of COLUMNS; 80 where neither says so."""
    return max(NARROWEST, shutil.get_terminal_size((80, 24)).columns)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _each(values: Sequence[Any], form: str) -> list[str]:
    return ["-" if _missing(v) else format(v, form) for v in values]


def words(values: Sequence[Any]) -> list[str]:
    """Words and whole numbers, as they are."""
    return ["-" if _missing(v) else str(v) for v in values]


def two(values: Sequence[float | None]) -> list[str]:
    """Two decimals, "-" for what is not there; nothing is minus zero."""
    return _each(values, "z.2f")


def percent(values: Sequence[float | None]) -> list[str]:
    """Whole percents."""
    return _each(values, "z.0%")


def errors(values: Sequence[float | None]) -> list[str]:
    """Conservation errors: their power of ten, or 0."""
    return [
        "0" if v == 0 else t for v, t in zip(values, _each(values, "z.0e"), strict=True)
    ]


def counts(values: Sequence[int]) -> list[str]:
    """Whole numbers, or powers of ten where some have more than seven digits."""
    return _each(values, "z.2e" if max(values, default=0) >= 10**7 else "d")


def numbers(values: Sequence[float | None]) -> list[str]:
    """Three digits or more of each: all with as many decimals, or all as powers of ten.

    Decimals serve while the smallest of the numbers shows three digits with four of
    them and the largest is below 10,000.
    """
    sizes = [abs(v) for v in values if v and math.isfinite(v)]
    if not sizes:
        return _each(values, "z.0f")
    decimals = 2 - math.floor(math.log10(min(sizes)))
    if decimals <= MOST_DECIMALS and max(sizes) < 9999.5:
        return _each(values, f"z.{max(decimals, 0)}f")
    return _each(values, "z.2e")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        heading: above it; a line break saves width.
        meaning: what it is, below the table.
        values: from top to bottom.
        write: turns them into words, e.g. :func:`numbers`.
    """

    heading: str
    meaning: str
    values: Sequence[Any]
    write: Writer = numbers

    @property
    def name(self) -> str:
        """The heading in one line."""
        return self.heading.replace("-\n", "").replace("\n", " ")

    @property
    def width(self) -> int:
        """Letters of its widest line."""
        return len(self.lines(self.heading.count("\n") + 1)[0])

    def lines(self, height: int) -> list[str]:
        """Heading (of `height` lines) and cells, all of one width."""
        head = self.heading.split("\n")
        head += [""] * (height - len(head))
        cells = [*head, *self.write(self.values)]
        longest = max(map(len, cells))
        left = self.write is words and not all(isinstance(v, int) for v in self.values)
        return [c.ljust(longest) if left else c.rjust(longest) for c in cells]


@dataclass(frozen=True, repr=False)
class Table:
    """Columns of equal length, a title, and a note below.

    Attributes:
        title: what is shown, under which conditions.
        columns: the first says what a row is about.
        note: what else there is to say.
    """

    title: str
    columns: Sequence[Column]
    note: str = ""

    def __repr__(self) -> str:
        return self.text(width())

    def text(self, most: int) -> str:
        """The table in lines of at most `most` letters."""
        prose = min(most, PROSE)
        parts = [fill(self.title, prose, later=GAP)]
        for group in _stacked(self.columns, most):
            height = max(c.heading.count("\n") + 1 for c in group)
            lines = zip(*(c.lines(height) for c in group), strict=True)
            rows = [GAP.join(cells).rstrip() for cells in lines]
            rule = "-" * max(map(len, rows))
            parts.append("\n".join([*rows[:height], rule, *rows[height:]]))
        parts.append("\n".join(legend(self.columns, prose)))
        if self.note:
            parts.append(fill(self.note, prose))
        return "\n\n".join(parts) + "\n"


def _stacked(columns: Sequence[Column], most: int) -> list[list[Column]]:
    """The columns in groups that fit, each with the first column before them."""
    key, *others = columns
    groups, used = [[key]], key.width
    for column in others:
        needed = len(GAP) + column.width
        if len(groups[-1]) > 1 and used + needed > most:
            groups.append([key])
            used = key.width
        groups[-1].append(column)
        used += needed
    return groups


def legend(columns: Sequence[Column], most: int) -> list[str]:
    """``name: meaning`` of every column."""
    return [fill(f"{c.name}: {c.meaning}", most, later=GAP) for c in columns]
