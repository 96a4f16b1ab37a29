"""log.txt: what is printed, with times, and without what only a terminal needs."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import models
from tests.train.small import SMALL, stop_at
from tests.train.small import place as place
from tests.train.stopping import stopping
from tinyflow.train import ConfigError, TrainError, log, resume, train
from tinyflow.train.events import Event, Start
from tinyflow.train.report import PlainReport

STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (.+)")


def lines(folder: Path) -> list[str]:
    found = []
    for line in (folder / "log.txt").read_text().splitlines():
        match = STAMP.fullmatch(line)
        assert match is not None, line
        found.append(match[1])
    return found


def test_what_is_printed_is_in_the_log(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with PlainReport() as report:
        train(replace(SMALL, output=place / "out"), report)
    printed = capsys.readouterr().out.splitlines()
    *told, end = lines(place / "out")
    assert end == "finished" and told == printed
    assert told[0].startswith("tiny, ") and told[1].startswith("device: cpu")
    assert [line.split()[1] for line in told if "train loss" in line] == ["1/2", "2/2"]


def test_a_silent_run_has_one_too(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tinyflow.train.report.EVERY", 0.0)
    train(replace(SMALL, output=place / "out"))
    assert capsys.readouterr().out == ""
    steps = [line for line in lines(place / "out") if "step " in line]
    assert len(steps) == 12 and all("rate 0." in line for line in steps)
    assert "\x1b" not in (place / "out" / "log.txt").read_text()


def test_a_run_that_goes_on_appends(place: Path) -> None:
    config = replace(SMALL, save_every="4 steps", output=place / "out")
    train(config, stopping(4))
    before = (place / "out" / "log.txt").read_text()
    assert lines(place / "out")[-1] == "interrupted"
    said: list[str] = []
    resume(place / "out", models.find, said=said.append)
    text = (place / "out" / "log.txt").read_text()
    assert text.startswith(before)
    after = lines(place / "out")[before.count("\n") :]
    assert "goes on after step 4" in after and after[-1] == "finished"


def test_what_is_said_of_another_machine_is_in_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, save_every="4 steps", output=place / "out")
    train(config, stopping(4))
    monkeypatch.setattr(sys.modules["tinyflow.train.resume"], "__version__", "99.0")
    said: list[str] = []
    resume(place / "out", models.find, said=said.append)
    assert len(said) == 1 and said[0] in lines(place / "out")


def test_how_it_ended(place: Path) -> None:
    with pytest.raises(TrainError):
        train(replace(SMALL, epochs=3, output=place / "a"), stop_at(2, MemoryError))
    assert lines(place / "a")[-1].startswith("ended by MemoryError")
    train(replace(SMALL, output=place / "b"), stop_at(2, KeyboardInterrupt))
    assert lines(place / "b")[-1] == "interrupted"


def test_it_goes_with_a_run_that_leaves_nothing(place: Path) -> None:
    def stop(event: Event) -> None:
        assert isinstance(event, Start) and (place / "out" / "log.txt").exists()
        raise KeyboardInterrupt

    assert train(replace(SMALL, output=place / "out"), stop).folder is None
    assert list(place.iterdir()) == []
    with pytest.raises(ConfigError):
        train(replace(SMALL, limit_train=10, output=place / "out"))
    assert list(place.iterdir()) == []


def test_a_disk_that_is_full_of_it_ends_the_run(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(log, "appending", full)
    word = r"log\.txt cannot be written \(No space.*no epoch was finished"
    with pytest.raises(TrainError, match=word):
        train(replace(SMALL, output=place / "out"))
    assert list(place.iterdir()) == []
