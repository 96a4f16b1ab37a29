"""Traces and printed tables, number by number, against PyTorch."""

import math
from decimal import Decimal

import pytest

pytest.importorskip("torch", reason="PyTorch is the oracle")

import models
from tests.oracles.torch_expected import (
    BATCH,
    against_rest,
    case_of,
    expected_dense,
    expected_model,
    expected_terms,
    sent_in,
)
from tests.oracles.torch_nets import STATES, same, small_networks
from tinyflow import flow
from tinyflow.flow import trace
from tinyflow.flow.compare import summarise
from tinyflow.flow.settings import Settings
from tinyflow.flow.show import tables
from tinyflow.flow.source import find_source
from tinyflow.flow.subject import look


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    """The small ones have names."""
    small_networks(monkeypatch)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["resnet8", "se_resnet8", "plain8", "densenet8"])
def test_every_number_of_a_trace(tmp_path, name, state):
    case, _ = case_of(name, state, tmp_path)
    writer = trace.TraceWriter(tmp_path)
    writer(7, 1.2345678, case.probe().tape)
    found, oracle = trace.read_trace(tmp_path), case.oracle()
    expected = []
    if name == "densenet8":
        sources = [s for d in flow.dense_terms(case.probe().tape) for s in d.sources]
        for d in expected_dense(oracle, case.oracle):
            for j, total in enumerate(d["totals"]):
                at = (7, 1.23457, sources.pop(0), "dense")
                expected.append((*at, "x", total, None, None))
                for sent in sent_in(d):
                    if sent["source"] == f"x{j}":
                        numbers = sent["norm"], sent["share"], None
                        expected.append((*at, sent["consumer"], *numbers))
    for t in [] if name == "densenet8" else expected_terms(oracle):
        for term, norm in t["norms"].items():
            at = (7, 1.23457, t["name"], t["kind"], term, norm)
            cosine = t["cosines"].get(f"shortcut,{term}")
            expected.append((*at, t["shares"].get(term), cosine))
    assert 0 <= writer.closure_max < 1e-13
    ours = [[getattr(r, c) for c in trace.COLUMNS] for r in found]
    same(ours, [list(row) for row in expected], rel=1e-5)


@pytest.mark.parametrize("name", ["resnet8", "se_resnet8", "plain8", "densenet8"])
def test_printed_tables_round_those_numbers(tmp_path, name):
    """Column by column: what is printed is the summary's number, to a few digits."""
    case, _ = case_of(name, "initial", tmp_path)
    summary = summarise(
        look(find_source(Settings(batch_size=BATCH)), models.find(name))
    )
    theirs = expected_model(case, "initial", None)
    [row] = rows_of(tables.compared([summary], ""))
    first, last = theirs["gradient_first_block"], theirs["gradient_last_block"]
    shares = theirs["median_shares"]
    printed(
        row,
        {
            "model": name,
            "param. (M)": theirs["parameters"] / 1e6,
            "blocks": len(theirs["blocks"]),
            "loss": theirs["loss"],
            "‖g‖ first": first,
            "‖g‖ last": last,
            "first / last": first / last,
            "x / H": theirs["median_block_ratio"],
            "shortcut": shares.get("shortcut"),
            "residual": shares.get("residual", shares.get("gain")),
            "gate": shares.get("gate"),
            "cos": theirs["mean_cosine_shortcut_rest"],
        },
    )
    if name == "densenet8":
        rows = rows_of(tables.dense(summary.dense, ""))
        for row, d in zip(rows, theirs["blocks"], strict=True):
            printed(
                row,
                {
                    "block": d["name"].rpartition(".")[2],
                    "maps": len(d["sources"]),
                    "‖g‖ in": d["state_norms"][0],
                    "‖g‖ out": d["state_norms"][-1],
                    "R first": d["coherence"][0],
                    "root readers": math.sqrt(d["readers"][0]),
                    "N_eff first": d["effective"][0],
                    "exponent": d["exponent"],
                },
            )
        return
    rows = rows_of(tables.blocks(summary.blocks, ""))
    for row, b, o in zip(rows, theirs["blocks"], case.oracle().blocks, strict=True):
        terms = {f"{n} share": t["share"] for n, t in b["terms"].items()}
        head = {"block": b["name"], "kind": b["kind"]}
        head |= {"‖g_x‖": b["norm_x"], "x / H": b["ratio"]}
        printed(row, {**head, **terms, "cosine": against_rest(o), "H > 0": b["mask"]})


def rows_of(table):
    """The cells of a table, row by row, by the heading of their column."""
    text = [c.write(c.values) for c in table.columns]
    names = [c.name for c in table.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*text, strict=True)]


def printed(row, expected):
    """Each cell is its number, rounded to the digits that it shows."""
    assert list(row) == [*expected, "closure"]
    for name, value in expected.items():
        cell = row[name]
        if value is None or value != value:
            assert cell == "-", name
            continue
        if isinstance(value, str | int):
            assert cell == str(value), name
            continue
        shown, unit = Decimal(cell.rstrip("%")), 100 if cell.endswith("%") else 1
        step = 10.0 ** shown.as_tuple().exponent
        assert abs(float(shown) - unit * value) <= step * (0.5 + 1e-6), (name, cell)
        assert step <= max(0.01 * abs(value), 0.01) or unit == 100, (name, cell)
