"""Block terms along a training run, streamed to ``trace.csv`` in its folder.

A traced step is the training step itself, run with every edge retained, so what is
written is the gradient that moved the weights. Each traced step adds a few kilobytes;
nothing is kept in memory.

The file has one line per step, block and term:

    step, loss, block, kind, term, norm, share, cosine

`term` is "x" and "H" (the gradients at the block's input and sum) and each term of
:mod:`tinyflow.flow.blocks`: "F", "shortcut", "residual", "gain", "gate", "other", with
its L2 `norm`, its signed `share` of the gradient at x, and its `cosine` to the shortcut
term. In DenseNet a block is a source map, its terms are its readers. A block that
reads the images, like VGG's first, is left out: training needs no gradient there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from sys import intern

from tinyflow.atomic import appending
from tinyflow.flow.blocks import MARKS, block_terms, has_blocks
from tinyflow.flow.dense import dense_terms
from tinyflow.flow.probe import FlowError
from tinyflow.reading import Unreadable, kind, number, read_table, whole
from tinyflow.tape import Tape

FILE = "trace.csv"
COLUMNS = ("step", "loss", "block", "kind", "term", "norm", "share", "cosine")
MOST = 200_000_000
"""Bytes of the longest trace that is read: three million rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a trace; see the module's docstring. None where not defined."""

    step: int
    loss: float
    block: str
    kind: str
    term: str
    norm: float
    share: float | None
    cosine: float | None


class TraceWriter:
    """Appends the terms of a retained tape to ``trace.csv`` in `folder`.

    Args:
        folder: of the run.
        again: the file is there, and the run goes on.

    Attributes:
        path: the file.
        closure_max: largest conservation error seen, relative.
    """

    def __init__(self, folder: Path, again: bool = False) -> None:
        self.path = folder / FILE
        self.closure_max = 0.0
        if not again:
            with self.path.open("x", encoding="utf-8", newline="") as file:
                file.write(",".join(COLUMNS) + "\n")

    def __call__(self, step: int, loss: float, tape: Tape) -> None:
        """Write the block terms of one step (a Tape(retain="edges") after backward)."""
        lines = StringIO(newline="")
        out = csv.writer(lines, lineterminator="\n")
        for row in self._rows(step, loss, tape):
            numbers = (row.norm, row.share, row.cosine)
            shown = ["" if n is None else f"{n:.6g}" for n in numbers]
            where = (row.step, f"{row.loss:.6g}", row.block, row.kind, row.term)
            out.writerow([*where, *shown])
        with appending(self.path, lines.getvalue()):  # a step is there whole or not
            pass

    def _rows(self, step: int, loss: float, tape: Tape) -> Iterator[Row]:
        if not has_blocks(tape):
            if not any(name.endswith(".x0") for name in tape.names):
                raise FlowError(
                    "this network has no blocks to be found, so there is nothing to "
                    f"trace: leave --trace-every out, or {MARKS}"
                )
            yield from self._dense_rows(step, loss, tape)
            return
        for terms in block_terms(tape):
            self.closure_max = max(self.closure_max, terms.closure)
            for name, size in terms.norms.items():
                cosine = terms.cosines.get(f"shortcut,{name}")
                share = terms.shares.get(name)
                head = (step, loss, terms.name, terms.kind)
                yield Row(*head, name, size, share, cosine)

    def _dense_rows(self, step: int, loss: float, tape: Tape) -> Iterator[Row]:
        for block in dense_terms(tape):
            self.closure_max = max(self.closure_max, block.closure)
            for j, source in enumerate(block.sources):
                head = (step, loss, source, "dense")
                yield Row(*head, "x", block.totals[j], None, None)
                for i, consumer in enumerate(block.consumers):
                    if (size := float(block.norms[j, i])) == size:  # read at all
                        share = float(block.shares[j, i])
                        yield Row(*head, consumer, size, share, None)


def read_trace(folder: Path) -> list[Row]:
    """The rows of a traced run, in order.

    Raises:
        FlowError: there is no trace, or it is not one.
    """
    path = folder / FILE
    rows: list[Row] = []
    try:
        if kind(path) == "nothing":
            raise FlowError(
                f"{path} does not exist: train with `python train.py --trace-every N` "
                "first"
            )
        for entries in read_table(path, COLUMNS, MOST):
            try:
                rows.append(_row(*entries))
            except ValueError as error:
                raise Unreadable(
                    f"{path} is damaged in row {len(rows) + 1}: {error}"
                ) from error
    except Unreadable as error:
        raise FlowError(f"{error}; trace a run again") from error
    if not rows:
        raise FlowError(f"{path} holds no traced step: the run ended before its first")
    return _whole_steps(rows)


def _row(
    step: str, loss: str, block: str, kind: str, term: str, norm: str, *rest: str
) -> Row:
    # A run has few blocks and many rows: their names are kept once.
    names = (intern(block), intern(kind), intern(term))
    return Row(whole(step), number(loss), *names, number(norm), *map(_n, rest))


def _n(text: str) -> float | None:
    return number(text) if text else None


def _whole_steps(rows: list[Row]) -> list[Row]:
    """Without a last step that lacks rows: the run was killed while it was written."""

    def named(step: int) -> list[tuple[str, str]]:
        return [(row.block, row.term) for row in rows if row.step == step]

    first, last = rows[0].step, rows[-1].step
    if last != first and named(last) != named(first):
        return [row for row in rows if row.step != last]
    return rows
