"""``train.py curves``: the errors of several runs in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyflow.commands.answering import answering
from tinyflow.train import ConfigError
from tinyflow.train.overlay import draw_errors
from tinyflow.train.runs import list_runs


def curves(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run folders, or folders of runs."),
    ],
    output: Annotated[Path, typer.Option(help="The PNG to write.")],
    title: Annotated[str, typer.Option(help="Left out: what all of them share.")] = "",
) -> None:
    """Draw train and test error of runs over their epochs, in %."""
    with answering():
        if output.suffix.lower() != ".png":
            raise ConfigError(f"--output {output} must end in .png")
        found = {}
        for place in places:
            runs = list_runs(place)
            if not runs:
                raise ConfigError(f"{place} is no run, nor does it hold any")
            for run in runs:
                if not run.rows:
                    why = run.why or "it has no finished epoch"
                    raise ConfigError(f"{run.place} cannot be drawn: {why}")
                found[run.place.absolute()] = run
        draw_errors(output, list(found.values()), title)
        print(f"written to {output}: {len(found)} run{'s' * (len(found) > 1)}")
