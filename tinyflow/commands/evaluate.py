"""``train.py evaluate``: how good a trained network is, class by class."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyflow import __version__
from tinyflow.atomic import replacing
from tinyflow.commands.answering import (
    PROGRAM,
    Device,
    Moved,
    Run,
    Which,
    answering,
    ready,
)
from tinyflow.commands.parsing import fail, named, say
from tinyflow.data import ImageFolder, ImageSet, Loader
from tinyflow.flow.progress import Progress
from tinyflow.flow.show.layout import Column, Table, width, words
from tinyflow.reading import Unreadable, kind, read_object
from tinyflow.train import ConfigError, TrainConfig
from tinyflow.train.checkpoint import LAST
from tinyflow.train.checks import whole_in
from tinyflow.train.confusion import draw_confusion
from tinyflow.train.evaluation import TOP, Evaluation, examine
from tinyflow.train.trained import Trained

FILE, PICTURE = "evaluation.json", "confusion.png"
ROWS = 100
"""Up to so many classes, each has a line."""
LOSS = (
    "mean of -log(probability of the class), in nats",
    "mean of -log(mean over ten crops of the probability of the class), in nats",
)
"""What the loss is: of the middle of each image, of its ten crops."""
MOST = 100_000_000
"""Bytes of the longest file that is taken for an earlier evaluation."""


def evaluate(
    context: typer.Context,
    run: Run,
    which: Which = LAST,
    dataset: Annotated[
        str | None, typer.Option(help="Other images than the run's own.")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="TINYFLOW_DATA",
            help="Folder with the files of --dataset; left out: the run's.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Images at once.")
    ] = TrainConfig.batch_size,
    limit_test: Annotated[
        int | None, typer.Option(help="Only the first so many test images.")
    ] = None,
    ten_crop: Annotated[
        bool,
        typer.Option(
            "--ten-crop",
            help="Of images in folders: corners, middle and their mirror images, "
            "probabilities averaged.",
        ),
    ] = False,
    device: Device = "auto",
    model: Moved = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; left out: the run's.")
    ] = None,
) -> None:
    """Top-1 and top-5 accuracy, every class, and a confusion matrix."""
    with answering():
        place = output or (run if run.is_dir() else run.parent)
        check_place(place)
        whole_in("batch-size", batch_size, 1)
        trained, on = ready(context, run, which, model, device)
        name = dataset or trained.told.dataset
        if name == "shapes" and "data_dir" in named(context):
            raise ConfigError("--data-dir is not for shapes, which is drawn")
        data = trained.images(dataset, data_dir, limit_test)
        if ten_crop:
            data = ten_cropped(data)
        if skipped := getattr(data, "skipped", ()):
            s = "s" * (len(skipped) > 1)
            say(PROGRAM, f"left out {len(skipped):,} test image{s}, e.g. {skipped[0]}")
        print(f"device: {on}", flush=True)
        loader = Loader(data, batch_size, shuffle=False)
        try:
            with Progress() as progress:
                progress.begin(f"evaluating {trained.told.model}")
                found = examine(trained.model, loader, progress.within)
        except FloatingPointError as error:
            fail(PROGRAM, f"{error}: use another checkpoint", 1)
        said = described(trained, data, ten_crop)
        print(judged(found, said, data.classes))
        if ten_crop:
            print(f"that loss is the {LOSS[True]}")
        facts = {
            "run": str(run),
            "which": which if run.is_dir() else None,
            "model": trained.told.model,
            "epoch": trained.told.epoch,
            "trained_on": trained.told.dataset,
            "dataset": data.name,
            "split": "test",
            "ten_crop": ten_crop,
            "loss_is": LOSS[ten_crop],
            "batch_size": batch_size,
            "device": on.split()[0],
            "tinyflow": __version__,
        }
        write(place, facts, found, data.classes, said)
        print(f"written to {place}: {FILE}, {PICTURE}")


def described(trained: Trained, data: ImageSet, ten_crop: bool) -> str:
    """Which weights, on what."""
    told = trained.told
    return (
        f"{told.model}, epoch {told.epoch} of {trained.source}, on {len(data):,} test "
        f"images of {data.name}{', ten crops each' * ten_crop}"
    )


def ten_cropped(data: ImageSet) -> ImageFolder:
    """A set that serves the ten crops of each image.

    Raises:
        ConfigError: its images are no larger than what the network takes.
    """
    if not isinstance(data, ImageFolder):
        raise ConfigError(
            f"--ten-crop is of images in folders: those of {data.name} have the "
            f"network's {data.image_size}x{data.image_size} pixels already, so that "
            "there is nothing to crop"
        )
    return replace(data, ten=True)


def _right(values: Sequence[float | None]) -> list[str]:
    return ["-" if v is None else f"{100 * v:.1f}" for v in values]


def judged(found: Evaluation, said: str, classes: Sequence[str]) -> str:
    """The numbers as they are printed: of all images, then class by class."""
    accuracy = found.per_class
    order = list(range(len(classes)))
    note = ""
    if len(order) > ROWS:
        order.sort(key=lambda i: (accuracy[i] is None, accuracy[i]))
        del order[ROWS:]
        note = f"The {ROWS} classes with the lowest accuracy; {FILE} has all."
    counts = found.confusion.sum(axis=1).tolist()
    wrong = []
    for i in order:
        other = found.mistaken(i)
        share = f" {100 * other[1] / counts[i]:.1f}" if other else ""
        wrong.append(f"{classes[other[0]]}{share}" if other else "-")
    table = Table(
        said,
        (
            Column("class", "of the test images", [classes[i] for i in order], words),
            Column("images", "how many there are", [counts[i] for i in order], words),
            Column(
                "right %",
                "share of them that the network takes for this class",
                [accuracy[i] for i in order],
                _right,
            ),
            Column(
                "else %",
                "the class that most of the others are taken for, and their share of "
                "the images",
                wrong,
                words,
            ),
        ),
        note,
    ).text(width())
    best = f", top-5 {100 * found.top5:.2f} %" if len(classes) > TOP else ""
    return (
        f"{table}\ntop-1 accuracy {100 * found.top1:.2f} %{best}, "
        f"loss {found.loss:.4f} nats"
    )


def check_place(folder: Path) -> None:
    """See that an evaluation may be written there: it replaces only an earlier one.

    Raises:
        ConfigError: the place is no folder, closed, or has such files of others.
    """
    what = kind(folder)
    if what == "nothing":
        return
    if what != "folder":
        raise ConfigError(f"{folder} is a {what}, not a folder: choose another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder} is not writable: choose a place with --output")
    ours = kind(folder / PICTURE) == "nothing"
    if kind(folder / FILE) != "nothing":
        try:
            ours = "confusion" in read_object(folder / FILE, MOST)
        except Unreadable:
            ours = False
    if not ours:
        raise ConfigError(
            f"{folder} holds an {FILE} or a {PICTURE} that no evaluation wrote: move "
            "it, or choose another place with --output"
        )


def write(
    folder: Path,
    facts: dict[str, Any],
    found: Evaluation,
    classes: tuple[str, ...],
    said: str,
) -> None:
    """Write numbers and picture, in place of those of an earlier evaluation.

    Raises:
        OSError: one cannot be written; both are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts | found.to_json(classes)) + "\n"
    with ExitStack() as files:
        numbers = files.enter_context(replacing(folder / FILE))
        picture = files.enter_context(replacing(folder / PICTURE))
        numbers.write_text(text, encoding="utf-8")
        title = f"{said}: {100 * found.top1:.2f} % right"
        draw_confusion(picture, found.confusion, classes, title)
