"""A series of seeds: the runs it leaves, its numbers, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import models
from tests.train.small import SMALL
from tests.train.small import place as place
from tinyflow.train import ConfigError, TrainError, train
from tinyflow.train.events import Event, Start, Step
from tinyflow.train.folder import RunFolder
from tinyflow.train.runs import list_runs
from tinyflow.train.several import (
    Series,
    Spread,
    is_series,
    resume_several,
    train_several,
)

QUICK = replace(SMALL, epochs=2, limit_train=100, limit_test=50)
WEIGHTS = "last.safetensors"


def stop_in(run: int, epoch: int = 1, kind: type[BaseException] = KeyboardInterrupt):
    """Ends the `run`-th run, from 1, in its first step of an epoch."""
    starts = 0

    def report(event: Event) -> None:
        nonlocal starts
        starts += isinstance(event, Start)
        if isinstance(event, Step) and (starts, event.epoch) == (run, epoch):
            raise kind

    return report


def weights(folder: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in sorted(folder.glob(f"*/{WEIGHTS}"))}


@pytest.fixture
def whole(place: Path) -> Series:
    return train_several(replace(QUICK, seed=3, output=place / "whole"), 3)


def test_each_run_is_what_it_is_alone(whole: Series, place: Path) -> None:
    assert (whole.folder, whole.seeds) == (place / "whole", (3, 4, 5))
    assert not whole.interrupted and is_series(place / "whole")
    alone = train(replace(QUICK, seed=4, output=place / "alone"))
    assert weights(place / "whole")["seed4"] == (
        (place / "alone" / WEIGHTS).read_bytes()
    )
    assert sorted(p.name for p in (place / "whole").iterdir()) == [
        "seed3",
        "seed4",
        "seed5",
        "seeds.json",
    ]
    assert whole.last is not None
    assert whole.last.values[1] == round(alone.last.test_accuracy, 6)
    assert [run.seed for run in list_runs(place)] == [3, 4, 5, 4]


def test_the_numbers_are_those_of_numpy(whole: Series, place: Path) -> None:
    lines = [
        (place / "whole" / f"seed{s}" / "metrics.csv").read_text().splitlines()
        for s in (3, 4, 5)
    ]
    column = lines[0][0].split(",").index("test_accuracy")
    values = np.array([float(rows[-1].split(",")[column]) for rows in lines])
    assert len(set(values)) > 1  # or nothing could be seen
    told = json.loads((place / "whole" / "seeds.json").read_text())
    assert told["seeds"] == told["finished"] == [3, 4, 5]
    found = told["test_accuracy"]
    assert found["values"] == values.tolist()
    assert found["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert found["std"] == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert (found["low"], found["high"]) == (values.min(), values.max())
    assert told["best_on_validation"] is None  # there are no validation images
    assert str(whole.last) == (
        f"{100 * values.mean():.2f} ± {100 * values.std(ddof=1):.2f} %, "
        f"{100 * values.min():.2f} to {100 * values.max():.2f}"
    )


def test_one_seed_has_no_deviation() -> None:
    one = Spread.of([0.5])
    assert one is not None and one.std is None and str(one) == "50.00 %, 50.00 to 50.00"
    assert Spread.of([]) is None


@pytest.mark.parametrize("run", [1, 2, 3])
def test_a_series_that_was_stopped_ends_as_if_it_had_not_been(
    whole: Series, place: Path, run: int
) -> None:
    config = replace(QUICK, seed=3, output=place / "again")
    begun = train_several(config, 3, stop_in(run, epoch=2))
    assert begun.interrupted and [r.seed for r in begun.runs] == [3, 4, 5][: run - 1]
    kept = {p: p.stat().st_mtime_ns for p in (place / "again").glob(f"seed*/{WEIGHTS}")}
    told: list[str] = []
    done = resume_several(place / "again", models.find, announce=told.append)
    assert told == [f"seed {2 + n}, {n} of 3" for n in range(run, 4)]
    assert not done.interrupted and weights(place / "again") == weights(place / "whole")
    for path in sorted(kept)[: run - 1]:  # what was finished is not touched
        assert path.stat().st_mtime_ns == kept[path]
    ours, theirs = (
        json.loads((place / name / "seeds.json").read_text())
        for name in ("again", "whole")
    )
    assert ours == theirs
    before = weights(place / "again")
    assert not resume_several(place / "again", models.find).interrupted
    assert weights(place / "again") == before


def test_stopped_again_and_again(whole: Series, place: Path) -> None:
    config = replace(QUICK, seed=3, output=place / "again", save_every="1 steps")
    series = train_several(config, 3, stop_in(1))
    turns = 0
    while series.interrupted and turns < 30:
        left = 4  # steps to go on for

        def report(event: Event) -> None:
            nonlocal left
            left -= isinstance(event, Step)
            if left == 0:
                raise KeyboardInterrupt

        series = resume_several(place / "again", models.find, report)
        turns += 1
    assert turns == 3  # 12 steps, one of them done
    assert weights(place / "again") == weights(place / "whole")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_a_series_without_a_step_leaves_nothing(
    place: Path, kind: type[BaseException]
) -> None:
    def stop(event: Event) -> None:
        raise kind

    try:
        series = train_several(replace(QUICK, output=None), 2, stop)
        assert series.interrupted and series.folder is None
    except ZeroDivisionError:
        assert kind is ZeroDivisionError
    assert [p for p in place.rglob("*") if p.name != "runs"] == []


def test_a_run_that_fails_keeps_the_others(place: Path) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Start) and event.folder.name == "seed1":
            raise TrainError("broken")

    with pytest.raises(TrainError, match="broken"):
        train_several(replace(QUICK, output=place / "out"), 3, fail)
    assert json.loads((place / "out" / "seeds.json").read_text())["finished"] == [0]
    assert len(resume_several(place / "out", models.find).runs) == 3


def test_folders_are_numbered_and_never_taken(place: Path) -> None:
    config = replace(QUICK, epochs=1)
    names = [train_several(config, 1).folder for _ in range(2)]
    assert names == [Path("runs/tiny-shapes-1"), Path("runs/tiny-shapes-2")]
    with pytest.raises(ConfigError, match="already holds files"):
        train_several(replace(config, output=names[0]), 1)


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_counts_that_are_none(place: Path, count: int) -> None:
    with pytest.raises(ConfigError, match=r"--seeds must be 1 to 1000"):
        train_several(QUICK, count)
    assert list(place.iterdir()) == []


def test_what_a_kill_left_is_taken_away(place: Path) -> None:
    train_several(replace(QUICK, output=place / "out"), 2, stop_in(1, epoch=2))
    (place / "out" / "seed1" / ".unfinished").mkdir(parents=True)
    series = resume_several(place / "out", models.find)
    assert [run.seed for run in series.runs] == [0, 1]
    living = train_several(replace(QUICK, output=place / "b"), 2, stop_in(1, epoch=2))
    folder = RunFolder(place / "b" / "seed1", "")
    with pytest.raises(ConfigError, match="in use"):
        resume_several(place / "b", models.find)
    folder.end()
    assert living.interrupted


def damage(text: str | None) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        if text is None:
            (folder / "seed0" / "metrics.csv").write_text("")
        else:
            (folder / "seeds.json").write_text(text)

    return do


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage(""), "is no JSON"),
        (damage("{}"), "does not say its seeds"),
        (damage('{"seeds": []}'), "does not say its seeds"),
        (damage('{"seeds": [1.0]}'), "does not say its seeds"),
        (damage('{"seeds": [-1]}'), "does not say its seeds"),
        (damage('{"seeds": ["../../x"]}'), "does not say its seeds"),
        (damage('{"seeds": [0, 0]}'), "a seed twice"),
        (damage('{"seeds": [7]}'), "left before its first run began"),
        (damage(None), "remove .*seed0, and it is trained again"),
    ],
)
def test_damage_is_told(
    place: Path, change: Callable[[Path], None], words: str
) -> None:
    train_several(replace(QUICK, epochs=1, output=place / "out"), 1)
    change(place / "out")
    with pytest.raises(ConfigError, match=words):
        resume_several(place / "out", models.find)
