"""Quadir's claims (2019), on his own networks, without normalisation, and on He's.

Where a claim is true of one and not of the other, the network is a condition: his own
is what he speaks of, He's is what everybody trains.
"""

from __future__ import annotations

import math

from tinyflow.flow.claims.bench import Bench
from tinyflow.flow.claims.blocks import PLACE, closures, largest
from tinyflow.flow.claims.nets import OWN
from tinyflow.flow.claims.paths import MOST
from tinyflow.flow.claims.table import Decider, Found, claim
from tinyflow.flow.claims.verdict import Case, Condition, median, medians
from tinyflow.flow.probe import TOLERANCE

HIS = Condition("the net is his own, without normalisation", lambda given: given["own"])


def nets(bench: Bench) -> tuple[str, ...]:
    """His residual net and He's."""
    return (*bench.setup.quadir[:1], *bench.setup.residual)


@claim(
    "quadir-relu",
    source="Quadir 2019, before eq. 3",
    statement="f is ReLU, so f(y) = y after the addition",
    quantity=f"share of H's entries above 0, per block; satisfied from {MOST}",
)
def relu_identity(bench: Bench) -> Found:
    """Quadir (3): f is ReLU, so f(y) = y."""
    readings = bench.readings(*nets(bench))
    cases = [
        Case(
            r.setting,
            t.mask >= MOST,
            {"mask": t.mask},
            {"own": r.model in OWN, "place": i / max(len(r.terms) - 1, 1)},
        )
        for r in readings
        for i, t in enumerate(r.terms)
        if t.mask is not None
    ]
    return Found(
        cases,
        closures(readings),
        [Decider("mask", MOST, by="model")],
        [HIS],
        {"place": PLACE},
        note=f"largest share {largest(cases, 'mask'):z.3f}",
    )


@claim(
    "quadir-full",
    source="Quadir 2019, eqs. 5 to 7",
    statement="through the shortcuts the full gradient ∂L/∂x_L is passed to the first "
    "layer",
    quantity="‖c_0‖ / ‖g_L‖: the gradient that reached the first block by shortcuts "
    f"alone, over the gradient at the last map; satisfied from {MOST}",
)
def full_gradient(bench: Bench) -> Found:
    """Quadir (7): the shortcuts pass the full ∂L/∂x_L to the first layer."""
    readings = bench.readings(*nets(bench))
    cases = []
    for r in readings:
        if r.shortcuts is None:
            continue
        size, share = r.shortcuts
        arrives = size / (r.last or math.inf)
        numbers = {
            "arrives": arrives,
            "c_0_over_g": size / (r.first or math.inf),
            "signed_share": share,
        }
        cases.append(Case(r.setting, arrives >= MOST, numbers, {"own": r.model in OWN}))
    return Found(
        cases,
        closures(readings),
        [Decider("arrives", MOST, by="model")],
        [HIS],
        note=f"‖c_0‖/‖g‖ {medians(cases, 'c_0_over_g', by='model')}; median signed "
        f"share {median(cases, 'signed_share'):z.2g}",
    )


@claim(
    "quadir-sum",
    source="Quadir 2019, eq. 5",
    statement="x_L = x_1 + Σ F(x_i, W_i)",
    quantity="‖x_L - x_1 - Σ F‖ / ‖x_L‖ over every run of blocks with identity "
    "shortcuts; satisfied within the tolerance",
)
def telescoped(bench: Bench) -> Found:
    """Quadir (5): values add up along the shortcuts. He has a ReLU behind each."""
    readings = bench.readings(*bench.setup.quadir, *bench.setup.residual)
    tolerance = TOLERANCE[bench.dtype]
    cases = [
        Case(
            f"{r.model}:{run.first}/{r.unit}",
            run.error <= tolerance,
            {"error": run.error},
            {"blocks": run.blocks, "relu": run.relu, "own": r.model in OWN},
        )
        for r in readings
        for run in r.runs
    ]
    return Found(
        cases,
        closures(readings),
        [Decider("error", tolerance, by="model")],
        [Condition("no ReLU follows the addition", lambda g: not g["relu"]), HIS],
        note="quadir_sum is his net without the ReLU after the addition",
    )
