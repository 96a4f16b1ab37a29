"""Claims about single blocks: Noh's equations (1) to (3) and what he infers from them.

An equation's case satisfies it if the terms add up to ∂L/∂x within the precision's
tolerance and, where the shrink test looked at the block, if ‖∂L/∂x‖ agrees with a
finite difference of the block's forward pass, which uses no pullback. An inference
about the limit ∂F/∂x → 0 is tried by going there (:mod:`tinyflow.flow.claims_shrink`):
a term *remains* if its slope lies nearer to 0 than to 1, else it vanishes with F.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tinyflow.flow.blocks import Terms
from tinyflow.flow.claims_bench import Bench, Reading
from tinyflow.flow.claims_shrink import Shrink
from tinyflow.flow.claims_verdict import (
    Case,
    Claim,
    Condition,
    median,
    medians,
    subsets,
)
from tinyflow.flow.probe import TOLERANCE

HALF = 0.5  # a slope nearer to 1 than to 0
DIFFERENCE = 1e-6  # accepted error of a finite difference
PLACE = "the block's place, from 0 (first) to 1 (last),"
EQUAL = 1e-6  # relative difference up to which two norms are the same


def closures(readings: list[Reading]) -> list[float]:
    """Conservation errors of some readings."""
    return [r.closure for r in readings]


def from_differences(shrunk: list[Shrink]) -> list[Case]:
    """A case per block that a finite difference was taken of."""
    return [
        Case(s.setting(i), error <= DIFFERENCE, {"difference": error, "kind": kind})
        for s in shrunk
        for i, (error, kind) in enumerate(zip(s.derivative, s.kinds, strict=True))
        if not math.isnan(error)
    ]


def conserving(bench: Bench, readings: Sequence[Reading]) -> list[Case]:
    """A case per block: whether its terms add up within the tolerance."""
    tolerance = TOLERANCE[bench.dtype]
    return [
        Case(r.setting, t.closure <= tolerance, {"closure": t.closure, "kind": t.kind})
        for r in readings
        for t in r.terms
    ]


def plain_equation(bench: Bench) -> Claim | None:
    """Noh (1), in every block without a shortcut."""
    names = (*bench.setup.plain, *bench.setup.vgg)
    readings = bench.readings(*names)
    cases = conserving(bench, readings)
    cases += from_differences(bench.shrunk(*bench.setup.plain[:1]))
    return bench.settle(
        "noh1-equation",
        "Noh 2021, eq. 1",
        "∂L/∂x = ∂L/∂F × ∂F/∂x in a block without a shortcut",
        "conservation error of g_x = J_Fᵀ g_F and error against a finite difference, "
        "per block; satisfied within the tolerance",
        cases,
        closures(readings),
        note=f"median finite-difference error {median(cases, 'difference'):z.1e}",
    )


def plain_limit(bench: Bench) -> Claim | None:
    """Noh's inference from (1): ∂L/∂x vanishes as ∂F/∂x does."""
    shrunk = bench.shrunk(*bench.setup.shrunk)
    cases = []
    for s in shrunk:
        for i, followed in enumerate(s.followed):
            slope = s.slope(i, "x")
            local = s.slope(i, "x", "H")
            numbers = {"slope": slope, "slope_over_H": local, "normalised": followed}
            cases.append(Case(s.setting(i), slope >= HALF, numbers))
    return bench.settle(
        "noh1-limit",
        "Noh 2021, after eq. 1",
        "the gradient vanishes when ∂F/∂x vanishes to 0",
        "slope of log‖g_x‖ against log ε, one block's F scaled by ε; "
        f"satisfied if at least {HALF}",
        cases,
        [s.closure for s in shrunk],
        conditions=[
            Condition(
                "no batch normalisation comes after the block",
                lambda n: not n["normalised"],
            )
        ],
        note=f"median slope of ‖g_x‖ {median(cases, 'slope'):z.2f}, of ‖g_x‖/‖g_H‖ "
        f"{median(cases, 'slope_over_H'):z.2f}",
        dtype="float64",
        batch=bench.setup.shrink_batch,
    )


def plain_depth(bench: Bench) -> Claim | None:
    """The story all three papers tell: plain nets suffer vanishing gradients."""
    readings = bench.readings(*bench.setup.plain, *bench.setup.vgg)
    cases = [
        Case(
            r.setting,
            r.growth < 1,
            {
                "growth": r.growth,
                "growth_per_entry": r.growth_rms,
                "model": r.model,
                "normalised": r.normalised,
            },
        )
        for r in readings
    ]
    by_name = medians(cases, "growth", by="model", digits=3)
    return bench.settle(
        "noh1-depth",
        "Noh 2021, sections 1 and 3; Quadir 2019; He et al. 2016 doubt it",
        "without shortcuts the gradient vanishes on its way through a deep net",
        "growth, ‖g‖ at the first block's input over ‖g‖ at the last map; "
        "satisfied below 1",
        cases,
        closures(readings),
        conditions=[
            Condition("there is no batch normalisation", lambda n: not n["normalised"]),
            Condition("there is batch normalisation", lambda n: n["normalised"]),
            *subsets(cases, "model", "the net"),
        ],
        note=f"median growth {by_name}",
    )


def residual_equation(bench: Bench) -> Claim | None:
    """Noh (2) as printed, with +1 for the shortcut."""
    readings = bench.readings(*bench.setup.residual)
    tolerance = TOLERANCE[bench.dtype]
    cases = []
    for r in readings:
        for t in r.terms:
            carried = t.norms["shortcut"] / (t.norms["H"] or 1.0)
            exact = t.closure <= tolerance and abs(carried - 1) <= EQUAL
            numbers = {"closure": t.closure, "shortcut_over_H": carried, "kind": t.kind}
            cases.append(Case(r.setting, exact, numbers))
    cases += from_differences(bench.shrunk(*bench.setup.residual[:1]))
    worst = max((t.closure for r in readings for t in r.terms), default=0.0)
    return bench.settle(
        "noh2-equation",
        "Noh 2021, eq. 2",
        "∂L/∂x = ∂L/∂H × ∂F/∂x + ∂L/∂H in a residual block",
        "conservation error of the two terms, and whether the shortcut's term has the "
        "norm of ∂L/∂H, per block; satisfied if both within tolerance",
        cases,
        closures(readings),
        conditions=subsets(cases, "kind", "the shortcut"),
        note=f"with Sᵀ in place of 1 the largest error is {worst:z.1e}; median "
        f"finite-difference error {median(cases, 'difference'):z.1e}",
    )


def rest_of(t: Terms) -> tuple[float, float]:
    """Norm of all that did not come by the shortcut, and its cosine with that."""
    shortcut, size = t.norms["shortcut"], t.norms["x"]
    along = t.shares["shortcut"] * size**2 - shortcut**2  # ⟨shortcut, rest⟩
    rest = math.sqrt(max(size**2 - shortcut**2 - 2 * along, 0.0))
    return rest, along / (shortcut * rest) if shortcut * rest else 0.0


def residual_remains(bench: Bench) -> Claim | None:
    """Noh's inference from (2): the shortcut's component remains in the sum."""
    readings = bench.readings(*bench.setup.residual)
    cases = []
    for r in readings:
        for place, t in enumerate(r.terms):
            rest, cosine = rest_of(t)
            numbers = {
                "cosine": cosine,
                "rest_over_shortcut": rest / (t.norms["shortcut"] or 1.0),
                "kind": t.kind,
                "place": place / max(len(r.terms) - 1, 1),
            }
            cases.append(Case(r.setting, t.flags["noh2"], numbers))
    return bench.settle(
        "noh2-remains",
        "Noh 2021, after eq. 2",
        "the ∂L/∂H component remains, so the gradient does not shrink below it",
        "‖g_x‖ ≥ ‖shortcut term‖, per block",
        cases,
        closures(readings),
        conditions=[
            Condition(
                "cos(shortcut, residual) > -‖residual‖ / (2 ‖shortcut‖)",
                lambda n: n["cosine"] > -n["rest_over_shortcut"] / 2,
            )
        ],
        features={"cosine": "the cosine of the two terms", "place": PLACE},
        note=f"median cosine of the two terms {median(cases, 'cosine'):z.2f}, smallest "
        f"{min((c.numbers['cosine'] for c in cases), default=0.0):z.2f}",
    )


def residual_limit(bench: Bench) -> Claim | None:
    """The same inference in its own limit, ∂F/∂x → 0."""
    shrunk = bench.shrunk(*bench.setup.residual[:1])
    cases = []
    for s in shrunk:
        for i in range(len(s.blocks)):
            slope = s.slope(i, "x")
            numbers = {"slope": slope, "g_x_over_g_H": s.last(i, "x", "H")}
            cases.append(Case(s.setting(i), slope < HALF, numbers))
    return bench.settle(
        "noh2-limit",
        "Noh 2021, after eq. 2",
        "the gradient of a residual block does not vanish when ∂F/∂x vanishes to 0",
        "slope of log‖g_x‖ against log ε, one block's F scaled by ε; "
        f"satisfied below {HALF}",
        cases,
        [s.closure for s in shrunk],
        note=f"median slope {median(cases, 'slope'):z.3f}; ‖g_x‖/‖g_H‖ at the smallest "
        f"ε {median(cases, 'g_x_over_g_H'):z.4f}",
        dtype="float64",
        batch=bench.setup.shrink_batch,
    )
