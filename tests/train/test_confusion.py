"""The picture of which classes are taken for which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tinyflow.train.confusion import draw_confusion, shares


def test_shares_are_of_the_row() -> None:
    found = shares(np.array([[3, 1], [0, 0]]))
    assert found.tolist() == [[75.0, 25.0], [0.0, 0.0]]


@pytest.mark.parametrize(("classes", "cells"), [(10, 100), (20, 400), (21, 0)])
def test_cells_have_their_numbers_as_long_as_they_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int, cells: int
) -> None:
    drawn: list[Figure] = []
    saved = Figure.savefig

    def keep(self: Figure, *args: object, **options: object) -> None:
        drawn.append(self)
        saved(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    confusion = np.arange(1, 1 + classes**2).reshape(classes, classes)
    names = ["$a_b$", *(f"{i}" * 30 for i in range(1, classes))]  # no formulas
    draw_confusion(tmp_path / "c.png", confusion, names, "title_1")
    axes = drawn[0].axes[0]
    assert len(axes.texts) == cells
    if cells:  # 2 of 55 and so on, in the order of the rows
        share = 100 * 2 / confusion[0].sum()
        assert axes.texts[1].get_text() == f"{share:.0f}"
    assert axes.get_yticklabels()[0].get_text() == "$a_b$"
    assert all(len(label.get_text()) <= 18 for label in axes.get_xticklabels())
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("taken for", "class")
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 800


def test_a_thousand_classes_have_no_names(tmp_path: Path) -> None:
    names = [str(i) for i in range(1000)]
    draw_confusion(tmp_path / "c.png", np.eye(1000, dtype=int), names, "many")
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 800
