"""``train.py runs``: what lies in a folder of runs, a line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tinyflow.commands.answering import answering
from tinyflow.train.folder import RUNS
from tinyflow.train.runs import DAMAGED, STOPPED, Run, list_runs

HEADINGS = ("run", "network", "data", "seed", "epochs", "test %", "best %", "state")
LEFT = ("run", "network", "data", "state")


def runs(
    folder: Annotated[Path, typer.Argument(help="Where they lie.")] = RUNS,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead, for programs.")
    ] = False,
) -> None:
    """List runs: how far each is, how good, and whether it can be resumed."""
    with answering():
        found = list_runs(folder)
        if as_json:
            print(json.dumps([run.to_json() for run in found], allow_nan=False))
        else:
            print(table(found) if found else f"{folder} holds no runs")


def table(found: list[Run]) -> str:
    """A line of headings, a line per run, what is damaged, and what the words mean."""
    rows = [HEADINGS, *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if name in LEFT else cell.rjust(width)
            for name, cell, width in zip(HEADINGS, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    lines += [f"damaged: {printable(run.why)}" for run in found if run.why]
    if any(run.best for run in found):
        lines.append("best: test accuracy after the epoch best on validation")
    stopped = [run for run in found if run.state == STOPPED]
    if stopped:
        lines.append(
            f"stopped: python train.py --resume {printable(str(stopped[-1].place))} "
            "goes on"
        )
    return "\n".join(lines)


def _row(run: Run) -> tuple[str, ...]:
    last, best = run.last, run.best
    of = "?" if run.epochs is None else run.epochs
    return (
        printable(str(run.place)),
        printable(run.model or "?"),
        printable(run.dataset or "?"),
        "?" if run.seed is None else str(run.seed),
        f"{last.epoch if last else 0}/{of}",
        f"{100 * last.test_accuracy:.2f}" if last else "-",
        f"{100 * best.test_accuracy:.2f}" if best else "-",
        DAMAGED if run.why else run.state,
    )


def printable(text: str) -> str:
    """`text` in one line that does nothing to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
