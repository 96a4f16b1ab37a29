"""Claims about dense blocks, Noh's equations (4) to (6), and the order of four nets.

Tested of (4) and (5): the gradient of each map is the sum of what later maps send back,
with partial Jacobians; and what becomes of that sum with the derivative of one argument
by another kept, as (5) prints it. Not tested: the recursion (4) as printed, which
concatenates maps that are contained in one another, since no network is built so.
"""

from __future__ import annotations

import math
import statistics

from tinyflow.flow.claims_bench import Bench
from tinyflow.flow.claims_blocks import closures
from tinyflow.flow.claims_verdict import Case, Claim, median, subsets
from tinyflow.flow.probe import TOLERANCE

LAW = 0.15  # accepted distance of an exponent from ½
ALIKE = 0.8  # N_eff / m above which contributions count as equal


def dense_sum(bench: Bench) -> Claim | None:
    """(4), (5) with partial Jacobians: contributions add up to ∂L/∂x_j."""
    readings = bench.readings(*bench.setup.dense)
    tolerance = TOLERANCE[bench.dtype]
    cases = []
    for r in readings:
        found = [d.closure for d in r.dense] + [s.closure for s in r.sums]
        cases += [Case(r.setting, c <= tolerance, {"closure": c}) for c in found]
    return bench.settle(
        "noh5-sum",
        "Noh 2021, eqs. 4 and 5, read with partial derivatives",
        "∂L/∂x_j is the sum of what every later map sends back",
        "‖g_j - Σ_l c_{l→j}‖ / ‖g_j‖, by edges in every block, by pullback for two "
        "maps of the first; satisfied within the tolerance",
        cases,
        closures(readings),
        note=f"largest {max((c.numbers['closure'] for c in cases), default=0.0):z.1e}",
    )


def dense_printed(bench: Bench) -> Claim | None:
    """(5) as printed, with ∂x_{l-1}/∂x_0 besides ∂F_l/∂x_0."""
    readings = bench.readings(*bench.setup.dense)
    tolerance = TOLERANCE[bench.dtype]
    cases = [
        Case(
            f"{r.model}:{s.name}/{r.seed}",
            s.excess <= tolerance,
            {"excess": s.excess, "factor": s.factor, "later": s.later},
        )
        for r in readings
        for s in r.sums
    ]
    return bench.settle(
        "noh5-printed",
        "Noh 2021, eq. 5 as printed",
        "the same sum, keeping ∂x_i/∂x_j between the maps as well",
        "‖Σ_l (total ∂x_l/∂x_j)ᵀ g_l + tail - g_j‖ / ‖g_j‖ in the first block; "
        "satisfied within the tolerance",
        cases,
        closures(readings),
        note=f"counts {median(cases, 'factor'):z.2f} times the gradient (median), "
        f"error {median(cases, 'excess'):z.2f} of it",
    )


def dense_bound(bench: Bench) -> Claim | None:
    """(6): ‖g_x‖ ≥ ‖g_H‖ √l at layer l of a dense block."""
    readings = bench.readings(*bench.setup.dense)
    cases = []
    for r in readings:
        for d in r.dense:
            for layer in range(1, len(d.state_norms)):
                before, after = d.state_norms[layer - 1], d.state_norms[layer]
                kept = math.sqrt(max(after**2 - d.totals[layer] ** 2, 0.0))
                gain = before / (after or 1.0)
                numbers = {
                    "l": layer,
                    "ratio": gain,
                    "without_F": kept / (after or 1.0),
                    "ratio_over_bound": gain / math.sqrt(layer),
                }
                cases.append(
                    Case(r.setting, gain >= math.sqrt(layer) * (1 - 1e-6), numbers)
                )
    most = max((c.numbers["without_F"] for c in cases), default=0.0)
    return bench.settle(
        "noh6-bound",
        "Noh 2021, eq. 6",
        "‖∂L/∂x‖ ≥ ‖∂L/∂H‖ √l in the l-th layer of a dense block",
        "‖g_x‖ / ‖g_H‖ of the concatenated state before and after layer l; satisfied "
        "if at least √l",
        cases,
        closures(readings),
        features={"l": "l"},  # which the statement names
        note=f"median ratio {median(cases, 'ratio'):z.3f}, which is "
        f"{median(cases, 'ratio_over_bound'):z.2f} of the bound; with ∂F/∂x = 0 it "
        f"would be at most {most:z.3f}",
    )


def dense_law(bench: Bench) -> Claim | None:
    """A √l law in substance: ‖g_j‖ ∝ m^½ from m equal contributions."""
    readings = bench.readings(*bench.setup.dense)
    cases = []
    for r in readings:
        for d in r.dense:
            pairs = list(zip(d.effective, d.readers, strict=True))
            alike = statistics.median(n / m for n, m in pairs if m > 1)
            numbers = {
                "alpha": d.exponent,
                "N_eff_over_m": alike,
                "coherence": statistics.median(d.coherence),
                "block": (block := d.name.rpartition(".")[2]),
            }
            law = abs(d.exponent - 0.5) <= LAW and alike >= ALIKE
            cases.append(Case(f"{r.model}:{block}/{r.seed}", law, numbers))
    return bench.settle(
        "noh6-law",
        "Noh 2021, eq. 6, in substance",
        "a map read by m later layers receives √m times the gradient",
        "exponent α of ‖g_j‖ per entry ∝ m^α within a block, and N_eff/m; satisfied if "
        f"|α - ½| ≤ {LAW} and N_eff/m ≥ {ALIKE}",
        cases,
        closures(readings),
        conditions=subsets(cases, "block", "the block"),
        note=f"median α {median(cases, 'alpha'):z.2f}, N_eff/m "
        f"{median(cases, 'N_eff_over_m'):z.2f}, coherence "
        f"{median(cases, 'coherence'):z.2f} (1 if contributions are orthogonal)",
    )


def order_of_four(bench: Bench) -> Claim | None:
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
                "pair": f"{better} over {worse}",
            }
            setting = f"{better} over {worse}/{a.seed}"
            cases.append(Case(setting, a.growth >= b.growth, numbers))
    growth = {
        name: statistics.median(r.growth for r in bench.readings(name))
        for name in bench.setup.four
    }
    ranked = sorted(growth, key=growth.__getitem__, reverse=True)
    entry = statistics.fmean(c.numbers["ratio_per_entry"] >= 1 for c in cases)
    return bench.settle(
        "noh-order",
        "Noh 2021, sections 4 and 5",
        "DenseNet and SE-ResNet overcome the vanishing gradient more effectively than "
        "ResNet, ResNet more than VGG",
        "growth, ‖g‖ at the first block's input over ‖g‖ at the last map; satisfied if "
        "the first of a pair has at least the growth of the second",
        cases,
        closures(seen),
        conditions=subsets(cases, "pair", "the pair"),
        note="median growth "
        + " > ".join(f"{name} {growth[name]:z.3g}" for name in ranked)
        + f"; per entry true in {entry:.0%}",
    )
