"""Claims about squeeze-and-excitation: Noh's equation (3) and what he infers from it.

The inference overlooks that s depends on x only through F, so that by the chain rule
∂s/∂x = (∂s/∂F)(∂F/∂x): the gate's term must go to zero with ∂F/∂x. Here that is not
argued but measured, as the slope of its size when F shrinks: to zero, and to a constant
(only ∂F/∂x goes to zero, as the sentence has it). Each is a kind of evidence.
"""

from __future__ import annotations

from tinyflow.flow.claims.bench import Bench
from tinyflow.flow.claims.blocks import HALF, closures, from_differences, largest
from tinyflow.flow.claims.shrink import Shrink
from tinyflow.flow.claims.table import Decider, Found, claim
from tinyflow.flow.claims.verdict import Case, median, medians, subsets
from tinyflow.flow.probe import TOLERANCE

REMAINS = 1e-6  # relative size below which nothing is left of a term


@claim(
    "noh3-equation",
    source="Noh 2021, eq. 3",
    statement="∂L/∂x = ∂L/∂H × (∂s/∂x · F + s · ∂F/∂x + 1), 1 read as the shortcut's Sᵀ"
    "",
    quantity="conservation error of shortcut + gain + gate, three pullbacks of their "
    "own; and error against a finite difference, every block; satisfied within the "
    "tolerance",
)
def gate_equation(bench: Bench) -> Found:
    """Noh (3): shortcut, gain and gate, the product rule."""
    readings = bench.readings(*bench.setup.se)
    tolerance = TOLERANCE[bench.dtype]
    cases = [
        Case(
            r.setting,
            t.closure <= tolerance,
            {"closure": t.closure},
            {"kind": t.kind},
            "the terms add up",
        )
        for r in readings
        for t in r.terms
    ]
    cases += from_differences(bench.differences(*bench.setup.se))
    return Found(
        cases,
        closures(readings),
        [Decider("closure", tolerance), Decider("difference")],
        note=f"largest finite-difference error {largest(cases, 'difference'):z.1e}, in "
        f"float64 on {len(bench.labels[: bench.setup.exact_batch])} images",
    )


def limits(bench: Bench) -> list[tuple[str, Shrink]]:
    """The shrink test of the SE net, both ways to ∂F/∂x → 0."""
    names = bench.setup.se[:1]
    found = [("F goes to 0", s) for s in bench.shrunk(*names)]
    return found + [
        ("F goes to a constant", s) for s in bench.shrunk(*names, constant=True)
    ]


@claim(
    "noh3-limit",
    source="Noh 2021, after eq. 3",
    statement="∂L/∂H × (∂s/∂x · F) remains even if ∂F/∂x vanishes to 0",
    quantity="slope of log(‖gate term‖ / ‖g_H‖) against log ε, one block's F scaled by "
    f"ε, to 0 and to a constant; satisfied below {HALF}",
)
def gate_limit(bench: Bench) -> Found:
    """Noh's inference from (3): the gate's component remains as ∂F/∂x → 0."""
    runs = limits(bench)
    cases = []
    for goes, s in runs:
        for i in range(len(s.blocks)):
            slope = s.slope(i, "gate", "H")
            numbers = {"slope": slope, "slope_of_gain": s.slope(i, "gain", "H")}
            holds = slope < HALF
            cases.append(Case(s.setting(i), holds, numbers, {}, goes))
    return Found(
        cases,
        [s.closure for _, s in runs],
        [Decider("slope", HALF, by="evidence")],
        note=f"median slope of the gain {median(cases, 'slope_of_gain'):z.2f}",
        dtype="float64",
        batch=bench.setup.exact_batch,
    )


@claim(
    "noh3-component",
    source="Noh 2021, after eq. 3",
    statement="what remains as ∂F/∂x vanishes to 0, ∂s/∂x · F + 1, exceeds the 1 of a "
    "ResNet",
    quantity="excess ‖shortcut + gate‖ / ‖shortcut‖ - 1 as one block's F is scaled by "
    f"ε; satisfied if it is above {REMAINS:g} at the smallest ε and the slope of its "
    f"log is below {HALF}",
)
def gate_component(bench: Bench) -> Found:
    """The component (∂s/∂x · F + 1) against ResNet's 1, in the limit he speaks of."""
    runs = limits(bench)
    cases = []
    for goes, s in runs:
        for i, norms in enumerate(s.norms):
            slope, first, *_, left = s.slope(i, "excess"), *norms["excess"]
            numbers = {"excess": left, "excess_at_1": first, "slope": slope}
            holds = left > REMAINS and slope < HALF
            cases.append(Case(s.setting(i), holds, numbers, {}, goes))
    return Found(
        cases,
        [s.closure for _, s in runs],
        [Decider("slope", HALF, by="evidence")],
        note=f"median excess at ε = 1 {median(cases, 'excess_at_1'):z.2g}, at the "
        f"smallest ε {medians(cases, 'excess', by='evidence')}",
        dtype="float64",
        batch=bench.setup.exact_batch,
    )


@claim(
    "noh3-first-layer",
    source="Noh 2021, sections 4 and 5",
    statement="SE-ResNet overcomes the vanishing gradient more effectively than ResNet",
    quantity="‖∂L/∂W‖ of the first layer, where the gradient vanishes in the ResNet "
    "(growth below 1); satisfied if SE-ResNet's is at least ResNet's of that depth and "
    "seed",
)
def gate_against_residual(bench: Bench) -> Found:
    """SE against ResNet of the same depth and seed, at the first layer."""
    cases, seen = [], []
    for name in bench.setup.se:
        bare = name.removeprefix("se_")
        if bare not in bench.setup.residual:
            continue
        gated, simple = bench.readings(name), bench.readings(bare)
        seen += [*gated, *simple]
        for g, r in zip(gated, simple, strict=False):
            numbers = {
                "weight_over_resnet": g.weight / (r.weight or 1.0),
                "growth": g.growth,
                "growth_of_resnet": r.growth,
            }
            cases.append(
                Case(
                    g.setting,
                    g.weight >= r.weight,
                    numbers,
                    excluded=""
                    if r.growth < 1
                    else "no gradient vanishes in the ResNet",
                )
            )
    return Found(
        cases,
        closures(seen),
        [Decider("weight_over_resnet", 1.0, by="model", factor=True)],
        subsets(cases, "model", "the net"),
        note="median ratio of the first layer's gradient, whether it vanishes or not, "
        f"{median(cases, 'weight_over_resnet'):z.2f}; on its way from the last map to "
        f"the first block the gradient grew {median(cases, 'growth'):z.3g} times, in "
        f"ResNet {median(cases, 'growth_of_resnet'):z.3g} times",
    )
