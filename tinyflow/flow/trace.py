"""Block terms along a training run, streamed to ``trace.csv`` in its folder.

A traced step is the training step itself, run with every edge retained, so what is
written is the gradient that moved the weights. Each traced step adds a few kilobytes;
nothing is kept in memory.

The file has one line per step, block and term:

    step, loss, block, kind, term, norm, share, cosine

`term` is "x" and "H" (the gradients at the block's input and sum) and each term of
:mod:`tinyflow.flow.blocks`: "F", "shortcut", "residual", "gain", "gate", "other", with
its L2 `norm`, its signed `share` of the gradient at x, and its `cosine` to the shortcut
term. In DenseNet a block is a source map, its terms are its readers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tinyflow.flow.blocks import block_terms, has_blocks
from tinyflow.flow.dense import dense_terms
from tinyflow.flow.probe import FlowError
from tinyflow.tape import Tape

FILE = "trace.csv"
COLUMNS = ("step", "loss", "block", "kind", "term", "norm", "share", "cosine")


@dataclass(frozen=True)
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

    Attributes:
        path: the file.
        closure_max: largest conservation error seen, relative.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.closure_max = 0.0
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)

    def __call__(self, step: int, loss: float, tape: Tape) -> None:
        """Write the block terms of one step (a Tape(retain="edges") after backward)."""
        with self.path.open("a", newline="") as file:
            out = csv.writer(file)
            for row in self._rows(step, loss, tape):
                numbers = (row.norm, row.share, row.cosine)
                shown = ["" if n is None else f"{n:.6g}" for n in numbers]
                where = (row.step, f"{row.loss:.6g}", row.block, row.kind, row.term)
                out.writerow([*where, *shown])

    def _rows(self, step: int, loss: float, tape: Tape) -> Iterator[Row]:
        if not has_blocks(tape):
            yield from self._dense_rows(step, loss, tape)
            return
        for terms in block_terms(tape):
            self.closure_max = max(self.closure_max, terms.closure)
            for name, size in terms.norms.items():
                cosine = terms.cosines.get(f"shortcut,{name}")
                share = terms.shares.get(name)
                at = (step, loss, terms.name, terms.kind)
                yield Row(*at, name, size, share, cosine)

    def _dense_rows(self, step: int, loss: float, tape: Tape) -> Iterator[Row]:
        for block in dense_terms(tape):
            self.closure_max = max(self.closure_max, block.closure)
            for j, source in enumerate(block.sources):
                at = (step, loss, source, "dense")
                yield Row(*at, "x", block.totals[j], None, None)
                for i, consumer in enumerate(block.consumers):
                    if (size := float(block.norms[j, i])) == size:  # read at all
                        share = float(block.shares[j, i])
                        yield Row(*at, consumer, size, share, None)


def read_trace(folder: Path) -> list[Row]:
    """The rows of a traced run, in order.

    Raises:
        FlowError: there is no trace, or it is not one.
    """
    path = folder / FILE
    if not path.is_file():
        raise FlowError(
            f"{path} does not exist: train with `python train.py --trace-every N` first"
        )
    with path.open(newline="") as file:
        reader = csv.reader(file)
        if tuple(next(reader, ())) != COLUMNS:
            raise FlowError(
                f"{path} is not a trace: its first line must name {COLUMNS}"
            )
        try:
            rows = [
                Row(int(s), float(loss), block, kind, term, float(norm), *map(_n, rest))
                for s, loss, block, kind, term, norm, *rest in reader
            ]
        except (TypeError, ValueError) as error:
            raise FlowError(f"{path} is damaged near line {reader.line_num}") from error
    if not rows:
        raise FlowError(f"{path} holds no traced step: the run ended before its first")
    return rows


def _n(text: str) -> float | None:
    return float(text) if text else None
