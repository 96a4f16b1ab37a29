"""Claims about dense blocks, Noh's equations (4) to (6), and the order of four nets.

Tested of (4) and (5): the gradient of each map is the sum of what later maps send back,
with partial Jacobians; and what becomes of that sum with the derivative of one argument
by another kept, as (5) prints it. Not tested: the recursion (4) as printed, which
concatenates maps that are contained in one another, since no network is built so.
"""

from __future__ import annotations

import math
import statistics

from tinyflow.flow.claims.bench import Bench
from tinyflow.flow.claims.blocks import closures, from_differences, largest
from tinyflow.flow.claims.table import Decider, Found, claim
from tinyflow.flow.claims.verdict import Case, median
from tinyflow.flow.probe import TOLERANCE

LAW = 0.15  # accepted distance of an exponent from ½
ALIKE = 0.8  # N_eff / m from which contributions count as equal
SLACK = 1e-6  # relative, where a bound is an equality


@claim(
    "noh5-sum",
    source="Noh 2021, eqs. 4 and 5, read with partial derivatives",
    statement="∂L/∂x_j is the sum of what every later map sends back",
    quantity="‖g_j - Σ_l c_{l→j}‖ / ‖g_j‖ with pullbacks of their own for two maps of "
    "the first block; and error of ‖g_0‖ of every block against a finite difference of "
    "the block; satisfied within the tolerance",
)
def dense_sum(bench: Bench) -> Found:
    """(4), (5) with partial Jacobians: contributions add up to ∂L/∂x_j."""
    readings = bench.readings(*bench.setup.dense)
    tolerance = TOLERANCE[bench.dtype]
    cases = [
        Case(
            r.setting,
            s.closure <= tolerance,
            {"closure": s.closure},
            {"map": s.name},
            "the contributions add up",
        )
        for r in readings
        for s in r.sums
    ]
    cases += from_differences(bench.differences(*bench.setup.dense))
    return Found(
        cases,
        closures(readings),
        [Decider("closure", tolerance), Decider("difference")],
        note=f"largest errors {largest(cases, 'closure'):z.1e} and "
        f"{largest(cases, 'difference'):z.1e}, the latter in float64 on "
        f"{len(bench.labels[: bench.setup.exact_batch])} images",
    )


@claim(
    "noh5-printed",
    source="Noh 2021, eq. 5 as printed",
    statement="the same sum, keeping ∂x_i/∂x_j between the maps as well",
    quantity="‖Σ_l (total ∂x_l/∂x_j)ᵀ g_l + tail - g_j‖ / ‖g_j‖ in the first block; "
    "satisfied within the tolerance",
)
def dense_printed(bench: Bench) -> Found:
    """(5) as printed, with ∂x_{l-1}/∂x_0 besides ∂F_l/∂x_0."""
    readings = bench.readings(*bench.setup.dense)
    tolerance = TOLERANCE[bench.dtype]
    cases = [
        Case(
            f"{r.model}:{s.name}/{r.unit}",
            s.excess <= tolerance,
            {"excess": s.excess, "factor": s.factor},
            {"later": s.later},
        )
        for r in readings
        for s in r.sums
    ]
    return Found(
        cases,
        closures(readings),
        [Decider("excess", tolerance)],
        note=f"counts {median(cases, 'factor'):z.2f} times the gradient (median)",
    )


@claim(
    "noh6-bound",
    source="Noh 2021, eq. 6",
    statement="‖∂L/∂x‖ ≥ ‖∂L/∂H‖ √l in the l-th layer of a dense block",
    quantity="‖g_x‖ / ‖g_H‖ of the concatenated state before and after layer l; "
    "satisfied if at least √l",
)
def dense_bound(bench: Bench) -> Found:
    """(6): ‖g_x‖ ≥ ‖g_H‖ √l at layer l of a dense block."""
    readings = bench.readings(*bench.setup.dense)
    cases = []
    for r in readings:
        for d in r.dense:
            for layer in range(1, len(d.state_norms)):
                before, after = d.state_norms[layer - 1], d.state_norms[layer]
                own = d.totals[layer] / (after or 1.0)
                kept = after * math.sqrt(max(1 - own * own, 0.0))
                gain = before / (after or 1.0)
                numbers = {
                    "ratio": gain,
                    "without_F": kept / (after or 1.0),
                    "ratio_over_bound": gain / math.sqrt(layer),
                }
                holds = gain >= math.sqrt(layer) * (1 - SLACK)
                cases.append(Case(r.setting, holds, numbers, {"l": layer}))
    return Found(
        cases,
        closures(readings),
        [Decider("ratio_over_bound", 1.0)],
        features={"l": "l"},  # which the statement names
        note=f"median ratio {median(cases, 'ratio'):z.3f}; with ∂F/∂x = 0 it would be "
        f"at most {largest(cases, 'without_F'):z.3f}",
    )


@claim(
    "noh6-law",
    source="Noh 2021, eq. 6, in substance",
    statement="a map read by m later layers receives √m times the gradient, from m "
    "equal contributions",
    quantity="exponent α of ‖g_j‖ per entry ∝ m^α within a block, satisfied if "
    f"|α - ½| ≤ {LAW}; and N_eff/m, median over its maps, satisfied from {ALIKE}",
)
def dense_law(bench: Bench) -> Found:
    """A √l law in substance: ‖g_j‖ ∝ m^½, and m equal contributions."""
    readings = bench.readings(*bench.setup.dense)
    cases = []
    for r in readings:
        for d in r.dense:
            given = {"block": (block := d.name.rpartition(".")[2])}
            setting = f"{r.model}:{block}/{r.unit}"
            if not math.isnan(d.exponent):
                numbers = {"alpha": d.exponent}
                near = abs(d.exponent - 0.5) <= LAW
                cases.append(Case(setting, near, numbers, given, "exponent"))
            pairs = zip(d.effective, d.readers, strict=True)
            alike = statistics.median(n / m for n, m in pairs if m > 1)
            numbers = {
                "N_eff_over_m": alike,
                "coherence": statistics.median(d.coherence),
            }
            cases.append(Case(setting, alike >= ALIKE, numbers, given, "likeness"))
    return Found(
        cases,
        closures(readings),
        [Decider("alpha", by="block"), Decider("N_eff_over_m", ALIKE)],
        note=f"coherence {median(cases, 'coherence'):z.2f} (1 if contributions are "
        "orthogonal)",
    )


@claim(
    "noh-order",
    source="Noh 2021, sections 4 and 5",
    statement="DenseNet and SE-ResNet overcome the vanishing gradient more effectively "
    "than ResNet, ResNet more than VGG",
    quantity="growth, ‖g‖ at the first block's input over ‖g‖ at the last map; "
    "satisfied if the first of a pair has at least the growth of the second, where the "
    "gradient vanishes in the second (growth below 1)",
)
def order_of_four(bench: Bench) -> Found | None:
    """DenseNet over ResNet, SE-ResNet over ResNet, ResNet over VGG."""
    if not bench.setup.four:
        return None
    vgg, residual, se, dense = bench.setup.four
    cases, seen = [], bench.readings(*bench.setup.four)
    for better, worse in ((residual, vgg), (se, residual), (dense, residual)):
        for a, b in zip(bench.readings(better), bench.readings(worse), strict=False):
            numbers = {
                "ratio": a.growth / (b.growth or 1.0),
                "ratio_per_entry": a.growth_rms / (b.growth_rms or 1.0),
            }
            cases.append(
                Case(
                    f"{better}/{a.unit}",
                    a.growth >= b.growth,
                    numbers,
                    evidence=f"{better} over {worse}",
                    excluded="" if b.growth < 1 else f"no gradient vanishes in {worse}",
                )
            )
    growth = {
        name: statistics.median(r.growth for r in bench.readings(name))
        for name in bench.setup.four
    }
    ranked = sorted(growth, key=growth.__getitem__, reverse=True)
    return Found(
        cases,
        closures(seen),
        [Decider("ratio", 1.0, by="evidence", factor=True)],
        note="median growth "
        + " > ".join(f"{name} {growth[name]:z.3g}" for name in ranked),
    )
