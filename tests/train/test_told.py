"""What a run measures and leaves besides its numbers: times, files, who is asked."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import models
from tests.train.small import SMALL
from tests.train.small import place as place
from tinyflow import Tape
from tinyflow.train import TrainError, load_checkpoint, loop, record, run, train
from tinyflow.train.events import Event, Step, Times
from tinyflow.train.folder import RunFolder


def test_time_is_what_goes_by(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second between two looks at the clock: one before, one after each step."""
    clock = itertools.count(100.0, 0.5)
    now = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr(loop, "time", now)
    seen: list[Event] = []
    train(SMALL, seen.append)
    steps = [event for event in seen if isinstance(event, Step)]
    assert [s.images_per_second for s in steps] == [100.0] * 12  # 50 images each
    took = [event for event in seen if isinstance(event, Times)]
    # six steps, and the test after them
    assert [(t.epoch, t.images_per_second, t.seconds) for t in took] == [
        (1, 100.0, 3.5),
        (2, 100.0, 3.5),
    ]
    assert all(10 < t.peak_memory_mb < 1e5 for t in took)


def test_best_is_the_first_of_several(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the validation images, which are judged before the test images."""
    accuracies = (0.25, 0.9, 0.5, 0.1, 0.5, 0.9, 0.25, 0.95)
    answers = iter([(1.0, accuracy) for accuracy in accuracies])
    monkeypatch.setattr(loop, "evaluate", lambda *args: next(answers))
    train(replace(SMALL, epochs=4, val_split=50, output=place / "out"))
    assert load_checkpoint(place / "out", models.find, "best")[1].epoch == 2
    assert load_checkpoint(place / "out", models.find, "last")[1].epoch == 4


def test_curves_are_told_chance_and_whose_they_are(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("tinyflow.train.curves.draw_curves", lambda *a: asked.append(a))
    result = train(replace(SMALL, seed=3, output=place / "out"))
    ((path, rows, title, chance),) = asked
    assert (path, rows, chance) == (place / "out" / "curves.png", result.rows, 0.1)
    assert title == "tiny on shapes, seed 3, float32 on cpu"


def test_memory_that_is_freed_is_kept_before_anything_is_made(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def asked(name: str) -> Callable[..., None]:
        return lambda *args: order.append(name)

    monkeypatch.setattr(run, "keep_freed_memory", asked("keep"))
    monkeypatch.setattr(run, "prepare", asked("prepare"))
    with pytest.raises(AttributeError):  # nothing was prepared
        train(SMALL)
    assert order == ["keep", "prepare"]


class Tracer:
    """Writes a line per traced step, if the disk lets it."""

    def __init__(self, folder: Path, full: bool = False) -> None:
        self.path, self.full = folder / "trace.csv", full
        self.path.write_text("")

    def __call__(self, step: int, loss: float, tape: Tape) -> None:
        if self.full:
            raise OSError(28, "No space left on device", str(self.path))
        with self.path.open("a") as file:
            file.write(f"{step}\n")


@pytest.mark.parametrize("every", [1, 4, 5])
def test_steps_are_traced_by_their_number_in_the_run(place: Path, every: int) -> None:
    train(replace(SMALL, trace_every=every, output=place / "out"), tracer=Tracer)
    traced = (place / "out" / "trace.csv").read_text().split()
    assert traced == [str(n) for n in range(0, 12, every)]


def test_a_trace_goes_with_the_run_that_ends_without_a_step(place: Path) -> None:
    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    config = replace(SMALL, trace_every=1, output=place / "out")
    result = train(config, stop, tracer=Tracer)
    assert result.folder is None and result.interrupted
    assert list(place.iterdir()) == []


def test_a_disk_that_is_full_of_a_trace_ends_the_run(place: Path) -> None:
    config = replace(SMALL, trace_every=7, output=place / "out")
    word = r"trace\.csv cannot be written \(No space.*no epoch was finished"
    with pytest.raises(TrainError, match=word):
        train(config, tracer=lambda folder: Tracer(folder, full=True))
    assert list(place.iterdir()) == []


def test_options_are_written_first_or_the_run_ends(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(replace(SMALL, output=place / "out"))
    text = (place / "out" / "config.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2) + "\n"

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(record, "replacing", full)
    with pytest.raises(TrainError, match=r"config\.json cannot be written \(No space"):
        train(replace(SMALL, output=place / "again"))
    assert [p.name for p in place.iterdir()] == ["out"]


def test_a_folder_that_another_run_has_by_now_is_left_to_it(place: Path) -> None:
    out, others = place / "out", []

    def report(event: Event) -> None:
        if isinstance(event, Step) and event.step == 6:
            shutil.rmtree(out)
            others.append(RunFolder(out, "x"))
            others[0].file("metrics.csv").write_text("theirs\n")

    with pytest.raises(TrainError, match=r"out cannot be written \(it was removed\)"):
        train(replace(SMALL, output=out), report)
    assert (out / "metrics.csv").read_text() == "theirs\n"
    others[0].end()
    assert list(place.iterdir()) == []
