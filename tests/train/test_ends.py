"""How a run ends when its machine fails, and what is refused before it begins."""

from __future__ import annotations

import errno
import math
import sys
from dataclasses import astuple, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import models
from tests.train.small import SMALL, stop_at
from tests.train.small import place as place
from tinyflow.commands import train as cli
from tinyflow.reading import Unreadable
from tinyflow.train import (
    ConfigError,
    EpochRow,
    TrainConfig,
    TrainError,
    folder,
    loop,
    metrics,
    train,
)
from tinyflow.train.checks import check_listing
from tinyflow.train.folder import RunFolder
from tinyflow.train.metrics import COLUMNS, MetricsFiles, Times, read_metrics
from tinyflow.train.prepare import prepare

ROW = EpochRow(3, 2.5, 0.1, math.nan, math.nan, 2.25, 0.125, 0.05, 0.75)
TOOK = Times(3, 100.0, 1.5, math.nan)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"trace_every": 2}, "trace_every needs a tracer"),
        ({"num_classes": 7}, "shapes has 10 classes, not 7: leave --num-classes out"),
        ({"batch_size": 301}, "--batch-size 301 is more than the 300 training images"),
    ],
)
def test_nothing_is_written_for_what_cannot_be(
    place: Path, changed: dict[str, int], word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        train(replace(SMALL, **changed))
    assert list(place.iterdir()) == []


def test_whoever_says_nothing_gets_what_the_help_says() -> None:
    """A default that changes would change runs that nobody has touched."""
    config = TrainConfig(models.find("resnet20"))
    assert (config.batch_size, config.epochs, config.warmup_epochs) == (64, 4, 0.5)
    assert (config.momentum, config.label_smoothing, config.seed) == (0.9, 0.0, 0)
    chosen = config.augment, config.deterministic, config.capture
    assert chosen == (False, False, True)
    said = (
        CliRunner()
        .invoke(cli.app, ["--help"], obj=models.ZOO, terminal_width=200)
        .stdout
    )
    for default in ("64", "0.9", "0.0", "0.5", "0", "cosine", "capture"):
        assert f"[default: {default}]" in " ".join(said.split())


def test_what_just_fits_is_taken() -> None:
    check_listing({"num_classes"}, 1)
    with pytest.raises(ConfigError, match="--num-classes must be 1 or more, not 0"):
        check_listing({"num_classes"}, 0)
    ready = prepare(replace(SMALL, num_classes=10, batch_size=300))
    assert ready.steps == 1


def test_images_are_tested_in_their_order_and_trained_on_in_another() -> None:
    ready = prepare(SMALL)
    for batches, ordered in ((ready.test, True), (ready.train, False)):
        labels = next(batches.epoch(0))[1]
        assert np.array_equal(labels, batches.dataset.labels[:50]) == ordered


@pytest.mark.parametrize("epoch", [1, 2])
def test_full_memory_is_a_sentence_and_keeps_what_was_finished(
    place: Path, epoch: int
) -> None:
    config = replace(SMALL, output=place / "out")
    with pytest.raises(TrainError) as caught:
        train(config, stop_at(epoch, MemoryError))
    start, middle, end = str(caught.value).split("; ")
    assert start.startswith("memory is full (no more could be had): choose a smaller")
    assert middle == "it ran with --batch-size 50"
    kept = f"the run up to epoch 1 is kept in {place / 'out'}"
    nothing = "no epoch was finished, so nothing was kept"
    assert end == (kept if epoch == 2 else nothing)
    assert (place / "out").exists() == (epoch == 2)


def test_an_error_of_the_program_is_raised_as_it_is(place: Path) -> None:
    with pytest.raises(KeyError):
        train(SMALL, stop_at(1, KeyError))
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (ValueError("no axis"), r"curves\.png cannot be drawn \(ValueError: no axis\)"),
        (MemoryError("of a figure"), r"memory is full \(of a figure\)"),
    ],
)
def test_curves_that_fail_take_nothing_with_them(
    place: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, word: str
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr("tinyflow.train.curves.draw_curves", fail)
    with pytest.raises(TrainError, match=word + ".*the run up to epoch 2 is kept"):
        train(replace(SMALL, output=place / "out"))
    assert len(read_metrics(place / "out" / "metrics.csv")) == 2


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_test_loss_that_is_no_number_ends_the_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    monkeypatch.setattr(loop, "evaluate", lambda *args: (loss, 0.5))
    with pytest.raises(TrainError, match=f"test loss became {loss} in epoch 1: lower"):
        train(SMALL)
    assert list(place.iterdir()) == []


# --- metrics.csv ----------------------------------------------------------------------


def test_rows_are_read_as_they_were_written(place: Path) -> None:
    path = place / "metrics.csv"
    file = MetricsFiles(path, place / "times.csv")
    for epoch in (1, 2):
        with file.adding(replace(ROW, epoch=epoch), replace(TOOK, epoch=epoch)):
            pass
    assert [r.epoch for r in read_metrics(path)] == [1, 2]
    assert astuple(read_metrics(path)[0])[5:] == astuple(ROW)[5:]
    assert math.isnan(read_metrics(path)[0].val_loss)
    assert (place / "times.csv").read_text().splitlines() == [
        "epoch,images_per_second,seconds,peak_memory_mb",
        "1,100,1.5,nan",
        "2,100,1.5,nan",
    ]
    text = path.read_text()
    assert text.splitlines()[2] == "2,2.5,0.1,nan,nan,2.25,0.125,0.05,0.75"
    path.write_text(text.replace("2.25", "high"))
    with pytest.raises(Unreadable, match=r"metrics\.csv is damaged: .*high"):
        read_metrics(path)
    path.write_text(",".join(reversed(COLUMNS)) + "\n")
    with pytest.raises(Unreadable, match="does not begin with epoch,train_loss"):
        read_metrics(path)


def test_memory_is_counted_in_megabytes_whatever_the_system_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resource(peak: int) -> SimpleNamespace:
        usage = SimpleNamespace(ru_maxrss=peak)
        return SimpleNamespace(getrusage=lambda who: usage, RUSAGE_SELF=0)

    for system, peak in (("linux", 250_000), ("darwin", 256_000_000)):
        monkeypatch.setattr(metrics, "sys", SimpleNamespace(platform=system))
        monkeypatch.setitem(sys.modules, "resource", resource(peak))
        assert metrics.peak_memory_mb() == 256.0
    monkeypatch.setitem(sys.modules, "resource", None)
    assert math.isnan(metrics.peak_memory_mb())


# --- the folder -----------------------------------------------------------------------


@pytest.mark.parametrize("output", [Path("a/b"), None])
def test_a_folder_that_cannot_be_made_leaves_none(
    place: Path, monkeypatch: pytest.MonkeyPatch, output: Path | None
) -> None:
    real, name = Path.mkdir, "b" if output else "x-1"

    def mkdir(path: Path) -> None:
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    where = output or Path("runs/x")
    with pytest.raises(ConfigError, match=f"run folder {where} cannot be made .*space"):
        RunFolder(output, "x")
    assert list(place.iterdir()) == []


def test_a_parent_that_is_always_gone_is_made_so_often_and_no_more(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = Path.mkdir, []

    def mkdir(path: Path) -> None:
        if path.name == "x-1":
            path.parent.rmdir()
            tried.append(path)
        real(path)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(folder, "TRIES", 4)
    with pytest.raises(ConfigError, match="run folder runs/x cannot be made"):
        RunFolder(None, "x")
    assert len(tried) == 4 and list(place.iterdir()) == []
