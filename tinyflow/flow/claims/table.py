"""The table of claims: how one registers, is settled, and becomes rows.

::

    @claim("noh1-limit", source="Noh 2021, after eq. 1", statement="…", quantity="…")
    def plain_limit(bench: Bench) -> Found | None: ...

registers under its name a function that measures and judges: ``CLAIMS["noh1-limit"]``
takes a bench and returns the :class:`Claim`. Nothing here knows how a claim ends.
"""

from __future__ import annotations

import functools
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tinyflow.flow.claims.verdict import (
    Case,
    Condition,
    called,
    grouped,
    judge,
    median,
    per_unit,
)
from tinyflow.flow.probe import TOLERANCE
from tinyflow.flow.stats import Interval, interval

if TYPE_CHECKING:
    from tinyflow.flow.claims.bench import Bench


@dataclass(frozen=True)
class Decider:
    """The number that decides a claim, for its interval.

    Attributes:
        number: its name in the cases.
        border: where a case begins to satisfy the claim; None if that differs.
        by: a given (or "model", "evidence") to take it apart by; empty for all cases.
        factor: whether it is a factor, whose logarithm is averaged.
    """

    number: str
    border: float | None = None
    by: str = ""
    factor: bool = False


@dataclass(frozen=True)
class Found:
    """What a claim's function found.

    Attributes:
        cases: at least one, or there is no claim.
        closures: conservation errors of what it used.
        decide: the numbers that decide.
        conditions, features: for :func:`judge`.
        note: further numbers in words.
        dtype, batch: precision and images, where they are not the bench's.
    """

    cases: Sequence[Case]
    closures: Sequence[float] = ()
    decide: Sequence[Decider] = ()
    conditions: Sequence[Condition] = ()
    features: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    dtype: str = ""
    batch: int | None = None


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, measured and judged.

    Attributes:
        id: short name, e.g. ``noh2-remains``.
        source: paper and equation.
        statement: what the paper says.
        quantity: what was measured, and when a case satisfies the claim.
        measured: a row per setting and kind of evidence: number of cases, share of
            those that satisfy the claim, and the median of each number.
        verdict: "holds", "fails", "holds only …" or "not applicable …", from
            :func:`judge`.
        decided_by: the rule's numbers in a sentence.
        settings: models, seeds, mode, batch statistics, precision, images.
        closure_max: largest conservation error of any decomposition it used.
        conserved: whether that is below the precision's tolerance.
        intervals: of the numbers that decide, over the seeds.
        interval: the same in words, or why there is none.
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
    intervals: list[Interval] = field(default_factory=list)
    interval: str = ""


Judged = Callable[["Bench"], Claim | None]
CLAIMS: dict[str, Judged] = {}


def claim(
    identity: str, *, source: str, statement: str, quantity: str, fresh: bool = False
) -> Callable[[Callable[[Bench], Found | None]], Judged]:
    """Register a function that measures one claim; it then returns the judged claim.

    `fresh`: of initial weights, or of no weights at all; none of trained networks.
    """

    def register(measure: Callable[[Bench], Found | None]) -> Judged:
        @functools.wraps(measure)
        def judged(bench: Bench) -> Claim | None:
            if fresh and bench.mode != "init":
                return None
            found = measure(bench)
            if found is None or not found.cases:
                return None
            return settle(bench, identity, source, statement, quantity, found)

        if identity in CLAIMS:
            raise ValueError(f"there is a claim {identity!r} already: rename one")
        CLAIMS[identity] = judged
        return judged

    return register


def settle(
    bench: Bench,
    identity: str,
    source: str,
    statement: str,
    quantity: str,
    found: Found,
) -> Claim:
    """A claim from what was found, by :func:`judge`."""
    cases = found.cases
    judged = judge(cases, found.conditions, found.features)
    used = [case for case in cases if not case.excluded]
    intervals, told = spread(used, found.decide)
    precision = found.dtype or bench.dtype
    worst = max(found.closures, default=0.0)
    units = [unit for unit in per_unit(cases) if unit]
    images = len(bench.labels[: found.batch]) if units else None
    why = judged.why + (f"; batches of {images} images" if images else "")
    return Claim(
        id=identity,
        source=source,
        statement=statement,
        quantity=quantity,
        measured=summary(cases),
        verdict=judged.verdict,
        decided_by=why + (f"; {found.note}" if found.note else ""),
        settings={
            "models": list(dict.fromkeys(case.model for case in cases)),
            "seeds": list(dict.fromkeys(unit.partition(".")[0] for unit in units)),
            "batches": len({unit.partition(".")[2] for unit in units}),
            "mode": bench.mode,
            "weights": bench.weights,
            "statistics": "batch" if bench.training else "running",
            "dtype": precision,
            "batch": images,
        },
        closure_max=worst,
        conserved=worst <= TOLERANCE.get(precision, 1e-5),
        intervals=intervals,
        interval=told,
    )


def spread(
    cases: Sequence[Case], decide: Sequence[Decider]
) -> tuple[list[Interval], str]:
    """Intervals of the deciding numbers over the seeds, and the same in words.

    Of each seed and batch the median over its cases counts, of a seed the mean over its
    batches; the interval is Student's over the seeds.
    """
    if not decide or not cases:
        return [], ""
    if not any(case.unit for case in cases):
        return [], "counted, not sampled: no interval"
    found, told = [], []
    for d in decide:
        groups: dict[str, list[Case]] = {}
        for case in cases:
            if case.value(d.number) is not None:
                name = called(d.by, case.value(d.by)) if d.by else ""
                groups.setdefault(name, []).append(case)
        for group, here in groups.items():
            seeds: dict[str, list[float]] = {}
            for unit, some in per_unit(here).items():
                middle = median(some, d.number)
                seeds.setdefault(unit.partition(".")[0], []).append(middle)
            means = [statistics.fmean(values) for values in seeds.values()]
            found.append(interval(means, d.number, group, d.factor))
            text = str(found[-1])
            if d.border is not None and found[-1].straddles(d.border):
                text += f", which contains the border {d.border:g}"
            told.append(text)
    if max(i.n for i in found) < 2:
        told.append("one seed: no interval")
    return found, "; ".join(told)


def summary(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """A row per setting and kind of evidence: cases, share that satisfies, medians."""
    groups = grouped(cases, lambda case: (case.setting, case.evidence))
    rows = []
    for (setting, evidence), here in groups.items():
        row: dict[str, Any] = {
            "setting": setting,
            **({"evidence": evidence} if evidence else {}),
            "cases": len(here),
            "share": statistics.fmean(case.holds for case in here),
        }
        found: dict[str, Any] = {}
        for name in dict.fromkeys(n for c in here for n in (*c.numbers, *c.given)):
            values = [v for case in here if (v := case.value(name)) is not None]
            found[name] = _together(values)
        if reasons := dict.fromkeys(c.excluded for c in here if c.excluded):
            row["excluded"] = "; ".join(reasons)
        rows.append(beside(row, found))
    return rows


def beside(row: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`row` and `more` in one; a name that is taken becomes ``<name>_measured``."""
    both = dict(row)
    for name, value in more.items():
        while name in both:
            name += "_measured"
        both[name] = value
    return both


def _together(values: Sequence[Any]) -> Any:
    """One value for many: all or some, the median, or every word."""
    if values and all(isinstance(v, bool) for v in values):
        return all(values) if all(values) == any(values) else "some"
    if values and all(isinstance(v, int | float) for v in values):
        return statistics.median(map(float, values))
    return ", ".join(dict.fromkeys(map(str, values)))


def to_rows(
    found: Iterable[Claim], *, measured: bool = False, intervals: bool = False
) -> list[dict[str, Any]]:
    """Flat rows for a CSV file, strict JSON or a table.

    Args:
        found: the claims.
        measured: a row per claim and setting instead of one per claim.
        intervals: a row per claim and interval instead.

    Returns:
        Strings, finite numbers, booleans and None only (infinities become None).
    """
    rows: list[dict[str, Any]] = []
    head = ("id", "source", "statement", "quantity", "verdict", "decided_by")
    for one in found:
        start = {"id": one.id, "mode": one.settings.get("mode")}
        if measured:
            rows += [beside(start, row) for row in one.measured]
        elif intervals:
            rows += [start | vars(i) for i in one.intervals]
        else:
            row = {name: getattr(one, name) for name in (*head, "interval")}
            row |= {"closure_max": one.closure_max, "conserved": one.conserved}
            rows.append(beside(row, one.settings))
    return [{name: _strict(value) for name, value in row.items()} for row in rows]


def _strict(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    json.dumps(value, allow_nan=False)  # a value that JSON cannot hold is a mistake
    return value
