"""``analyze.py claims``: what it prints and keeps of seeds, batches and intervals."""

import csv
import json

import pytest
from typer.testing import CliRunner

import models
from tinyflow.commands.analyze import app
from tinyflow.flow import series


def run(*arguments, folder):
    small = ("--batch-size", "4", "--dtype", "float32", "--output", str(folder))
    return CliRunner().invoke(app, ["claims", *arguments, *small], obj=models.ZOO)


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_intervals_are_printed_and_kept(tmp_path):
    result = run("--claim", "noh1-depth", "--model", "plain20", "--seeds", "2",
                 "--batches", "2", folder=tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "interval" in result.output
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    (claim,), (one,) = found["claims"], found["intervals"]
    assert claim["interval"].startswith("growth of plain20 ")
    assert claim["statement"] and claim["quantity"] and claim["batches"] == 2
    assert one["low"] < one["middle"] < one["high"] and one["n"] == 2
    (kept,) = rows(tmp_path / "out" / "intervals.csv")
    assert float(kept["low"]) == one["low"] and kept["id"] == "noh1-depth"
    settings = [row["setting"] for row in rows(tmp_path / "out" / "measured.csv")]
    assert settings == [f"plain20/{s}.{b}" for s in (0, 1) for b in (0, 1)]
    (row,) = rows(tmp_path / "out" / "claims.csv")
    assert row["interval"] == claim["interval"]


def test_one_seed_pretends_no_interval(tmp_path):
    result = run("--claim", "noh1-depth", "--model", "plain20", folder=tmp_path / "out")
    assert result.exit_code == 0, result.output
    (row,) = rows(tmp_path / "out" / "claims.csv")
    assert "one seed: no interval" in row["interval"]


def test_no_batches(tmp_path):
    result = run("--batches", "0", folder=tmp_path / "out")
    assert result.exit_code == 2 and "--batches must be 1 or more" in result.stderr


def test_convergence_is_judged_from_the_losses_of_training(tmp_path, monkeypatch):
    monkeypatch.setattr(series, "BRIEF", ("plain20", "resnet20"))
    result = run("--claim", "quadir-convergence", "--train-steps", "2", "--seeds", "2",
                 folder=tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = rows(tmp_path / "out" / "measured.csv")
    assert [row["setting"] for row in found] == ["resnet20/0", "resnet20/1"]
    for row in found:
        gap = float(row["loss"]) - float(row["loss_of_plain"])
        assert float(row["difference"]) == pytest.approx(gap)
        assert float(row["share"]) == (gap < 0)
