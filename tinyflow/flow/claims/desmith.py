"""Claims about the size of residual branches over depth: De & Smith (2020)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tinyflow.flow.claims.bench import Bench
from tinyflow.flow.claims.blocks import closures
from tinyflow.flow.claims.readings import Reading
from tinyflow.flow.claims.table import Decider, Found, claim
from tinyflow.flow.claims.verdict import Case, median, subsets
from tinyflow.flow.stats import line

NEAR_HALF, NEAR_ONE = 0.2, 0.3  # accepted distance of an exponent from -½, from -1

Points = list[tuple[float, float]]


def power_laws(
    r: Reading, sizes: Sequence[float]
) -> list[tuple[str, str, float, float]]:
    """Exponents α of sizes ∝ l^α, over the identity blocks of each stage.

    Returns:
        (stage, where l is counted from, α, R²). Within a stage l is counted from its
        first block; and, over all stages, from the stem. Blocks that change shape are
        counted but not fitted.
    """
    points: dict[tuple[str, str], Points] = {}
    places: dict[str, int] = {}
    for i, (t, size) in enumerate(zip(r.terms, sizes, strict=True)):
        stage = t.name.rpartition(".")[0]
        places[stage] = places.get(stage, 0) + 1
        if t.kind == "identity" and size > 0:
            counted = {"the stem": i + 1}
            if places[stage] != i + 1:  # in the first stage both are the same
                counted["its stage"] = places[stage]
            for start, place in counted.items():
                point = math.log(place), math.log(size)
                points.setdefault((stage, start), []).append(point)
    return [(*key, *line(found)) for key, found in points.items()]


Sizes = Callable[[Reading], list[float]]


def law(bench: Bench, expected: float, tolerance: float, sizes: Sizes) -> Found:
    """Cases and interval of one power law."""
    readings = bench.readings(*bench.setup.deep)
    cases = []
    for r in readings:
        for stage, start, exponent, fit in power_laws(r, sizes(r)):
            where = f"{stage} from {start}"
            cases.append(
                Case(
                    f"{r.model}:{where}/{r.unit}",
                    abs(exponent - expected) <= tolerance,
                    {"exponent": exponent, "R2": fit},
                    {"stage": stage, "from": start, "where": where},
                )
            )
    return Found(
        cases,
        closures(readings),
        [Decider("exponent", by="where")],
        [
            *subsets(cases, "from", "the place that l is counted from"),
            *subsets(cases, "stage", "the stage"),
        ],
        note=f"R² {median(cases, 'R2'):z.2f}",
    )


HOW = (
    "∝ l^α over the identity blocks of a stage, l counted from 1 at its first block, "
    "and at the stem (in the first stage the same); satisfied within"
)


@claim(
    "desmith-gradient",
    source="De & Smith 2020",
    statement="at initialisation the residual branch is damped by a factor of order "
    "√depth",
    quantity=f"exponent α of ‖g_res‖/‖g_H‖ {HOW} {NEAR_HALF} of -0.5",
)
def damped_gradient(bench: Bench) -> Found:
    """De & Smith: batch normalisation damps the residual branch by √depth."""

    def sizes(r: Reading) -> list[float]:
        return [t.norms["residual"] / (t.norms["H"] or math.inf) for t in r.terms]

    return law(bench, -0.5, NEAR_HALF, sizes)


@claim(
    "desmith-variance",
    source="De & Smith 2020",
    statement="at initialisation the residual branch carries 1/l of the variance in "
    "block l",
    quantity=f"exponent α of Var F / Var x {HOW} {NEAR_ONE} of -1",
)
def damped_variance(bench: Bench) -> Found:
    """The same in the forward pass."""

    def sizes(r: Reading) -> list[float]:
        return [of_f / (of_x or math.inf) for of_x, of_f in r.variances]

    return law(bench, -1.0, NEAR_ONE, sizes)
