"""Claims about squeeze-and-excitation: Noh's equation (3) and what he infers from it.

The inference overlooks that s depends on x only through F, so that by the chain rule
∂s/∂x = (∂s/∂F)(∂F/∂x): the gate's term must go to zero with ∂F/∂x. Here that is not
argued but measured, as the slope of its size when F shrinks.
"""

from __future__ import annotations

from tinyflow.flow.claims_bench import Bench
from tinyflow.flow.claims_blocks import HALF, closures, conserving, from_differences
from tinyflow.flow.claims_verdict import (
    Case,
    Claim,
    Condition,
    median,
    medians,
    subsets,
)


def gate_equation(bench: Bench) -> Claim | None:
    """Noh (3): shortcut, gain and gate, the product rule."""
    readings = bench.readings(*bench.setup.se)
    cases = conserving(bench, readings)
    cases += from_differences(bench.shrunk(*bench.setup.se[:1]))
    return bench.settle(
        "noh3-equation",
        "Noh 2021, eq. 3",
        "∂L/∂x = ∂L/∂H × (∂s/∂x · F + s · ∂F/∂x + 1), with 1 read as the shortcut's Sᵀ",
        "conservation error of shortcut + gain + gate, and error against a finite "
        "difference, per block; satisfied within the tolerance",
        cases,
        closures(readings),
        note=f"median finite-difference error {median(cases, 'difference'):z.1e}",
    )


def gate_limit(bench: Bench) -> Claim | None:
    """Noh's inference from (3): the gate's component remains as ∂F/∂x → 0."""
    names = bench.setup.se[:1]
    runs = [(s, "to 0") for s in bench.shrunk(*names)]
    runs += [(s, "to a constant") for s in bench.shrunk(*names, constant=True)]
    cases = []
    for s, goes in runs:
        for i in range(len(s.blocks)):
            slope = s.slope(i, "gate", "H")
            numbers = {"slope": slope, "gain": s.slope(i, "gain", "H"), "F": goes}
            cases.append(Case(s.setting(i, goes), slope < HALF, numbers))
    told = medians(cases, "slope", by="F")
    return bench.settle(
        "noh3-limit",
        "Noh 2021, after eq. 3",
        "∂L/∂H × (∂s/∂x · F) remains even if ∂F/∂x vanishes to 0",
        "slope of log(‖gate term‖ / ‖g_H‖) against log ε, one block's F scaled by ε; "
        f"satisfied below {HALF}",
        cases,
        [s.closure for s, _ in runs],
        conditions=subsets(cases, "F", "the limit of F"),
        note=f"median slope of the gate as F goes {told}; of the gain "
        f"{median(cases, 'gain'):z.2f}",
        dtype="float64",
        batch=bench.setup.shrink_batch,
    )


def gate_component(bench: Bench) -> Claim | None:
    """The component (∂s/∂x · F + 1) against ResNet's 1."""
    readings = bench.readings(*bench.setup.se)
    cases = []
    for r in readings:
        for t in r.terms:
            cosine = t.cosines["shortcut,gate"]
            shortcut, gate = t.norms["shortcut"], t.norms["gate"]
            numbers = {
                "cosine": 0.0 if cosine is None else cosine,
                "gate_over_shortcut": gate / (shortcut or 1.0),
                "gate_over_gain": gate / (t.norms["gain"] or 1.0),
                "kind": t.kind,
            }
            cases.append(Case(r.setting, t.flags["noh3"], numbers))
    return bench.settle(
        "noh3-component",
        "Noh 2021, after eq. 3",
        "what remains, ∂s/∂x · F + 1, exceeds the 1 of a ResNet",
        "‖shortcut + gate‖ ≥ ‖shortcut‖, per block",
        cases,
        closures(readings),
        conditions=[
            Condition(
                "cos(shortcut, gate) > -‖gate‖ / (2 ‖shortcut‖)",
                lambda n: n["cosine"] > -n["gate_over_shortcut"] / 2,
            )
        ],
        features={"cosine": "the cosine of shortcut and gate"},
        note=f"median ‖gate‖/‖shortcut‖ {median(cases, 'gate_over_shortcut'):z.2g}, "
        f"‖gate‖/‖gain‖ {median(cases, 'gate_over_gain'):z.2g}",
    )


def gate_against_residual(bench: Bench) -> Claim | None:
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
                "model": name,
            }
            cases.append(Case(g.setting, g.weight >= r.weight, numbers))
    return bench.settle(
        "noh3-first-layer",
        "Noh 2021, sections 4 and 5",
        "SE-ResNet overcomes the vanishing gradient more effectively than ResNet",
        "‖∂L/∂W‖ of the first layer; satisfied if SE-ResNet's is at least ResNet's of "
        "that depth and seed",
        cases,
        closures(seen),
        conditions=subsets(cases, "model", "the net"),
        note="median ratio of the first layer's gradient "
        f"{median(cases, 'weight_over_resnet'):z.2f}; on its way from the last map to "
        f"the first block the gradient grew {median(cases, 'growth'):z.3g} times, in "
        f"ResNet {median(cases, 'growth_of_resnet'):z.3g} times",
    )
