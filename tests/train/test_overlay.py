"""Errors of several runs: which lines, which colours, which labels."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from tinyflow.train.metrics import EpochRow
from tinyflow.train.overlay import draw_errors, labels
from tinyflow.train.runs import Run


def row(epoch: int, train: float, test: float) -> EpochRow:
    values: dict[str, Any] = {f.name: 1.0 for f in fields(EpochRow)}
    return EpochRow(
        **values | {"epoch": epoch, "train_accuracy": train, "test_accuracy": test}
    )


def made(name: str = "a", rows: int = 3, lr: Any = None, **options: Any) -> Run:
    resolved = {"model": options.get("model", "tiny"), "lr": lr or 0.05}
    config = {"model": "tiny", "dataset": "shapes", "seed": 0, "lr": lr} | options
    table = [row(e, 1 - 0.9 / e, 1 - 1 / e) for e in range(1, rows + 1)]
    config["resolved"] = resolved
    return Run(Path("runs") / name, 0.0, "finished", "", config, table)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    found: list[Figure] = []
    saved = Figure.savefig

    def keep(self: Figure, *args: Any, **options: Any) -> None:
        found.append(self)
        saved(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return found


@pytest.mark.parametrize("count", [1, 2, 6, 7, 8, 12, 30])
def test_a_colour_each_thin_to_train_and_bold_to_test(
    tmp_path: Path, drawn: list[Figure], count: int
) -> None:
    runs = [made(str(i), rows=2 + i, seed=i) for i in range(count)]
    draw_errors(tmp_path / "c.png", runs)
    axes = drawn[0].axes[0]
    lines = axes.get_lines()
    assert len(lines) == 2 * count
    for i, run in enumerate(runs):
        thin, bold = lines[2 * i : 2 * i + 2]
        assert bold.get_linewidth() >= 2 * thin.get_linewidth()
        assert to_hex(thin.get_color()) == to_hex(bold.get_color())
        assert list(bold.get_xdata()) == [r.epoch for r in run.rows]
        expected = [100 / r.epoch for r in run.rows]
        assert list(bold.get_ydata()) == pytest.approx(expected)
        assert list(thin.get_ydata()) == pytest.approx([0.9 * e for e in expected])
    assert len({to_hex(line.get_color()) for line in lines}) == count
    (legend,) = drawn[0].legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == [*labels(runs), "train (thin)", "test (bold)"]
    assert axes.get_ylabel() == "error (%)" and axes.get_title() == "tiny on shapes"
    assert axes.get_ylim()[0] == 0
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.width >= 1000
        box = legend.get_window_extent()
        assert box.y0 >= 0 and box.x1 <= drawn[0].bbox.width + 1


def test_the_first_epochs_of_a_long_run_do_not_flatten_the_rest(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    draw_errors(tmp_path / "c.png", [made(rows=29)])
    draw_errors(tmp_path / "c.png", [made(rows=100)])
    assert drawn[0].axes[0].get_ylim()[1] == 100
    assert drawn[1].axes[0].get_ylim()[1] == pytest.approx(1.05 * 100 / 11)


def test_a_run_without_errors_has_an_axis(tmp_path: Path, drawn: list[Figure]) -> None:
    run = made(rows=1)
    run.rows[:] = [row(1, 1.0, 1.0)]
    draw_errors(tmp_path / "c.png", [run], "mine $x_1$")
    assert drawn[0].axes[0].get_ylim() == (0.0, 1.0)
    assert drawn[0].axes[0].get_title() == "mine $x_1$"


def test_labels_say_what_differs_and_no_more() -> None:
    assert labels([made("a"), made("b", seed=3)]) == ["seed 0", "seed 3"]
    assert labels([made("a"), made("b", lr=0.1)]) == ["lr 0.05", "lr 0.1"]
    assert labels([made("a", lr=0.05), made("b")]) == ["runs/a", "runs/b"]
    both = [made("a", augment=True), made("b", augment=False, model="resnet20", seed=1)]
    assert labels(both) == ["tiny, seed 0, augment", "resnet20, seed 1, no augment"]
    assert labels([made("a", clip_grad=None), made("b", clip_grad=1.0)]) == [
        "no clip grad",
        "clip grad 1",
    ]
    assert labels([made("a", milestones=[0.5, 0.75]), made("b", milestones=[82])]) == [
        "milestones 0.5,0.75",
        "milestones 82",
    ]
    assert labels([made("a", output="x"), made("b", data_dir="y")])[0] == "runs/a"
    twice = [made("a"), made("b"), made("c", seed=2)]
    assert labels(twice) == ["seed 0, runs/a", "seed 0, runs/b", "seed 2"]
    assert labels([made("only")]) == ["runs/only"]
