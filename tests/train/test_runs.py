"""What a folder of runs holds, whatever became of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests import ROOT
from tests.train.small import SMALL, stop_at
from tests.train.small import place as place
from tinyflow.reading import Unreadable
from tinyflow.train import train
from tinyflow.train.folder import CLAIM, RunFolder, in_use
from tinyflow.train.runs import list_runs, look_at


def one(place: Path, name: str, epochs: int = 1, **options) -> Path:
    train(replace(SMALL, epochs=epochs, output=place / name, **options))
    return place / name


def test_a_finished_run_tells_what_it_did(place: Path) -> None:
    folder = one(place, "runs/a", epochs=2, seed=7)
    (run,) = list_runs(place / "runs")
    assert (run.place, run.state, run.why) == (folder, "finished", "")
    assert (run.model, run.dataset, run.seed, run.epochs) == ("tiny", "shapes", 7, 2)
    lines = (folder / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("test_accuracy")
    told = run.to_json()
    assert told["test_accuracy"] == float(lines[-1].split(",")[column])
    assert (told["epochs_done"], told["epochs"]) == (2, 2)
    assert run.begun == (folder / "config.json").stat().st_mtime
    assert list_runs(folder) == [run]  # a run itself


def test_states(place: Path) -> None:
    result = train(
        replace(SMALL, output=place / "runs/a"), stop_at(2, KeyboardInterrupt)
    )
    assert result.interrupted
    (run,) = list_runs(place / "runs")
    assert (run.state, run.to_json()["epochs_done"], run.epochs) == ("stopped", 1, 2)
    (place / "runs/a/state.safetensors").unlink()
    (run,) = list_runs(place / "runs")
    assert run.state == "damaged" and "has no state.safetensors" in run.why


LOCKS = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tinyflow.train.folder import RunFolder
folder = RunFolder(Path(sys.argv[2]), "", again=True)
print("mine", flush=True)
time.sleep(60)
"""


def test_a_run_is_running_as_long_as_its_process_lives(place: Path) -> None:
    folder = one(place, "runs/a")
    command = [sys.executable, "-c", LOCKS, str(ROOT), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        try:
            assert list_runs(place / "runs")[0].state == "running"
            assert in_use(folder)
        finally:
            other.kill()
    assert (folder / CLAIM).is_dir()  # of the dead
    assert list_runs(place / "runs")[0].state == "finished" and not in_use(folder)
    RunFolder(folder, "", again=True).end()  # looking took nothing from anybody


def test_sorted_by_time_with_series_and_without_what_is_none(place: Path) -> None:
    runs = place / "runs"
    late, early = one(place, "runs/a"), one(place, "runs/z")
    os.utime(late / "config.json", (2e9, 2e9))
    os.utime(early / "config.json", (1e9, 1e9))
    shutil.copytree(early, runs / "series" / "seed3")
    (runs / "series" / "seeds.json").write_text("{}")
    os.utime(runs / "series" / "seed3" / "config.json", (1.5e9, 1.5e9))
    shutil.copytree(early, runs / "deep" / "er")  # no series: not looked into
    (runs / "analysis").mkdir()
    (runs / "notes.txt").write_text("x")
    (runs / "loop").symlink_to(runs / "loop")
    names = [run.place.relative_to(runs).as_posix() for run in list_runs(runs)]
    assert names == ["z", "series/seed3", "a"]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", "", "is no JSON"),
        ("config.json", "{" * 10**6, "config.json"),
        ("config.json", "[]", "no JSON object"),
        ("config.json", "{}", "does not say how many epochs"),
        ("config.json", '{"epochs": -1, "resolved": 3}', "how many epochs"),
        ("config.json", '{"epochs": 3, "seed": "x", "dataset": []}', "not all there"),
        ("metrics.csv", "", "metrics.csv does not begin"),
        ("metrics.csv", "\0\xff", "metrics.csv"),
        ("metrics.csv", None, "metrics.csv does not exist"),
    ],
)
def test_damage_is_told(place: Path, file: str, content: str, words: str) -> None:
    folder = one(place, "runs/a")
    one(place, "runs/b")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    good, bad = sorted(list_runs(place / "runs"), key=lambda run: run.why)
    assert (good.state, bad.state) == ("finished", "damaged")
    assert words in bad.why
    json.dumps([good.to_json(), bad.to_json()], allow_nan=False)


def test_what_is_no_number_is_not_told(place: Path) -> None:
    folder = one(place, "runs/a")
    path = folder / "metrics.csv"
    head, line = path.read_text().splitlines()
    cells = dict(zip(head.split(","), line.split(","), strict=True))
    cells["test_accuracy"] = "nan"
    path.write_text(f"{head}\n{','.join(cells.values())}\n")
    assert list_runs(place / "runs")[0].to_json()["test_accuracy"] is None


def test_folders_that_are_none(place: Path) -> None:
    (place / "file").write_text("")
    for name, words in (("nowhere", "not there"), ("file", "file is file")):
        with pytest.raises(Unreadable, match=words):
            list_runs(place / name)
    assert look_at(place) is None
