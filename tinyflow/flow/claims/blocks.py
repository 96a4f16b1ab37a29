"""Claims about single blocks: Noh's equations (1) to (3) and what he infers from them.

An equation is held against finite differences of every block's forward pass, which use
no pullback (:mod:`tinyflow.flow.claims.differences`). That the terms add up is no
evidence in plain and residual blocks: there they are the gradient's own summands. An
inference about the limit ∂F/∂x → 0 is tried by going there
(:mod:`tinyflow.flow.claims.shrink`): a term *remains* if its slope lies nearer to 0
than to 1, else it vanishes with F.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tinyflow.flow.blocks import Terms
from tinyflow.flow.claims.bench import Bench
from tinyflow.flow.claims.differences import Difference
from tinyflow.flow.claims.readings import Reading
from tinyflow.flow.claims.table import Decider, Found, claim
from tinyflow.flow.claims.verdict import Case, Condition, median, medians, subsets
from tinyflow.lengths import unit_of

HALF = 0.5  # a slope nearer to 1 than to 0
DIFFERENCE = 1e-6  # accepted error of a finite difference
PLACE = "the block's place, from 0 (first) to 1 (last),"
BY_DIFFERENCES = "finite difference of the block"


def closures(readings: Sequence[Reading]) -> list[float]:
    """Conservation errors of some readings."""
    return [r.closure for r in readings]


def from_differences(found: Sequence[tuple[str, Difference]]) -> list[Case]:
    """A case per block: whether the finite difference agrees."""
    return [
        Case(
            setting,
            d.error <= DIFFERENCE,
            {"difference": d.error},
            {"kind": d.kind},
            BY_DIFFERENCES,
        )
        for setting, d in found
    ]


@claim(
    "noh1-equation",
    source="Noh 2021, eq. 1",
    statement="∂L/∂x = ∂L/∂F × ∂F/∂x in a block without a shortcut",
    quantity="relative error of ‖g_x‖ against a finite difference of the block's "
    f"forward pass along g_x, every block; satisfied up to {DIFFERENCE:g}",
)
def plain_equation(bench: Bench) -> Found:
    """Noh (1), in every block without a shortcut."""
    names = (*bench.setup.plain, *bench.setup.vgg)
    cases = from_differences(bench.differences(*names))
    return Found(
        cases,
        decide=[Decider("difference", DIFFERENCE)],
        note=f"largest error {largest(cases, 'difference'):z.1e}",
        dtype="float64",
        batch=bench.setup.exact_batch,
    )


@claim(
    "noh1-limit",
    source="Noh 2021, after eq. 1",
    statement="the gradient vanishes when ∂F/∂x vanishes to 0",
    quantity="slope of log‖g_x‖ against log ε, one block's F scaled by ε; satisfied if "
    f"at least {HALF}",
)
def plain_limit(bench: Bench) -> Found:
    """Noh's inference from (1): ∂L/∂x vanishes as ∂F/∂x does."""
    shrunk = bench.shrunk(*bench.setup.shrunk)
    cases = []
    for s in shrunk:
        for i, followed in enumerate(s.followed):
            slope = s.slope(i, "x")
            numbers = {"slope": slope, "slope_over_H": s.slope(i, "x", "H")}
            given = {"normalised": followed}
            cases.append(Case(s.setting(i), slope >= HALF, numbers, given))
    return Found(
        cases,
        [s.closure for s in shrunk],
        [Decider("slope", HALF, by="normalised")],
        [
            Condition(
                "no batch normalisation comes after the block",
                lambda given: not given["normalised"],
            )
        ],
        note="normalised: by a later layer; median slope of ‖g_x‖/‖g_H‖ "
        f"{median(cases, 'slope_over_H'):z.2f}",
        dtype="float64",
        batch=bench.setup.exact_batch,
    )


@claim(
    "noh1-depth",
    source="Noh 2021, sections 1 and 3; Quadir 2019; He et al. 2016 doubt it",
    statement="without shortcuts the gradient vanishes on its way through a deep net",
    quantity="growth, ‖g‖ at the first block's input over ‖g‖ at the last map; "
    "satisfied below 1",
)
def plain_depth(bench: Bench) -> Found:
    """The story all three papers tell: plain nets suffer vanishing gradients."""
    readings = bench.readings(*bench.setup.plain, *bench.setup.vgg)
    cases = [
        Case(
            r.setting,
            r.growth < 1,
            {"growth": r.growth, "growth_per_entry": r.growth_rms},
            {"normalised": r.normalised},
        )
        for r in readings
    ]
    return Found(
        cases,
        closures(readings),
        [Decider("growth", 1.0, by="model", factor=True)],
        [Condition("there is no batch normalisation", lambda g: not g["normalised"])],
        note=f"per entry {medians(cases, 'growth_per_entry', by='model', digits=3)}",
    )


@claim(
    "noh2-equation",
    source="Noh 2021, eq. 2",
    statement="∂L/∂x = ∂L/∂H × ∂F/∂x + ∂L/∂H in a residual block",
    quantity="relative error of ‖g_x‖ against the right side along g_x, with a finite "
    "difference of F alone, every block; infinite where ∂L/∂H has not the shape of x; "
    f"satisfied up to {DIFFERENCE:g}",
)
def residual_equation(bench: Bench) -> Found:
    """Noh (2) as printed, with +1 for the shortcut."""
    found = bench.differences(*bench.setup.residual)
    cases = [
        Case(
            setting,
            d.printed <= DIFFERENCE,
            {"printed": d.printed, "difference": d.error},
            {"kind": d.kind},
        )
        for setting, d in found
        if not math.isnan(d.printed)
    ]
    return Found(
        cases,
        decide=[Decider("printed", DIFFERENCE, by="kind")],
        conditions=[
            Condition("the shortcut is identity", lambda g: g["kind"] == "identity")
        ],
        note=f"with Sᵀ in place of 1 the largest error is "
        f"{largest(cases, 'difference'):z.1e}",
        dtype="float64",
        batch=bench.setup.exact_batch,
    )


def rest_of(t: Terms) -> tuple[float, float]:
    """Norm of all that did not come by the shortcut, and its cosine with that."""
    unit = unit_of([t.norms["shortcut"], t.norms["x"]])
    shortcut, size = t.norms["shortcut"] / unit, t.norms["x"] / unit
    along = t.shares["shortcut"] * size**2 - shortcut**2  # ⟨shortcut, rest⟩
    rest = math.sqrt(max(size**2 - shortcut**2 - 2 * along, 0.0))
    return unit * rest, along / (shortcut * rest) if shortcut * rest else 0.0


@claim(
    "noh2-remains",
    source="Noh 2021, after eq. 2",
    statement="the ∂L/∂H component remains, so the gradient does not shrink below it",
    quantity="‖g_x‖ ≥ ‖shortcut term‖, per block",
)
def residual_remains(bench: Bench) -> Found:
    """Noh's inference from (2): the shortcut's component remains in the sum."""
    readings = bench.readings(*bench.setup.residual)
    cases = []
    for r in readings:
        for place, t in enumerate(r.terms):
            rest, cosine = rest_of(t)
            numbers = {
                "g_x_over_shortcut": t.norms["x"] / (t.norms["shortcut"] or math.inf),
                "cosine": cosine,
                "rest_over_shortcut": rest / (t.norms["shortcut"] or math.inf),
            }
            given = {"kind": t.kind, "place": place / max(len(r.terms) - 1, 1)}
            cases.append(Case(r.setting, t.flags["noh2"], numbers, given))
    return Found(
        cases,
        closures(readings),
        [Decider("g_x_over_shortcut", 1.0)],
        subsets(cases, "kind", "the shortcut"),
        {"place": PLACE},
        note=f"median cosine of the two terms {median(cases, 'cosine'):z.2f}, smallest "
        f"{min((c.numbers['cosine'] for c in cases), default=0.0):z.2f}",
    )


@claim(
    "noh2-limit",
    source="Noh 2021, after eq. 2",
    statement="the gradient of a residual block does not vanish when ∂F/∂x vanishes to "
    "0",
    quantity="slope of log‖g_x‖ against log ε, one block's F scaled by ε; satisfied "
    f"below {HALF}",
)
def residual_limit(bench: Bench) -> Found:
    """The same inference in its own limit, ∂F/∂x → 0."""
    shrunk = bench.shrunk(*bench.setup.residual[:1])
    cases = []
    for s in shrunk:
        for i in range(len(s.blocks)):
            slope = s.slope(i, "x")
            numbers = {"slope": slope, "g_x_over_g_H": s.last(i, "x", "H")}
            cases.append(Case(s.setting(i), slope < HALF, numbers))
    return Found(
        cases,
        [s.closure for s in shrunk],
        [Decider("slope", HALF)],
        note="‖g_x‖/‖g_H‖ at the smallest ε "
        f"{median(cases, 'g_x_over_g_H'):z.4f} (median)",
        dtype="float64",
        batch=bench.setup.exact_batch,
    )


def largest(cases: Sequence[Case], name: str) -> float:
    """The largest value of a number, 0 without any."""
    found = [c.numbers[name] for c in cases if name in c.numbers]
    return max(found, default=0.0)
