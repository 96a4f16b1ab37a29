"""train.py runs: a line each, or JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.train.small import SMALL, run, stop_at
from tests.train.small import place as place
from tinyflow.train import train


def test_a_line_for_each_run(place: Path) -> None:
    first = train(replace(SMALL, seed=3))
    train(SMALL, stop_at(2, KeyboardInterrupt))
    (place / "runs" / "bad\x1b[31m").mkdir()
    (place / "runs" / "bad\x1b[31m" / "config.json").write_text("no")
    result = run("runs")
    assert result.exit_code == 0 and result.stderr == ""
    heading, *lines = result.stdout.splitlines()
    assert heading.split() == "run network data seed epochs test % best % state".split()
    percent = f"{100 * first.last.test_accuracy:.2f}"
    words = [line.split() for line in lines]
    name = "runs/tiny-shapes-1"
    assert words[0] == [name, "tiny", "shapes", "3", "2/2", percent, "-", "finished"]
    assert words[1][3:5] == ["0", "1/2"] and words[1][-1] == "stopped"
    assert words[2][0] == "runs/bad?[31m" and words[2][-1] == "damaged"
    assert "\x1b" not in result.stdout
    assert lines[3].startswith("damaged: runs/bad?[31m/config.json is no JSON")
    assert lines[4] == "stopped: python train.py --resume runs/tiny-shapes-2 goes on"
    assert len(lines) == 5


def test_json(place: Path) -> None:
    assert json.loads(run("runs --json .").stdout) == []
    result = train(replace(SMALL, output=place / "other" / "mine"))
    (found,) = json.loads(run("runs other --json").stdout)
    assert found["folder"] == "other/mine" and found["state"] == "finished"
    assert found["test_accuracy"] == round(result.last.test_accuracy, 6)


def test_no_runs(place: Path) -> None:
    assert run("runs .").stdout == ". holds no runs\n"
    result = run("runs")
    assert result.exit_code == 1
    assert result.stderr == "train.py: runs is not there\n"
