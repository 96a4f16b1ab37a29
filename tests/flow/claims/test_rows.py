"""Rows of the claims' tables: no column takes the place of another."""

import dataclasses

import pytest

from tinyflow.flow.claims.table import Claim, beside, summary, to_rows
from tinyflow.flow.claims.verdict import Case

OWN = ("setting", "cases", "share")


@pytest.mark.parametrize("name", OWN)
def test_a_number_never_overwrites_the_rows_own_columns(name):
    plain = summary([Case("a/0", True), Case("a/0", False)])
    cases = [Case("a/0", True, {name: 7.0}), Case("a/0", False, {name: 9.0})]
    (row,) = summary(cases)
    assert {key: row[key] for key in OWN} == plain[0]
    assert row[f"{name}_measured"] == 8.0 and len(row) == 4


def test_names_taken_twice_are_all_kept():
    found = beside({"share": 1}, {"share": 2, "share_measured": 3, "x": 4})
    assert found == {
        "share": 1,
        "share_measured": 2,
        "share_measured_measured": 3,
        "x": 4,
    }
    assert beside({"a": 1}, {}) == {"a": 1}


def claim(**changed):
    of = {f.name: f.name for f in dataclasses.fields(Claim)}
    of |= {"measured": [], "settings": {}, "closure_max": 0.5, "conserved": True}
    of["intervals"] = []
    return Claim(**of | changed)


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Claim)])
def test_settings_and_numbers_overwrite_no_field_of_a_claim(name):
    (row,) = to_rows([claim(settings={name: "s"})])
    kept = set(row) - {f"{name}_measured", name}
    assert all(row[key] == getattr(claim(), key) for key in kept)
    assert "s" in row.values() and len(row) == 10
    (line,) = to_rows(
        [claim(measured=[{name: 3}], settings={"mode": "init"})], measured=True
    )
    assert line["id"] == "id" and line["mode"] == "init" and 3 in line.values()


@pytest.mark.parametrize("name", ["id", "mode"])
def test_a_number_called_id_or_mode_is_another_column(name):
    rows = to_rows(
        [claim(measured=[{name: 3}], settings={"mode": "init"})], measured=True
    )
    assert rows == [{"id": "id", "mode": "init", f"{name}_measured": 3}]
