"""From numbers to a verdict, by one rule that no claim can get around.

A claim is a statement about *cases*: a block of a network with one seed, say. Each case
either satisfies it or does not, and belongs to one *kind of evidence* (a finite
difference, an exponent, …) and to one *unit*, the seed (and batch) it was measured
with: blocks of one network are not independent of one another, seeds are.

1. A kind *holds* if in every unit at least 95 % of its cases do, and *fails* if in
   every unit at most 5 % do.
2. The claim holds if every kind holds, and fails if one of them fails.
3. In between it *holds only when* a condition does. A condition reads only what is
   given before anything is measured (the kind of shortcut, the place of a block), so it
   cannot be the claim in other words. In every unit it must be true in at least 95 % of
   the cases that satisfy the claim and false in at least 95 % of those that do not; and
   chance must give as clear a one in at most 5 % of all tries: its exact probability
   times the number of conditions tried, every threshold counted, is at most 0.05.
4. Cases in which the claim's premise does not hold say nothing about it. Where no other
   is left, the claim is *not applicable*, with the reason.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from tinyflow.flow.stats import chance

Key = TypeVar("Key")
Numbers: TypeAlias = Mapping[str, Any]

ALL, NONE, SEPARATES, CHANCE = 0.95, 0.05, 0.95, 0.05
ENOUGH = 20  # cases before a threshold may be searched
HOLDS, FAILS, ONLY_WHEN = "holds", "fails", "holds only when"
NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Case:
    """One instance of a claim.

    Attributes:
        setting: network and seed, ``resnet20/0``, with several batches
            ``resnet20/0.1``; or a part, ``resnet20:layer1/0``. Without a "/" it
            depends on no seed.
        holds: whether the instance satisfies the claim.
        numbers: what was measured there, by name; numbers, booleans or words.
        given: what was known before, by name; all that a condition may read.
        evidence: the kind of evidence, in words; every kind must pass by itself.
        excluded: why the claim says nothing about this case; empty if it does.
    """

    setting: str
    holds: bool
    numbers: Numbers = field(default_factory=dict)
    given: Numbers = field(default_factory=dict)
    evidence: str = ""
    excluded: str = ""

    @property
    def unit(self) -> str:
        """Seed, or seed and batch, ``0.1``; empty if there is none."""
        return self.setting.rpartition("/")[2] if "/" in self.setting else ""

    @property
    def model(self) -> str:
        """The network."""
        return self.setting.rpartition("/")[0].partition(":")[0] or self.setting

    def value(self, name: str) -> Any:
        """A number or a given by name; None if it has neither."""
        if name in ("model", "evidence"):
            return getattr(self, name)
        return self.numbers.get(name, self.given.get(name))


@dataclass(frozen=True)
class Condition:
    """A reason why a case might satisfy a claim: in words, and as a test of `given`."""

    text: str
    test: Callable[[Numbers], bool]


@dataclass(frozen=True)
class Judgement:
    """A verdict and the sentence that gives its grounds."""

    verdict: str
    why: str
    share: float


def judge(
    cases: Sequence[Case],
    conditions: Iterable[Condition] = (),
    features: Mapping[str, str] | None = None,
) -> Judgement:
    """The rule of this module.

    Args:
        cases: at least one.
        conditions: stated beforehand; tried first, in order.
        features: given numbers on which thresholds may be searched, with ENOUGH cases,
            and what to call each in the verdict.
    """
    if not cases:
        raise ValueError("a verdict needs at least one case")
    used = [case for case in cases if not case.excluded]
    reasons = "; ".join(dict.fromkeys(c.excluded for c in cases if c.excluded))
    if not used:
        return Judgement(
            f"{NOT_APPLICABLE}: {reasons}",
            f"the premise holds in none of {len(cases)} cases",
            math.nan,
        )
    share = statistics.fmean(case.holds for case in used)
    kinds = grouped(used, lambda case: case.evidence)
    why = "; ".join(_grounds(kind, found) for kind, found in kinds.items())
    if left := len(cases) - len(used):
        why += f"; {left} more cases do not count: {reasons}"
    ends = {kind: _outcome(found) for kind, found in kinds.items()}
    if FAILS in ends.values():
        return Judgement(FAILS, why, share)
    mixed = [kinds[kind] for kind, end in ends.items() if end != HOLDS]
    if not mixed:
        missing = dict.fromkeys(c.evidence for c in cases if c.evidence not in kinds)
        if missing:
            told = f"{', '.join(kinds)}, {NOT_APPLICABLE} to {', '.join(missing)}"
            return Judgement(f"{HOLDS} for {told}", why, share)
        return Judgement(HOLDS, why, share)
    found, told = _search(mixed, list(conditions), features or {})
    if found is not None:
        return Judgement(f"{ONLY_WHEN} {found.text}", why + told, share)
    tried = ", separated by no condition tried" if told else ""
    return Judgement(f"holds only in {share:.0%} of cases{tried}", why + told, share)


def grouped(cases: Iterable[Case], key: Callable[[Case], Key]) -> dict[Key, list[Case]]:
    """The cases by their keys, both in the order they come in."""
    groups: dict[Key, list[Case]] = {}
    for case in cases:
        groups.setdefault(key(case), []).append(case)
    return groups


def per_unit(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """The cases of each seed (and batch)."""
    return grouped(cases, lambda case: case.unit)


def _shares(cases: Sequence[Case]) -> list[float]:
    return [statistics.fmean(c.holds for c in u) for u in per_unit(cases).values()]


def _outcome(cases: Sequence[Case]) -> str:
    shares = _shares(cases)
    if min(shares) >= ALL:
        return HOLDS
    return FAILS if max(shares) <= NONE else ""


def _grounds(kind: str, cases: Sequence[Case]) -> str:
    count = sum(case.holds for case in cases)
    text = f"{kind}: " if kind else ""
    text += f"true in {count} of {len(cases)} cases ({count / len(cases):.1%})"
    units = [unit for unit in per_unit(cases) if unit]
    if not units:
        return text
    seeds = len({unit.partition(".")[0] for unit in units})
    told = f"{seeds} seed{'s' if seeds > 1 else ''}"
    if len(units) > seeds:
        told += f" × {len(units) // seeds} batches"
    if len(units) == 1:
        return f"{text}, {told}"
    low, high = min(_shares(cases)), max(_shares(cases))
    per = f"{low:.0%}" if low == high else f"{low:.0%} to {high:.0%}"
    return f"{text}, {told}, {per} in each"


def _search(
    mixed: Sequence[list[Case]],
    conditions: list[Condition],
    features: Mapping[str, str],
) -> tuple[Condition | None, str]:
    """The first condition that separates each of these kinds, and what was tried."""
    tried = len(conditions)
    if min(map(len, mixed)) >= ENOUGH:
        for name, words in features.items():
            best, count = thresholds(mixed[0], name, words)
            conditions, tried = conditions + best, tried + count
    nearest, worth, told = None, -1.0, ""
    for condition in conditions:
        when, unless = (
            min(x) for x in zip(*(agreement(m, condition) for m in mixed), strict=True)
        )
        odds = min(1.0, tried * max(probability(m, condition) for m in mixed))
        text = (
            f"is true in {when:.0%} of these and false in {unless:.0%} of the others; "
            f"chance does as well with p = {odds:z.2g}, {tried} tried"
        )
        if min(when, unless) >= SEPARATES and odds <= CHANCE:
            return condition, f"; the condition {text}"
        if min(when, unless) > worth:
            nearest, worth, told = condition, min(when, unless), text
    return None, f"; nearest, “{nearest.text}”, {told}" if nearest else ""


def agreement(cases: Sequence[Case], condition: Condition) -> tuple[float, float]:
    """How often a condition is true where the claim is, and false where it is not.

    Of all units the worst; 1 where there is nothing to agree with.
    """
    when, unless = [1.0], [1.0]
    for unit in per_unit(cases).values():
        met = [(case.holds, condition.test(case.given)) for case in unit]
        if true := [yes for holds, yes in met if holds]:
            when.append(statistics.fmean(true))
        if false := [not yes for holds, yes in met if not holds]:
            unless.append(statistics.fmean(false))
    return min(when), min(unless)


def probability(cases: Sequence[Case], condition: Condition) -> float:
    """How likely chance meets the condition as well; see :func:`chance`.

    Outcomes are dealt out within each unit, or among the units if each has one case.
    """
    units = list(per_unit(cases).values())
    if all(len(unit) == 1 for unit in units):
        units = [list(cases)]
    strata = []
    for unit in units:
        met = [condition.test(case.given) for case in unit]
        true = [case.holds for case in unit]
        both = sum(a and b for a, b in zip(met, true, strict=True))
        strata.append((len(unit), sum(true), sum(met), both))
    return chance(strata)


def thresholds(
    cases: Sequence[Case], name: str, words: str = ""
) -> tuple[list[Condition], int]:
    """The best ``name ≥ t`` and the best ``name ≤ t``, and how many were tried."""
    values = sorted(
        {
            float(v)
            for case in cases
            if isinstance(v := case.given.get(name), int | float) and math.isfinite(v)
        }
    )
    found: list[Condition] = []
    count = 0
    if len(values) < 2:
        return found, count
    step = max(1, len(values) // 200)
    for above, cuts in ((True, values[1::step]), (False, values[:-1:step])):
        tried = [_threshold(name, words or name, cut, above) for cut in cuts]
        found.append(max(tried, key=lambda c: min(agreement(cases, c))))
        count += len(tried)
    return found, count


def _threshold(name: str, words: str, cut: float, above: bool) -> Condition:
    def test(given: Numbers) -> bool:
        value = float(given.get(name, math.nan))
        return value >= cut if above else value <= cut

    return Condition(f"{words} {'≥' if above else '≤'} {cut:z.3g}", test)


def subsets(cases: Sequence[Case], name: str, label: str) -> list[Condition]:
    """``<label> is a``, ``… is a or b``, for every choice among up to six values."""
    values = sorted({str(c.given[name]) for c in cases if name in c.given})
    if len(values) > 6:
        return []
    return [
        _among(name, label, chosen)
        for size in range(1, len(values))
        for chosen in itertools.combinations(values, size)
    ]


def _among(name: str, label: str, chosen: tuple[str, ...]) -> Condition:
    return Condition(
        f"{label} is {' or '.join(chosen)}",
        lambda given: str(given.get(name)) in chosen,
    )


def median(cases: Iterable[Case], name: str) -> float:
    """Median of one number over the cases where it is finite; NaN if nowhere."""
    found = [case.value(name) for case in cases]
    values = [float(v) for v in found if v is not None and math.isfinite(v)]
    return statistics.median(values) if values else math.nan


def called(name: str, value: Any) -> str:
    """What a part of the cases is called: ``not normalised``, ``9 blocks``, ``a``."""
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return f"{value} {name}" if isinstance(value, int) else str(value)


def medians(cases: Sequence[Case], name: str, *, by: str, digits: int = 2) -> str:
    """``a 1.2, b 3.4``: medians of one number for each value of another, for notes."""
    groups = grouped(cases, lambda case: called(by, case.value(by)))
    return ", ".join(f"{g} {median(c, name):z.{digits}g}" for g, c in groups.items())
