"""What the sentences promise: thresholds as printed, defaults, and what is planned."""

import math

import numpy as np
import pytest

import models
from tests.flow.claims.test_borders import BORDERS, dense, read, terms
from tests.flow.claims.tiny import TINY, batch, tiny_bench
from tinyflow.flow import claims
from tinyflow.flow.claims import CLAIMS, check_names, iter_claims, planned
from tinyflow.flow.claims import (
    dense as claims_dense,
)
from tinyflow.flow.claims import (
    paths as claims_paths,
)
from tinyflow.flow.claims import (
    table as claims_table,
)
from tinyflow.flow.claims.setup import FULL, QUICK
from tinyflow.flow.claims.training import end_of
from tinyflow.flow.claims.verdict import Case, thresholds
from tinyflow.flow.probe import FlowError

SAID = {
    "noh1-equation": "satisfied up to 1e-06",
    "noh1-limit": "satisfied if at least 0.5",
    "noh2-equation": "satisfied up to 1e-06",
    "noh2-limit": "satisfied below 0.5",
    "noh3-limit": "satisfied below 0.5",
    "noh3-component, slope": "above 1e-06 at the smallest ε and the slope of its log "
    "is below 0.5",
    "noh6-law, low": "satisfied if |α - ½| ≤ 0.15; and N_eff/m, median over its maps, "
    "satisfied from 0.8",
    "quadir-relu": "satisfied from 0.95",
    "quadir-full": "satisfied from 0.95",
    "veit-short-paths": "satisfied from 0.95",
    "veit-decay": "falls with R² ≥ 0.9",
    "veit-count": "satisfied from 0.95",
    "desmith-gradient, low": "satisfied within 0.2 of -0.5",
    "desmith-variance, low": "satisfied within 0.3 of -1",
}


@pytest.mark.parametrize("name", SAID)
def test_a_sentence_says_its_threshold(name, monkeypatch):
    """And the tests of borders hold the code to the same number."""
    seen = []
    monkeypatch.setattr(claims_table, "settle", lambda *args: seen.append(args))
    claim, made, holds, _ = BORDERS[name]
    claim(made(holds))
    ((_, identity, source, statement, quantity, found),) = seen
    assert SAID[name] in quantity and identity == name.partition(",")[0]
    assert source and statement and found.cases


@pytest.mark.parametrize(("short", "verdict"), [(0.9e-6, "holds"), (1.1e-6, "fails")])
def test_a_bound_may_be_missed_by_a_millionth(short, verdict):
    made = read(dense=(dense(state=(1 - short, 1.0)),))
    assert claims_dense.dense_bound(made).verdict == verdict


# --- how the table is asked for -------------------------------------------------------


@pytest.fixture
def benches(monkeypatch):
    """A claim that keeps its bench, alone in the table."""
    seen = []
    monkeypatch.setattr(claims, "CLAIMS", {"x": seen.append})
    return seen


class Told:
    planned = None

    def plan(self, total):
        self.planned = total


def test_what_is_judged_unless_said_otherwise(benches):
    images, labels = batch()
    assert list(iter_claims(images, labels, find=models.find)) == []
    (made,) = benches
    assert (made.seeds, made.setup, made.batches) == ((0, 1, 2), QUICK, 1)
    assert (made.dtype, made.training, made.num_classes) == ("float32", True, 10)
    assert made.trained is made.draw is made.progress is None
    assert made.curves == {} and made.mode == "init"
    assert made.images is images and made.labels is labels


def test_what_is_judged_as_said(benches):
    curves, draw, told = {"resnet20": [[1.0]]}, lambda seed, b: batch(), Told()
    how = {"seeds": [5], "dtype": "float64", "training": False, "num_classes": 7}
    how |= {"draw": draw, "batches": 2, "progress": told, "curves": curves}
    list(
        iter_claims(
            *batch(), find=models.find, quick=False, trained={"resnet20": [0]}, **how
        )
    )
    *_, fresh, after = benches  # asked for its plan first
    assert fresh.setup is FULL and fresh.seeds == (5,) and fresh.dtype == "float64"
    assert (fresh.training, fresh.num_classes, fresh.batches) == (False, 7, 2)
    assert fresh.draw is draw and fresh.progress is told and fresh.curves == {}
    assert after.setup == FULL.only(["resnet20"]) and after.curves is curves
    assert (after.mode, after.draw, after.batches) == ("trained", draw, 2)
    assert told.planned == 0 and len(benches) == 4
    benches.clear()
    list(iter_claims(*batch(), find=models.find, quick=True, setup=TINY))
    assert benches[0].setup is TINY
    for wrong in ({"batches": 0, "draw": draw}, {"batches": 2}):
        with pytest.raises(FlowError, match=f"batches={wrong['batches']}: give 1 or"):
            list(iter_claims(*batch(), find=models.find, **wrong))
    list(iter_claims(*batch(), find=models.find, batches=1, draw=draw))


def test_a_measurement_that_several_claims_share_is_planned_once():
    made = tiny_bench()
    layers = {"noh1-depth": 20, "noh2-remains": 20, "noh1-equation": 2 * 20}
    for name, work in layers.items():
        assert planned(made, [name]) == work
    assert planned(made, ["noh2-remains", "desmith-variance"]) == 20  # both resnet20
    assert planned(made, list(layers)) == sum(layers.values())


def test_claims_that_are_like_a_wrong_name_are_proposed():
    assert check_names(None) == check_names([]) == list(CLAIMS)
    assert check_names(["noh5-sum", "noh1-depth", "noh5-sum"]) == [
        "noh5-sum",
        "noh1-depth",
    ]
    for name, near in (
        ("noh5-sums", "noh5-sum"),
        ("response", "noh-response"),  # alike by 0.8
        ("dcay", "veit-decay"),  # by 0.57
    ):
        with pytest.raises(FlowError) as caught:
            check_names([name])
        proposed = str(caught.value).partition("there are ")[2].split(", ")
        assert proposed[0] == near and proposed[-1] == "…" and len(proposed) <= 4
    with pytest.raises(FlowError) as caught:
        check_names(["noh"])
    assert len(str(caught.value).split(", ")) == 4  # three of many, and the rest
    with pytest.raises(FlowError, match=", ".join(CLAIMS)):
        check_names(["xyzxyzxyz"])


# --- numbers of single claims ---------------------------------------------------------


def test_the_rest_beside_a_shortcut_of_length_two():
    """Shortcut (2, 0), rest (1, 2), their sum (3, 2); and no shortcut at all."""
    size, rest = math.sqrt(13), math.sqrt(5)
    norms = {"x": size, "H": 1.0, "shortcut": 2.0, "residual": rest}
    found = terms(norms=norms, shares={"shortcut": 6 / 13, "residual": 7 / 13})
    (row,) = CLAIMS["noh2-remains"](read(terms=(found,))).measured
    assert row["g_x_over_shortcut"] == pytest.approx(size / 2)
    assert row["rest_over_shortcut"] == pytest.approx(rest / 2)
    assert row["cosine"] == pytest.approx(1 / rest)
    bare = terms(norms=norms | {"shortcut": 0.0}, shares={"shortcut": 0.0})
    (row,) = CLAIMS["noh2-remains"](read(terms=(bare,))).measured
    assert row["g_x_over_shortcut"] == row["rest_over_shortcut"] == 0


def test_a_curve_ends_with_its_last_fifth():
    for size, last in ((1, 1), (4, 1), (9, 1), (10, 2), (14, 2), (15, 3), (100, 20)):
        curve = [100.0] * (size - last) + [float(k) for k in range(last)]
        assert end_of(curve) == pytest.approx((last - 1) / 2)


def test_every_cut_between_few_values_is_tried_and_two_hundred_of_many():
    for count, tried in ((2, 2), (3, 4), (399, 2 * 398), (400, 400), (1000, 400)):
        many = [Case(f"n/{i}", i < count / 2, {}, {"v": i}) for i in range(count)]
        found, counted = thresholds(many, "v", "v")
        assert counted == tried and len(found) == 2
    assert thresholds(many[:1], "v") == ([], 0)
    odd = [Case("n/0", True, {}, {"v": v}) for v in (math.nan, 1, 2.0, math.inf)]
    assert [c.text for c in thresholds(odd, "v")[0]] == ["v ≥ 2", "v ≤ 1"]


def test_what_the_choice_of_paths_leaves_open_by_another_bootstrap():
    """95 % of R² - (R² of paths drawn again - R²), other numbers and more of them."""
    rng = np.random.default_rng(3)
    singles = [(10 ** (-0.2 * k + 0.3 * rng.normal(size=6))).tolist() for k in range(8)]
    paths = [6, *[50] * 6, 6]  # of the first and the last length none was left out
    x = np.arange(8.0)

    def fit(means):
        return np.corrcoef(x, np.log10(means))[0, 1] ** 2

    again = [
        fit([
            np.mean(rng.choice(s, 6) if n > 6 else s)
            for s, n in zip(singles, paths, strict=True)
        ])
        for _ in range(4000)
    ]  # fmt: skip
    now = fit([np.mean(s) for s in singles])
    low, high = claims_paths.decay_range(singles, paths)
    assert claims_paths.decay(singles)[1] == pytest.approx(now)
    assert low == pytest.approx(2 * now - np.quantile(again, 0.975), abs=0.01)
    assert high == pytest.approx(min(1, 2 * now - np.quantile(again, 0.025)), abs=0.01)
    narrow = 2 * now - np.quantile(again, 0.9)
    assert abs(low - narrow) > 0.01  # so that another share of 95 % would be seen
