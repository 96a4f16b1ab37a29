"""What is printed of given numbers, cell by cell, and the borders of how."""

import math
from dataclasses import replace

import pytest

from tinyflow.flow.blocks import Terms
from tinyflow.flow.compare import against_shortcut
from tinyflow.flow.counterfactual import Counterfactual
from tinyflow.flow.depth import DepthPoint
from tinyflow.flow.paths import Spectrum
from tinyflow.flow.show import tables
from tinyflow.flow.show.layout import (
    Column,
    Table,
    counts,
    errors,
    numbers,
    percent,
    two,
    width,
    words,
)


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([], []),
        ([None, math.nan, math.inf, 0.0], ["-", "-", "inf", "0"]),
        ([0.01], ["0.0100"]),  # three digits in four decimals
        ([-0.01, 9999.4], ["-0.0100", "9999.4000"]),
        ([0.009999], ["1.00e-02"]),
        ([9999.4], ["9999"]),
        ([9999.5], ["1.00e+04"]),
        ([-9999.5, 1.0], ["-1.00e+04", "1.00e+00"]),
        ([1.2345, 0.0], ["1.23", "0.00"]),
        ([123.456, 12.3456], ["123.5", "12.3"]),
    ],
)
def test_numbers_of_a_column(values, written):
    assert numbers(values) == written


def test_counts_shares_and_errors():
    assert counts([]) == [] and counts([9_999_999, 1]) == ["9999999", "1"]
    assert counts([10_000_000, 1]) == ["1.00e+07", "1.00e+00"]
    assert two([None, math.nan, 0.125, -1.0]) == ["-", "-", "0.12", "-1.00"]
    assert errors([0.0, 3.2e-16, math.nan]) == ["0", "3e-16", "-"]
    assert percent([0.254, 1.0, -0.001, None]) == ["25%", "100%", "0%", "-"]
    assert words([3, "a", None]) == ["3", "a", "-"]


def test_a_column_is_as_wide_as_its_widest_line():
    """Words stand on the left; numbers, whole ones too, on the right."""
    assert Column("a\nlong", "m", ["x", "yyyyy"], words).lines(2) == [
        "a    ",
        "long ",
        "x    ",
        "yyyyy",
    ]
    assert Column("h", "m", [1, 22], words).lines(2) == [" h", "  ", " 1", "22"]
    assert Column("h", "m", [1.0]).lines(1) == ["   h", "1.00"]
    column = Column("short-\ncut\nof", "m", [])
    assert column.name == "shortcut of" and column.width == 6


def cells(table):
    """Row by row, as written."""
    text = [c.write(c.values) for c in table.columns]
    return [list(row) for row in zip(*text, strict=True)]


BLOCK = Terms(
    name="layer1.0",
    kind="identity",
    shape=(1, 1, 1, 1),
    norms={"x": 4.0, "H": 2.0, "shortcut": 2.0, "residual": 2.0},
    ratio=2.0,
    shares={"shortcut": 0.5, "residual": 0.5},
    cosines={"shortcut,residual": 1.0},
    cancellation=1.0,
    mask=None,
    closure=0.0,
)


def test_tables_of_given_rows():
    assert cells(tables.blocks([BLOCK], "")) == [
        ["layer1.0", "identity", "4.00", "2.00", "0.50", "0.50", "1.00", "-", "0"]
    ]
    point = DepthPoint("plain", 20, 1, 0.5, 3.0, 2.0, 1.5, 2.31, 2e-16)
    assert cells(tables.depths([point], "")) == [
        ["plain", "20", "1", "0.500", "3.00", "2.00", "1.50", "2.31", "2e-16"]
    ]
    cut = Counterfactual("layer1.0", "residual", 0.5, 0.25, 0.75, -1.0)
    assert cells(tables.counterfactual([("net", cut)], "")) == [
        ["net", "layer1.0", "residual", "0.500", "0.250", "0.750", "-1.00"]
    ]


def test_the_table_of_a_spectrum_and_its_note():
    lengths = [0, 1], [3.0, 4.0], [0.36, 0.64], [1, 1]
    plain = tables.paths(Spectrum(1, *lengths, 5.0, 0, 2.0), "t")
    assert cells(plain) == [["0", "1", "3.00", "0.36"], ["1", "1", "4.00", "0.64"]]
    assert plain.note == (
        "Mean length 0.64 of 1, weighted by signed share; size of the whole gradient "
        "5.00; sweep 2.0 s."
    )
    looked = {"veit": [3.0, 4.5], "singles": [[3.0], [4.0, 5.0]]}
    known = {"coherence": [1.0, 0.5], "coherence_range": [(1.0, 1.0), (0.5, 0.5)]}
    found = Spectrum(1, *lengths, 5.0, 0, 2.0, **looked, **known)
    rows = [row[4:] for row in cells(tables.paths(found, ""))]
    assert rows == [["3.00", "1", "1.00"], ["4.50", "2", "0.50"]]
    known["coherence_range"][1] = (0.25, 0.75)
    found = Spectrum(1, *lengths, 5.0, 0, 2.0, **looked, **known)
    rows = [row[7:] for row in cells(tables.paths(found, ""))]
    assert rows == [["1.00", "1.00"], ["0.25", "0.75"]]


def test_headings():
    sampled = {"veit": [1.0], "singles": [[1.0]], "coherence": [1.0]}
    ends = {"coherence_range": [(0.5, 1.5)]}
    spectrum = Spectrum(0, [0], [1.0], [1.0], [1], 1.0, 0, 0, **sampled, **ends)
    looked = ("looked at", "coherence", "from", "to")
    shares = ("shortcut share", "residual share")
    last, rest = ("N_eff first", "exponent", "closure"), ("growth", "loss", "closure")
    for table, names in (
        (
            tables.paths(spectrum, "title"),
            ("length", "paths", "‖c_k‖", "share", "estimate", *looked),
        ),
        (
            tables.blocks([BLOCK], "title"),
            ("block", "kind", "‖g_x‖", "x / H", *shares, "cosine", "H > 0", "closure"),
        ),
        (
            tables.dense([], "title"),
            ("block", "maps", "‖g‖ in", "‖g‖ out", "R first", "root readers", *last),
        ),
        (
            tables.counterfactual([], "title"),
            ("model", "block", "branch", "factor", "size", "change", "cosine"),
        ),
        (
            tables.depths([], "title"),
            ("kind", "depth", "seed", "‖∂L/∂W‖", "first", "last", *rest),
        ),
    ):
        assert table.title == "title" and tuple(c.name for c in table.columns) == names
    assert tables.compared([], "c").title == "Gradient flow · c"


def test_a_table_in_text():
    table = tables.depths([DepthPoint("plain", 20, 1, 0.5, 3, 2, 1.5, 2.31, 0)], "What")
    lines = table.text(100).splitlines()
    assert lines[:2] == ["What", ""]
    assert (
        lines[2].split()
        == "kind depth seed ‖∂L/∂W‖ first last growth loss closure".split()
    )
    assert set(lines[3]) == {"-"} and len(lines[3]) == max(map(len, lines[2:5]))
    assert lines[4].split() == "plain 20 1 0.500 3.00 2.00 1.50 2.31 0".split()
    assert lines[5] == "" and lines[6] == "kind: plain or residual"


@pytest.mark.parametrize(
    ("columns", "found"), [("1", 40), ("40", 40), ("41", 41), ("79", 79), ("200", 200)]
)
def test_a_table_is_as_wide_as_the_terminal_but_not_narrower_than_40(
    columns, found, monkeypatch
):
    monkeypatch.setenv("COLUMNS", columns)
    assert width() == found


def test_no_line_of_prose_is_longer_than_a_hundred_letters():
    table = Table("w " * 200, [Column("a", "w " * 200, ["x"], words)], "w " * 200)
    for most, longest in ((40, 40), (99, 99), (100, 100), (101, 100), (500, 100)):
        assert max(map(len, table.text(most).splitlines())) == longest


@pytest.mark.parametrize(
    ("gate", "cosines", "expected"),
    [
        (0.0, {"shortcut,gain": 0.5, "shortcut,gate": None}, 0.5),
        (3.0, {"shortcut,gain": None, "shortcut,gate": 0.25}, 0.75 / math.sqrt(13)),
        (3.0, {"shortcut,gain": 0.5, "shortcut,gate": 0.25}, 1.75 / math.sqrt(13)),
    ],
)
def test_an_undefined_cosine_counts_as_0(gate, cosines, expected):
    """Gain 2 and gate at right angles: their sum against the shortcut."""
    block = replace(
        BLOCK,
        norms={"x": 1.0, "H": 1.0, "shortcut": 1.0, "gain": 2.0, "gate": gate},
        shares=dict.fromkeys(("shortcut", "gain", "gate"), 0.0),
        cosines=cosines | {"gain,gate": None},
    )
    assert against_shortcut(block) == pytest.approx(expected)
