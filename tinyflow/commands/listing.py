"""``train.py runs`` and ``train.py recipes``: what there is, a line each."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyflow.commands.answering import answering
from tinyflow.commands.train_options import flags
from tinyflow.train.folder import RUNS
from tinyflow.train.recipes import LARGE, RECIPES, SMALL
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


def recipes() -> None:
    """List the recipes of --recipe: their sources, and the options they stand for."""
    shown = []
    for name, recipe in RECIPES.items():
        parts = [
            (of, options)
            for of, options in ((SMALL, recipe.small), (LARGE, recipe.large))
            if options is not None
        ]
        parts += recipe.own.items()
        parts += [("with --no-augment", recipe.plain)] if recipe.plain else []
        lines = [f"{name}: {recipe.source}"]
        lines += [f"  {of}: {flags(options)}" for of, options in parts]
        lines += ["  --lr is in proportion to --batch-size"] if recipe.scaled else []
        lines += [f"  {recipe.note}"] if recipe.note else []
        width = max(shutil.get_terminal_size().columns, 40)
        how: Any = {"subsequent_indent": "    ", "break_on_hyphens": False}
        shown.append("\n".join(textwrap.fill(line, width, **how) for line in lines))
    print("\n\n".join(shown))


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
