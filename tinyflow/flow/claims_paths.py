"""Claims about many blocks together: Quadir, Veit et al., De & Smith."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tinyflow.flow.claims_bench import Bench, Reading
from tinyflow.flow.claims_blocks import PLACE, closures
from tinyflow.flow.claims_verdict import Case, Claim, median, medians, subsets
from tinyflow.flow.paths import Spectrum

MOST = 0.95  # "almost all", "the full gradient", "is the identity"
LINEAR = 0.9  # R² above which a fall counts as exponential
VEIT_BLOCKS, VEIT_SHORT, VEIT_LONG = 54, 5, 17


def relu_identity(bench: Bench) -> Claim | None:
    """Quadir (3): f is ReLU, so f(y) = y."""
    readings = bench.readings(*bench.setup.residual)
    cases = [
        Case(
            r.setting,
            t.mask >= MOST,
            {"mask": t.mask, "place": i / max(len(r.terms) - 1, 1)},
        )
        for r in readings
        for i, t in enumerate(r.terms)
        if t.mask is not None
    ]
    return bench.settle(
        "quadir-relu",
        "Quadir 2019, before eq. 3",
        "f is ReLU, so f(y) = y after the addition",
        f"share of H's entries above 0, per block; satisfied from {MOST}",
        cases,
        closures(readings),
        features={"place": PLACE},
        note=f"median share {median(cases, 'mask'):z.3f}, largest "
        f"{max((c.numbers['mask'] for c in cases), default=0.0):z.3f}",
    )


def full_gradient(bench: Bench) -> Claim | None:
    """Quadir (7): the shortcuts pass the full ∂L/∂x_L to the first layer."""
    readings = bench.readings(*bench.setup.residual)
    cases = []
    for r in readings:
        if r.shortcuts is None:
            continue
        size, share = r.shortcuts
        arrives = size / (r.last or math.inf)
        numbers = {
            "arrives": arrives,
            "c_0_over_g": size / (r.first or math.inf),
            "share": share,
            "model": r.model,
        }
        cases.append(Case(r.setting, arrives >= MOST, numbers))
    return bench.settle(
        "quadir-full",
        "Quadir 2019, eqs. 5 to 7",
        "through the shortcuts the full gradient ∂L/∂x_L is passed to the first layer",
        "‖c_0‖ / ‖g_L‖: the gradient that reached the first block by shortcuts alone, "
        f"over the gradient at the last map; satisfied from {MOST}",
        cases,
        closures(readings),
        conditions=subsets(cases, "model", "the net"),
        note=f"median ‖c_0‖/‖g_L‖ {median(cases, 'arrives'):z.3f}, ‖c_0‖/‖g‖ "
        f"{median(cases, 'c_0_over_g'):z.2g}, signed share "
        f"{median(cases, 'share'):z.2g}",
    )


def veit_range(blocks: int) -> tuple[int, int]:
    """Veit's 5 to 17 of 54 modules; of any other number, scaled."""
    return (
        round(blocks * VEIT_SHORT / VEIT_BLOCKS),
        round(blocks * VEIT_LONG / VEIT_BLOCKS),
    )


def _spectra(bench: Bench) -> list[tuple[str, Spectrum]]:
    return [
        (f"{name}/{bench.seed(i)}", s)
        for name in bench.setup.paths
        for i, s in enumerate(bench.spectra(name))
    ]


def short_paths(bench: Bench) -> Claim | None:
    """Veit et al.: almost all gradient comes along paths of 5 to 17 modules."""
    cases, spectra = [], _spectra(bench)
    for setting, s in spectra:
        low, high = veit_range(s.blocks)
        share, estimate = s.share_between(low, high), sum(s.veit)
        numbers = {
            "share": share,
            "veit_share": sum(s.veit[low : high + 1]) / (estimate or 1.0),
            "veit_over_exact": estimate / (sum(s.norms) or 1.0),
            "mean_length": s.mean_length(),
            "paths_in_range": sum(s.paths[low : high + 1]) / 2**s.blocks,
            "range": f"{low} to {high} of {s.blocks}"
            + ("" if s.blocks == VEIT_BLOCKS else " (scaled)"),
        }
        cases.append(Case(setting, share >= MOST, numbers))
    return bench.settle(
        "veit-short-paths",
        "Veit et al. 2016",
        "almost all gradient of a trained ResNet-110 comes along paths of 5 to 17 of "
        "its 54 modules",
        "exact signed share of those lengths, the range scaled to the number of blocks "
        f"(only 54 is the paper's own); satisfied from {MOST}",
        cases,
        [s.closure for _, s in spectra],
        conditions=subsets(cases, "range", "the range"),
        note=f"median share {median(cases, 'share'):z.2f}, by the count × mean norm of "
        f"the paper {median(cases, 'veit_share'):z.2f}; those norms add up to "
        f"{median(cases, 'veit_over_exact'):z.3g} times the exact ones; mean lengths "
        + ", ".join(f"{s.mean_length():z.1f} of {s.blocks}" for _, s in spectra),
        batch=bench.setup.path_batch,
    )


def path_decay(bench: Bench) -> Claim | None:
    """Veit et al.: a path's gradient falls exponentially with its length."""
    cases, spectra = [], _spectra(bench)
    for setting, s in spectra:
        each = [v / n for v, n in zip(s.veit, s.paths, strict=True)]
        slope, fit = line([(k, math.log10(v)) for k, v in enumerate(each) if v > 0])
        numbers = {"decades_per_module": slope, "R2": fit, "blocks": s.blocks}
        cases.append(Case(setting, slope < 0 and fit >= LINEAR, numbers))
    return bench.settle(
        "veit-decay",
        "Veit et al. 2016",
        "the gradient of a single path falls exponentially with its length",
        "slope and R² of log₁₀(mean norm of sampled paths) against length; satisfied "
        f"if it falls with R² ≥ {LINEAR}",
        cases,
        [s.closure for _, s in spectra],
        conditions=subsets(cases, "blocks", "the number of blocks"),
        note=f"median {median(cases, 'decades_per_module'):z.3f} decades per module, "
        f"R² {median(cases, 'R2'):z.3f}",
        batch=bench.setup.path_batch,
    )


def line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope and R² of the least-squares line; NaN below three points."""
    if len(points) < 3:
        return math.nan, math.nan
    x, y = np.array(points, dtype=float).T
    slope, height = np.polyfit(x, y, 1)
    spread = float(((y - y.mean()) ** 2).sum())
    rest = float(((y - slope * x - height) ** 2).sum())
    return float(slope), 1 - rest / spread if spread else math.nan


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
            for start, place in (("its stage", places[stage]), ("the stem", i + 1)):
                point = math.log(place), math.log(size)
                points.setdefault((stage, start), []).append(point)
    return [(*key, *line(found)) for key, found in points.items()]


def _law(
    bench: Bench,
    identity: str,
    statement: str,
    quantity: str,
    expected: float,
    tolerance: float,
    measured: Callable[[Reading], list[float]],
) -> Claim | None:
    readings = bench.readings(*bench.setup.deep)
    cases = []
    for r in readings:
        for stage, start, exponent, fit in power_laws(r, measured(r)):
            near = abs(exponent - expected) <= tolerance
            where = f"{stage} from {start}"
            numbers = {
                "exponent": exponent,
                "R2": fit,
                "stage": stage,
                "from": start,
                "where": where,
            }
            cases.append(Case(f"{r.model}:{where}/{r.seed}", near, numbers))
    return bench.settle(
        identity,
        "De & Smith 2020",
        statement,
        f"exponent of {quantity} ∝ l^α over the identity blocks of a stage, l counted "
        f"from 1 at its first block, and at the stem; satisfied within {tolerance} of "
        f"{expected}",
        cases,
        closures(readings),
        conditions=[
            *subsets(cases, "from", "the place that l is counted from"),
            *subsets(cases, "stage", "the stage"),
            *subsets(cases, "where", "the stage, and where l is counted from,"),
        ],
        note=f"median exponent {medians(cases, 'exponent', by='where')}; R² "
        f"{median(cases, 'R2'):z.2f}",
    )


def damped_gradient(bench: Bench) -> Claim | None:
    """De & Smith: batch normalisation damps the residual branch by √depth."""

    def measured(r: Reading) -> list[float]:
        return [t.norms["residual"] / (t.norms["H"] or math.inf) for t in r.terms]

    return _law(
        bench,
        "desmith-gradient",
        "at initialisation the residual branch is damped by a factor of order √depth",
        "‖g_res‖/‖g_H‖",
        -0.5,
        0.2,
        measured,
    )


def damped_variance(bench: Bench) -> Claim | None:
    """The same in the forward pass."""

    def measured(r: Reading) -> list[float]:
        return [of_f / (of_x or math.inf) for of_x, of_f in r.variances]

    return _law(
        bench,
        "desmith-variance",
        "at initialisation the residual branch carries 1/l of the variance in block l",
        "Var F / Var x",
        -1.0,
        0.3,
        measured,
    )
