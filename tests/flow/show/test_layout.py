"""Tables: every width, every number whole, every column explained."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from tinyflow.flow.blocks import Terms
from tinyflow.flow.compare import Point, Summary
from tinyflow.flow.counterfactual import Counterfactual
from tinyflow.flow.dense import DenseBlock
from tinyflow.flow.depth import DepthPoint
from tinyflow.flow.paths import Spectrum
from tinyflow.flow.show import layout, tables
from tinyflow.flow.show.layout import (
    PROSE,
    Column,
    Table,
    counts,
    errors,
    numbers,
    percent,
    two,
)
from tinyflow.flow.show.layout import words as plain

TERMS = ("shortcut", "gain", "gate", "other")
BLOCK = Terms(
    name="features.block15",
    kind="projection",
    shape=(2, 3, 4, 4),
    norms={"x": 1.2345e-7, "H": 2e4} | dict.fromkeys(TERMS, 1.0),
    ratio=1e-11,
    shares=dict(zip(TERMS, (1.5, -0.499, -0.001, 0.0), strict=True)),
    cosines={f"{a},{b}": -1e-9 for a in TERMS for b in TERMS},
    cancellation=0.5,
    mask=0.5,
    closure=3e-16,
)
DENSE = DenseBlock(
    "features.denseblock1", ["x0", "x1"], ["a"], np.ones((2, 1)), np.ones((2, 1)),
    [1.0, 2.0], [1.0, 2.0], [1, 1], [0.5, 1.0], [1.0, 1.0], math.nan, [3.0, 4e-9], 0.0,
)  # fmt: skip
SUMMARY = Summary(
    "se_resnet152", "initial weights", "shapes", 66_821_848, 2.302, [BLOCK], [], 1e-16,
    [Point("a", 1.0, (1,))],
)  # fmt: skip
SPECTRUM = Spectrum(
    54, [0, 27], [1e-9, 2.0], [-1e-9, 1.0], [1, 1_946_939_425_648_112], 2.0, 0.0, 1.0,
    veit=[1e-9, math.nan], singles=[[1e-9], [0.5, 1.0, 2.0]],
    coherence=[1.0, math.nan], coherence_range=[(1.0, 1.0), (0.87, 1.13)],
)  # fmt: skip
POINTS = [
    DepthPoint(kind, d, 0, 0.1, 1e-5, 1.0, growth, 2.3, 1e-16)
    for kind, d, growth in (("plain", 20, math.inf), ("resnet", 110, 1e-5))
]
CLAIM = {
    "id": "noh2-remains", "source": "Noh 2021, after eq. 2", "models": "resnet20",
    "seeds": "0, 1, 2", "weights": "epoch 3 of runs/" + "long" * 40, "verdict": "holds",
    "statement": "the component remains, so the gradient does not shrink " * 3,
    "quantity": "‖g_x‖ ≥ ‖shortcut term‖, per block", "decided_by": "true 1e-12 " * 9,
    "interval": "g_x_over_shortcut 1.2 (1.1 to 1.3)", "batches": 2,
}  # fmt: skip
TITLE = "resnet20 · epoch 3 of runs/some-rather-long-name, seed 5 · cifar10, 10 classes"
TABLES = {
    "compared": tables.compared([SUMMARY, replace(SUMMARY, name="vgg19")], TITLE),
    "blocks": tables.blocks([BLOCK, BLOCK], TITLE),
    "dense": tables.dense([DENSE], TITLE),
    "paths": tables.paths(SPECTRUM, TITLE),
    "counterfactual": tables.counterfactual(
        [("resnet20", Counterfactual("layer1.0", "residual", 0.0, 0.5, 0.4, None))],
        TITLE,
    ),
    "depths": tables.depths(POINTS, TITLE),
}
WIDTHS = (60, 80, 100, 200)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_no_line_is_too_wide_and_nothing_is_lost(name, width):
    table = TABLES[name]
    text = table.text(width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert not re.search(r"-0\.0*(e[+-]?0+)?(?![\d.])", text)  # no minus zero
    found = text.split()
    for column in table.columns:
        for cell in column.write(column.values):
            assert set(cell.split()) <= set(found), column.name
        explained = " ".join(found)
        assert f"{column.name}: {' '.join(column.meaning.split())}" in explained
        assert column.meaning


@pytest.mark.parametrize("width", WIDTHS)
def test_claims_are_whole_sentences_at_any_width(width):
    text = tables.judged([CLAIM, CLAIM], TITLE, width)
    assert max(map(len, text.splitlines())) <= min(width, PROSE)
    said = "".join(text.split())
    for key in (
        "id",
        "source",
        "statement",
        "quantity",
        "verdict",
        "decided_by",
        "interval",
    ):
        assert "".join(str(CLAIM[key]).split()) in said
    assert said.count("verdict:") == 2 and "1e-12" in text.split()
    assert "2batcheseach" in said and said.count("Student's") == 1


def test_a_claim_that_is_counted_names_no_seeds_and_no_interval():
    counted = {**CLAIM, "seeds": "", "interval": "", "batches": 0}
    said = tables.judged([counted], TITLE, 100)
    assert re.search(r"^  on: +resnet20$", said, re.MULTILINE)
    assert "seeds" not in said and "nterval" not in said


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([1.0, 23.456, None], ["1.00", "23.46", "-"]),
        ([0.0123, 1.5], ["0.0123", "1.5000"]),
        ([1e-5, 2.0], ["1.00e-05", "2.00e+00"]),
        ([12345.0, 1.0], ["1.23e+04", "1.00e+00"]),
        ([-0.0, 0.0], ["0", "0"]),
        ([math.inf, 1.0], ["inf", "1.00"]),
        ([math.nan, 500.0], ["-", "500"]),
        ([9999.9, 1.0], ["1.00e+04", "1.00e+00"]),
    ],
)
def test_a_column_writes_its_numbers_in_one_way(values, written):
    assert numbers(values) == written


def test_nothing_is_minus_zero():
    assert two([-0.001, -0.0, None]) == ["0.00", "0.00", "-"]
    assert errors([0.0, 3e-16]) == ["0", "3e-16"]
    assert counts([1, 10**8]) == ["1.00e+00", "1.00e+08"]


@pytest.mark.parametrize(
    ("write", "values", "written"),
    [
        (numbers, [9999.4, 1000.0], ["9999", "1000"]),
        (numbers, [9999.5, 1000.0], ["1.00e+04", "1.00e+03"]),
        (numbers, [0.01, 1.0], ["0.0100", "1.0000"]),
        (numbers, [0.00999, 1.0], ["9.99e-03", "1.00e+00"]),
        (numbers, [-0.5, 0.0], ["-0.500", "0.000"]),
        (counts, [9_999_999, 1], ["9999999", "1"]),
        (counts, [10_000_000, 1], ["1.00e+07", "1.00e+00"]),
        (counts, [], []),
        (percent, [0.125, None, -0.001], ["12%", "-", "0%"]),
        (errors, [0.0, 1.0, math.nan], ["0", "1e+00", "-"]),
        (plain, [3, None, "a", math.nan], ["3", "-", "a", "-"]),
    ],
)
def test_numbers_on_both_sides_of_where_their_form_changes(write, values, written):
    assert write(values) == written


@pytest.mark.parametrize(("columns", "wide"), [("120", 120), ("20", 40), ("41", 41)])
def test_a_terminal_is_never_too_narrow(columns, wide, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert layout.width() == wide


def test_without_a_terminal_there_are_80_columns(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(layout.shutil.os, "get_terminal_size", lambda fd: 1 / 0)
    monkeypatch.setattr(layout.shutil.sys, "__stdout__", None)
    assert layout.width() == 80


def test_a_table_letter_by_letter():
    left = Column("key", "what", ["a", "bb"], plain)
    right = Column("num-\nber", "how many", [1, 20], plain)
    table = Table("title", [left, right, Column("x\ny", "z", [0.5, 2.0], two)], "note")
    assert table.text(14) == (
        "title\n\n"
        "key  num-\n      ber\n---------\na       1\nbb     20\n\n"
        "key     x\n        y\n---------\na    0.50\nbb   2.00\n\n"
        "key: what\nnumber: how\n  many\nx y: z\n\nnote\n"
    )
    assert table.text(15).startswith(
        "title\n\nkey  num-     x\n      ber     y\n---------------\n"
    )
    long = Table("t " * 60, [left], "n " * 60).text(300)
    assert sorted(map(len, long.splitlines()))[-4:] == [19, 21, 99, 99]
    assert "note" not in Table("t", [left]).text(80)


def test_words_lean_left_and_numbers_right():
    for values, cells in (
        (["a", "bbb"], ["a  ", "bbb"]),
        ([1, 200], ["  1", "200"]),
        (["a", 200], ["a  ", "200"]),
    ):
        assert Column("h", "m", values, plain).lines(1)[1:] == cells
    assert Column("h", "m", [1.0, 20.0], two).lines(1) == ["    h", " 1.00", "20.00"]


def test_columns_are_stacked_under_the_first():
    wide = [Column(f"c{i}", "m", ["x" * 20], plain) for i in range(5)]
    text = Table("t", [Column("key", "k", ["row"], plain), *wide]).text(50)
    assert text.count("row") == 3 and text.count("x" * 20) == 5
