"""train.py --seeds: a series on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.train.small import ARGS, run
from tests.train.small import place as place
from tinyflow.commands import train as cli
from tinyflow.train.events import Event, Start, Step
from tinyflow.train.report import PlainReport

QUICK = ARGS.replace("--limit-train 300", "--limit-train 100")


def column(folder: Path, name: str) -> list[float]:
    head, *rows = (folder / "metrics.csv").read_text().splitlines()
    return [float(row.split(",")[head.split(",").index(name)]) for row in rows]


def test_mean_deviation_and_range_of_both(place: Path) -> None:
    result = run(f"{QUICK} --seeds 3 --seed 4 --val-split 50")
    assert result.exit_code == 0, result.output
    folders = [place / "runs" / "tiny-shapes-1" / f"seed{s}" for s in (4, 5, 6)]
    tests = [column(folder, "test_accuracy") for folder in folders]
    judged = [column(folder, "val_accuracy") for folder in folders]
    last = 100 * np.array([t[-1] for t in tests])
    best = 100 * np.array(
        [t[int(np.argmax(v))] for t, v in zip(tests, judged, strict=True)]
    )

    def said(x: np.ndarray) -> str:
        return f"{x.mean():.2f} ± {x.std(ddof=1):.2f} %, {x.min():.2f} to {x.max():.2f}"

    assert result.stdout.splitlines()[-1] == (
        f"runs/tiny-shapes-1: test accuracy {said(last)}, after the last epoch; "
        f"{said(best)}, after the one best on the validation images "
        "(3 seeds: mean ± standard deviation, range)"
    )
    for number, seed in enumerate((4, 5, 6), 1):
        assert f"seed {seed}, {number} of 3\n" in result.stdout
    told = json.loads((folders[0].parent / "seeds.json").read_text())
    assert told["best_on_validation"]["mean"] == pytest.approx(best.mean() / 100)


def test_interrupted_and_gone_on_with(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopping(PlainReport):
        runs = 0

        def __call__(self, event: Event) -> None:
            self.runs += isinstance(event, Start)
            if isinstance(event, Step) and self.runs == 2 and event.epoch == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli, "terminal_report", Stopping)
        result = run(f"{QUICK} --seeds 2 --output out")
    assert result.exit_code == 130
    assert result.stderr.endswith("--resume out goes on where it stopped\n")
    assert "(1 seed: " in result.stdout
    result = run("--resume out")
    assert result.exit_code == 0, result.output
    assert "(2 seeds: " in result.stdout and "seed 1, 2 of 2" in result.stdout
    assert "seed 0, 1 of 2" not in result.stdout  # it was finished
    again = run("runs out")
    assert again.stdout.count("finished") == 2


def test_mistakes(place: Path) -> None:
    for arguments, words in (
        (f"{QUICK} --seeds 0", "--seeds must be 1 to 1000, not 0"),
        ("--resume out --seeds 3", "leave --seeds out"),
        ("--list-models --seeds 3", "leave --seeds out"),
        (f"{QUICK} --seeds 2 --limit-train 10", "--batch-size 50 is more than"),
    ):
        result = run(arguments)
        assert result.exit_code == 2, result.output
        assert words in result.stderr and result.stderr.count("\n") == 1
    assert [p for p in place.rglob("*") if p.name != "runs"] == []


def test_interrupted_before_a_step(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopping(PlainReport):
        def __call__(self, event: Event) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "terminal_report", Stopping)
    result = run(f"{QUICK} --seeds 2 --output out")
    assert result.exit_code == 130 and "nothing was kept" in result.stderr
    assert list(place.iterdir()) == []
