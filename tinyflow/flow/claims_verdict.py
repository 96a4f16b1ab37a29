"""From numbers to a verdict, by one rule that no claim can get around.

A claim is a statement about cases: a block of a network with one seed, say. Each case
either satisfies it or does not. It *holds* if at least 95 % do and *fails* if at most
5 % do. In between it *holds only when* a condition does, if one is found that is true
in at least 95 % of the cases that satisfy the claim and false in at least 95 % of those
that do not; conditions are tried in order, first the ones stated beforehand, then, with
20 cases or more, thresholds on the numbers of the cases, which are searched. If none
separates the cases the verdict says so, with the share.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Numbers: TypeAlias = Mapping[str, Any]

ALL, NONE, SEPARATES = 0.95, 0.05, 0.95
ENOUGH = 20  # cases before a threshold may be searched
HOLDS, FAILS, ONLY_WHEN = "holds", "fails", "holds only when"


@dataclass(frozen=True)
class Case:
    """One instance of a claim.

    Attributes:
        setting: model and seed, ``resnet20/0``, or a part of it too,
            ``resnet20:layer1/0``.
        holds: whether the instance satisfies the claim.
        numbers: what was measured there, by name; numbers, booleans or words.
    """

    setting: str
    holds: bool
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """A reason why a case might satisfy a claim: in words, and as a test."""

    text: str
    test: Callable[[Numbers], bool]


@dataclass(frozen=True)
class Judgement:
    """A verdict and the sentence that gives its grounds."""

    verdict: str
    why: str
    share: float


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, measured and judged.

    Attributes:
        id: short name, e.g. ``noh2-remains``.
        source: paper and equation.
        statement: what the paper says.
        quantity: what was measured, and when a case satisfies the claim.
        measured: a row per setting (model and seed): number of cases, share of those
            that satisfy the claim, and the median of each number.
        verdict: "holds", "fails" or "holds only …", from :func:`judge`.
        decided_by: the rule's numbers in a sentence.
        settings: models, seeds, mode, batch statistics, precision, batch.
        closure_max: largest conservation error of any decomposition it used.
        conserved: whether that is below the precision's tolerance.
    """

    id: str
    source: str
    statement: str
    quantity: str
    measured: list[dict[str, Any]]
    verdict: str
    decided_by: str
    settings: dict[str, Any]
    closure_max: float
    conserved: bool


def judge(
    cases: Sequence[Case],
    conditions: Iterable[Condition] = (),
    features: Iterable[str] = (),
) -> Judgement:
    """The rule of this module.

    Args:
        cases: at least one.
        conditions: tried first, in order.
        features: names of numbers on which thresholds may be searched; a mapping also
            says what to call them in the verdict.
    """
    if not cases:
        raise ValueError("a verdict needs at least one case")
    count = sum(case.holds for case in cases)
    share = count / len(cases)
    grounds = f"true in {count} of {len(cases)} cases ({share:.1%})"
    if share >= ALL:
        return Judgement(HOLDS, grounds, share)
    if share <= NONE:
        return Judgement(FAILS, grounds, share)
    tried = list(conditions)
    said = features if isinstance(features, Mapping) else {n: n for n in features}
    if len(cases) >= ENOUGH:
        tried += [
            found for name in said for found in thresholds(cases, name, said[name])
        ]
    best, best_worth = None, -1.0
    for condition in tried:
        when, unless = agreement(cases, condition)
        if min(when, unless) >= SEPARATES:
            return Judgement(
                f"{ONLY_WHEN} {condition.text}",
                f"{grounds}; the condition is true in {when:.1%} of these and false in "
                f"{unless:.1%} of the others",
                share,
            )
        if min(when, unless) > best_worth:
            best, best_worth = condition, min(when, unless)
    nearest = f"; nearest is “{best.text}”, right in {best_worth:.0%}" if best else ""
    return Judgement(
        f"holds only in {share:.0%} of cases, separated by no condition tried",
        grounds + nearest,
        share,
    )


def agreement(cases: Sequence[Case], condition: Condition) -> tuple[float, float]:
    """How often a condition is true where the claim is, and false where it is not."""
    found = [(case.holds, condition.test(case.numbers)) for case in cases]
    when = [true for holds, true in found if holds]
    unless = [not true for holds, true in found if not holds]
    return statistics.fmean(when), statistics.fmean(unless)


def thresholds(
    cases: Sequence[Case], name: str, words: str | None = None
) -> list[Condition]:
    """The best ``name ≥ t`` and the best ``name ≤ t`` over the cases that have it."""
    values = sorted(
        {
            float(v)
            for case in cases
            if isinstance(v := case.numbers.get(name), int | float) and math.isfinite(v)
        }
    )
    found: list[Condition] = []
    if len(values) < 2:
        return found
    step = max(1, len(values) // 200)
    for sign, cuts in ((True, values[1::step]), (False, values[:-1:step])):
        tried = [_threshold(name, words or name, cut, sign) for cut in cuts]
        found.append(max(tried, key=lambda c: min(agreement(cases, c))))
    return found


def _threshold(name: str, words: str, cut: float, above: bool) -> Condition:
    def test(numbers: Numbers) -> bool:
        value = float(numbers.get(name, math.nan))
        return value >= cut if above else value <= cut

    return Condition(f"{words} {'≥' if above else '≤'} {cut:z.3g}", test)


def summary(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """A row per setting: cases, share that satisfies the claim, medians."""
    rows = []
    for setting in dict.fromkeys(case.setting for case in cases):
        here = [case for case in cases if case.setting == setting]
        row: dict[str, Any] = {
            "setting": setting,
            "cases": len(here),
            "share": statistics.fmean(case.holds for case in here),
        }
        for name in dict.fromkeys(n for case in here for n in case.numbers):
            values = [case.numbers[name] for case in here if name in case.numbers]
            if all(isinstance(v, bool) for v in values):
                row[name] = all(values) if all(values) == any(values) else "some"
            elif all(isinstance(v, int | float) for v in values):
                row[name] = statistics.median(map(float, values))
            else:
                row[name] = ", ".join(dict.fromkeys(map(str, values)))
        rows.append(row)
    return rows


def subsets(cases: Sequence[Case], name: str, label: str) -> list[Condition]:
    """``<label> is a``, ``… is a or b``, for every choice among up to six values."""
    values = sorted({str(c.numbers[name]) for c in cases if name in c.numbers})
    if len(values) > 6:
        return []
    return [
        _among(name, label, chosen)
        for size in range(1, len(values))
        for chosen in itertools.combinations(values, size)
    ]


def _among(name: str, label: str, chosen: tuple[str, ...]) -> Condition:
    return Condition(
        f"{label} is {' or '.join(chosen)}", lambda n: str(n.get(name)) in chosen
    )


def median(cases: Iterable[Case], name: str) -> float:
    """Median of one number over the cases where it is finite; NaN if nowhere."""
    found = [float(case.numbers.get(name, math.nan)) for case in cases]
    values = [value for value in found if math.isfinite(value)]
    return statistics.median(values) if values else math.nan


def medians(cases: Sequence[Case], name: str, *, by: str, digits: int = 2) -> str:
    """``a 1.2, b 3.4``: medians of one number for each value of another, for notes."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        if by in case.numbers:
            groups.setdefault(str(case.numbers[by]), []).append(case)
    return ", ".join(f"{g} {median(c, name):z.{digits}g}" for g, c in groups.items())


def to_rows(found: Iterable[Claim], *, measured: bool = False) -> list[dict[str, Any]]:
    """Flat rows for a CSV file, strict JSON or a table.

    Args:
        found: the claims.
        measured: a row per claim and setting instead of one per claim.

    Returns:
        Strings, finite numbers, booleans and None only (infinities become None).
    """
    rows: list[dict[str, Any]] = []
    for claim in found:
        if measured:
            mode = claim.settings.get("mode")
            rows += [{"id": claim.id, "mode": mode, **row} for row in claim.measured]
            continue
        head = ("id", "source", "statement", "quantity", "verdict", "decided_by")
        row = {name: getattr(claim, name) for name in head}
        row |= claim.settings
        rows.append(
            row | {"closure_max": claim.closure_max, "conserved": claim.conserved}
        )
    return [{name: _strict(value) for name, value in row.items()} for row in rows]


def _strict(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    json.dumps(value, allow_nan=False)  # a value that JSON cannot hold is a mistake
    return value
