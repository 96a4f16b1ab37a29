"""The rule of the verdicts on planted cases: kinds, units, conditions, chance."""

import math

import numpy as np
import pytest

from tinyflow.flow.claims.table import Decider, spread, summary
from tinyflow.flow.claims.verdict import (
    Case,
    Condition,
    agreement,
    called,
    judge,
    probability,
    subsets,
)


def cases(outcomes, seed="0", evidence="", **given):
    """A case per outcome, each with its entry of every column of `given`."""
    return [
        Case(
            f"net/{seed}",
            bool(outcome),
            {},
            {name: column[i] for name, column in given.items()},
            evidence,
        )
        for i, outcome in enumerate(outcomes)
    ]


@pytest.mark.parametrize(
    ("true", "false", "expected"),
    [
        (20, 0, "holds"),
        (19, 1, "holds"),
        (18, 1, "holds only in 95% of cases"),
        (1, 18, "holds only in 5% of cases"),
        (1, 19, "fails"),
        (0, 20, "fails"),
    ],
)
def test_a_kind_holds_from_95_percent_and_fails_up_to_5(true, false, expected):
    found = judge(cases([True] * true + [False] * false))
    assert found.verdict == expected
    assert f"{true} of {true + false}" in found.why


def test_every_seed_must_agree():
    """Ninety-nine true blocks of one network do not outvote another network."""
    many, one = cases([True] * 99, "0"), cases([False], "1")
    assert judge(many + one).verdict == "holds only in 99% of cases"
    assert "2 seeds, 0% to 100% in each" in judge(many + one).why


def test_batches_are_units_too():
    found = judge(cases([True], "0.0") + cases([True], "0.1") + cases([False], "1.0"))
    assert found.verdict == "holds only in 67% of cases"
    both = judge([*cases([1], "0.0"), *cases([1], "0.1")])
    assert "1 seed × 2 batches" in both.why


def test_each_kind_of_evidence_must_pass_by_itself():
    sure = cases([True] * 156, evidence="pullback")
    other = cases([False] * 6, evidence="finite difference")
    assert judge(sure + other).verdict == "fails"
    assert "finite difference: true in 0 of 6 cases" in judge(sure + other).why
    assert judge(sure + cases([True] * 6, evidence="difference")).verdict == "holds"


def test_not_applicable_is_a_verdict_of_its_own():
    out = Case("net/0", True, excluded="nothing vanishes there")
    found = judge([out, out])
    assert found.verdict == "not applicable: nothing vanishes there"
    assert math.isnan(found.share)
    assert judge([out, Case("net/0", False)]).verdict == "fails"
    assert "1 more cases do not count" in judge([out, Case("net/0", False)]).why
    half = Case("net/0", True, evidence="b", excluded="nothing vanishes there")
    verdict = judge([half, Case("net/0", True, evidence="a")]).verdict
    assert verdict == "holds for a, not applicable to b"


def test_no_cases_no_verdict():
    with pytest.raises(ValueError, match="at least one case"):
        judge([])


# --- conditions -----------------------------------------------------------------------

KINDS = ["a", "a", "b", "c", "c", "c"]


def three(outcomes, **given):
    return [c for seed in "012" for c in cases(outcomes, seed, **given)]


def test_a_condition_that_separates():
    mixed = three([1, 1, 1, 0, 0, 0], kind=KINDS)
    found = judge(mixed, subsets(mixed, "kind", "the kind"))
    assert found.verdict == "holds only when the kind is a or b"
    assert "chance does as well with p = 0.00075, 6 tried" in found.why


def test_a_condition_that_chance_explains_is_not_used():
    mixed = cases([1, 1, 0, 0], kind=["a", "b", "c", "c"])
    found = judge(mixed, subsets(mixed, "kind", "the kind"))
    assert (
        found.verdict == "holds only in 50% of cases, separated by no condition tried"
    )
    assert "nearest, “the kind is a or b”" in found.why


def test_a_condition_must_separate_in_every_seed():
    kinds = ["a"] * 10 + ["b"] * 10
    mixed = cases([1] * 10 + [0] * 10, "0", kind=kinds)
    mixed += cases([0] * 10 + [1] * 10, "1", kind=kinds)
    assert agreement(mixed, subsets(mixed, "kind", "")[0]) == (0, 0)
    assert "no condition" in judge(mixed, subsets(mixed, "kind", "the kind")).verdict


@pytest.mark.parametrize(("wrong", "found"), [(1, True), (2, False)])
def test_a_condition_separates_from_95_percent(wrong, found):
    met = [True] * (20 - wrong) + [False] * (20 + wrong)
    mixed = cases([1] * 20 + [0] * 20, met=met)
    verdict = judge(mixed, [Condition("met", lambda given: given["met"])]).verdict
    assert (verdict == "holds only when met") == found
    met = [True] * (20 + wrong) + [False] * (20 - wrong)
    mixed = cases([1] * 20 + [0] * 20, met=met)
    verdict = judge(mixed, [Condition("met", lambda given: given["met"])]).verdict
    assert (verdict == "holds only when met") == found


@pytest.mark.parametrize(("tried", "found"), [(1, True), (2, False)])
def test_the_number_of_conditions_tried_counts(tried, found):
    """Three of six: chance does it in 1 of 20; tried twice that is too often."""
    mixed = cases([1, 1, 1, 0, 0, 0], place=[0, 1, 2, 3, 4, 5])
    good = Condition("early", lambda given: given["place"] < 3)
    assert probability(mixed, good) == pytest.approx(0.05)
    verdict = judge(mixed, [good] * tried).verdict
    assert (verdict == "holds only when early") == found


def test_an_always_true_condition_explains_nothing():
    mixed = three([1] * 18 + [0] * 2)
    assert "always" not in judge(mixed, [Condition("always", lambda g: True)]).verdict


@pytest.mark.parametrize(("count", "searched"), [(20, True), (19, False)])
def test_thresholds_are_searched_with_enough_cases_only(count, searched):
    values = list(range(count))
    many = cases([v <= 7 for v in values], place=values)
    verdict = judge(many, features={"place": "place"}).verdict
    assert (verdict == "holds only when place ≤ 7") == searched
    high = cases([v >= 7 for v in values], place=values)
    verdict = judge(high, features={"place": "place"}).verdict
    assert (verdict == "holds only when place ≥ 7") == searched


def test_a_searched_condition_is_said_in_words():
    many = [Case(f"net/{i}", i <= 7, {}, {"place": i}) for i in range(24)]
    found = judge(many, features={"place": "the block's place"})
    assert found.verdict == "holds only when the block's place ≤ 7"


def test_a_stated_condition_goes_before_a_searched_one():
    values = list(range(24))
    many = cases([v <= 7 for v in values], place=values)
    stated = Condition("early", lambda given: given["place"] < 8)
    assert judge(many, [stated], {"place": "place"}).verdict == "holds only when early"


def test_a_condition_cannot_read_what_was_measured():
    """So it cannot be the claim in other words."""
    mixed = [Case("net/0", v > 0, {"value": v}) for v in (-1, 1) * 20]
    rewritten = Condition("value above 0", lambda given: given.get("value", 0) > 0)
    assert "separated by no" in judge(mixed, [rewritten], {"value": "value"}).verdict


@pytest.mark.parametrize("seeds", [1, 3])
def test_coin_flips_seldom_give_a_condition(seeds):
    """All that is allowed is tried: subsets of six kinds, thresholds on two numbers."""
    rng = np.random.default_rng(seeds)
    found, trials = 0, 300
    for _ in range(trials):
        size = int(rng.integers(3, 11))
        flips = []
        for seed in range(seeds):
            outcomes = rng.integers(0, 2, size)
            kinds = [f"k{i % 6}" for i in range(size)]
            places, other = list(range(size)), rng.random(size).tolist()
            flips += cases(outcomes, str(seed), kind=kinds, place=places, other=other)
        conditions = subsets(flips, "kind", "kind")
        verdict = judge(flips, conditions, {"place": "place", "other": "other"}).verdict
        found += verdict.startswith("holds only when")
    assert found <= 0.05 * trials


# --- numbers over the seeds -----------------------------------------------------------


def test_an_interval_is_over_seeds_of_medians_averaged_over_batches():
    found = []
    for seed, values in enumerate(((1.0, 3.0), (2.0, 4.0), (6.0, 2.0))):
        for b, middle in enumerate(values):
            for v in (middle - 1, middle, middle + 9):
                found.append(Case(f"net/{seed}.{b}", True, {"x": v}))
    ((one,), told) = spread(found, [Decider("x", border=3.0)])
    # Means 2, 3, 4: 3 ± 4.303 · 1/√3.
    assert (one.middle, one.n) == (pytest.approx(3.0), 3)
    assert one.low == pytest.approx(3 - 4.303 / math.sqrt(3))
    assert one.high == pytest.approx(3 + 4.303 / math.sqrt(3))
    assert told == "x 3 (0.516 to 5.48), which contains the border 3"


def test_one_seed_has_no_interval_and_a_count_needs_none():
    (one,), told = spread([Case("net/0", True, {"x": 2.0})], [Decider("x")])
    assert math.isnan(one.low) and told == "x 2; one seed: no interval"
    assert spread([Case("net", True, {"x": 2.0})], [Decider("x")]) == (
        [],
        "counted, not sampled: no interval",
    )


def test_intervals_by_group_and_of_factors():
    found = [
        Case(f"{net}/{seed}", True, {"growth": value})
        for net, values in (("a", (1.0, 100.0)), ("b", (2.0, 2.0)))
        for seed, value in enumerate(values)
    ]
    (a, b), _ = spread(found, [Decider("growth", 1.0, by="model", factor=True)])
    assert (a.group, b.group) == ("a", "b")
    assert a.middle == pytest.approx(10) and a.low < 1 < a.high
    assert (b.middle, b.low, b.high) == pytest.approx((2, 2, 2))


def test_summary_per_setting():
    found = [Case("a/0", True, {"x": 1.0, "k": "u", "b": True})]
    found += [Case("a/0", False, {"x": 3.0, "k": "v", "b": False}), Case("b/0", True)]
    first, second = summary(found)
    assert first == {
        "setting": "a/0",
        "cases": 2,
        "share": 0.5,
        "x": 2.0,
        "k": "u, v",
        "b": "some",
    }
    assert second == {"setting": "b/0", "cases": 1, "share": 1.0}


@pytest.mark.parametrize("name", ["share", "cases", "setting"])
def test_a_number_named_like_a_column_overwrites_nothing(name):
    (row,) = summary([Case("a/0", True, {name: 0.25})])
    assert (row["setting"], row["cases"], row["share"]) == ("a/0", 1, 1.0)
    assert row[f"{name}_measured"] == 0.25


def test_parts_are_called_so_that_one_understands():
    parts = [called("normalised", True), called("normalised", False)]
    assert parts == ["normalised", "not normalised"]
    assert [called("blocks", 9), called("kind", "option A")] == ["9 blocks", "option A"]
