"""``train.py predict``: what a trained network takes pictures for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyflow.commands.answering import (
    PROGRAM,
    Device,
    Moved,
    Run,
    Which,
    answering,
    ready,
)
from tinyflow.commands.parsing import fail, say
from tinyflow.data import DataError
from tinyflow.train.checkpoint import LAST
from tinyflow.train.checks import whole_in
from tinyflow.train.prediction import likeliest, pixels, probabilities


def predict(
    context: typer.Context,
    run: Run,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Files of any format.")
    ],
    which: Which = LAST,
    top: Annotated[int, typer.Option(help="How many classes are named.")] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead, for programs.")
    ] = False,
    device: Device = "auto",
    model: Moved = None,
) -> None:
    """Name the likeliest classes of pictures, with their probabilities."""
    answers: list[dict[str, Any]] = []
    with answering():
        whole_in("top", top, 1)
        trained, _ = ready(context, run, which, model, device)
        told = trained.known()
        for path in images:
            answer: dict[str, Any] = {"image": str(path)}
            try:
                chances = probabilities(trained, told, pixels(path, told)[None])[0]
            except DataError as error:
                answer["error"] = str(error)
                say(PROGRAM, str(error))
            except FloatingPointError as error:
                fail(PROGRAM, f"{error} for {path}: use another checkpoint", 1)
            else:
                found = likeliest(told, chances, top)
                answer["classes"] = [{"name": n, "probability": p} for n, p in found]
                if not as_json:
                    print(path)
                    for name, chance in found:
                        print(f"{100 * chance:7.2f} %  {name}", flush=True)
            answers.append(answer)
        if as_json:
            print(json.dumps(answers))
    if any("error" in answer for answer in answers):
        raise typer.Exit(1)
