"""train.py curves: runs on the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.train.small import SMALL, run
from tests.train.small import place as place
from tinyflow.commands import curves as command
from tinyflow.train import train


def test_runs_are_drawn_each_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        train(replace(SMALL, epochs=1, seed=seed, output=place / "runs" / f"s{seed}"))
    result = run("curves runs/s1 runs runs/s0 --output both.png")
    assert result.exit_code == 0, result.output
    assert result.stdout == "written to both.png: 2 runs\n"
    assert (place / "both.png").read_bytes()[:4] == b"\x89PNG"
    asked: list[Any] = []
    monkeypatch.setattr(command, "draw_errors", lambda *given: asked.append(given))
    assert run("curves runs/s1 runs/s0 --output b.png --title mine").exit_code == 0
    ((path, runs, title),) = asked
    assert (path, title) == (Path("b.png"), "mine")
    assert [r.seed for r in runs] == [1, 0]


def test_mistakes(place: Path) -> None:
    (place / "empty").mkdir()
    (place / "bad").mkdir()
    (place / "bad" / "config.json").write_text("{}")
    for arguments, code, words in (
        ("empty --output a.png", 2, "empty is no run, nor does it hold any"),
        ("bad --output a.png", 2, "bad cannot be drawn: bad/metrics.csv does not"),
        ("nowhere --output a.png", 1, "nowhere is not there"),
        ("empty --output a.jpg", 2, "must end in .png"),
        ("empty", 2, "missing option '--output'"),
        ("--output a.png", 2, "missing argument 'RUN'"),
    ):
        result = run(f"curves {arguments}")
        assert result.exit_code == code, result.output
        assert words in result.stderr and result.stderr.count("\n") == 1
    train(replace(SMALL, epochs=1, output=place / "out"))
    result = run("curves out --output nowhere/a.png")
    assert result.exit_code == 1 and "cannot be written" in result.stderr
