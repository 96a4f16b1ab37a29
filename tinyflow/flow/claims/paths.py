"""Claims about single paths and their lengths: Veit et al. (2016).

At most 512 paths are all looked at; of more, some of each length, and what that leaves
open is said: a fit that the choice of paths could turn decides nothing.
"""

from __future__ import annotations

import math

import numpy as np

from tinyflow.flow.claims.bench import Bench
from tinyflow.flow.claims.table import Decider, Found, claim
from tinyflow.flow.claims.verdict import Case, medians
from tinyflow.flow.paths import Spectrum
from tinyflow.flow.stats import line

MOST = 0.95  # "almost all", "the full gradient", "is the identity"
LINEAR = 0.9  # R² from which a fall counts as exponential
VEIT_BLOCKS, VEIT_SHORT, VEIT_LONG = 54, 5, 17
RESAMPLES = 400


@claim(
    "veit-short-paths",
    source="Veit et al. 2016",
    statement="almost all gradient of a trained ResNet-110 comes along paths of 5 to "
    "17 of its 54 modules",
    quantity="exact signed share of those lengths in a net of 54 modules; satisfied "
    f"from {MOST}",
)
def short_paths(bench: Bench) -> Found:
    """Veit et al.: almost all gradient comes along paths of 5 to 17 modules."""
    cases, spectra = [], bench.spectra(*bench.setup.paths)
    for setting, s in spectra:
        share, estimate = s.share_between(VEIT_SHORT, VEIT_LONG), sum(s.veit)
        of_estimate = sum(s.veit[VEIT_SHORT : VEIT_LONG + 1]) / (estimate or 1.0)
        numbers = {
            "share_of_5_to_17": share,
            "share_by_count_times_mean": of_estimate,
            "mean_length": s.mean_length(),
        }
        other = "the range is one of 54 modules, and there are " + str(s.blocks)
        excluded = "" if s.blocks == VEIT_BLOCKS else other
        given = {"blocks": s.blocks}
        cases.append(Case(setting, share >= MOST, numbers, given, "", excluded))
    return Found(
        cases,
        [s.closure for _, s in spectra],
        [Decider("share_of_5_to_17", MOST)],
        note=f"mean length: {medians(cases, 'mean_length', by='blocks')}; share of 5 "
        "to 17 by the paper's count × mean norm: "
        f"{medians(cases, 'share_by_count_times_mean', by='blocks')}",
        batch=bench.setup.path_batch,
    )


@claim(
    "veit-decay",
    source="Veit et al. 2016",
    statement="the gradient of a single path falls exponentially with its length",
    quantity="R² of log₁₀(mean norm of single paths) against length; satisfied if it "
    f"falls with R² ≥ {LINEAR}",
)
def path_decay(bench: Bench) -> Found:
    """Veit et al.: a path's gradient falls exponentially with its length."""
    cases, spectra = [], bench.spectra(*bench.setup.paths)
    for setting, s in spectra:
        slope, fit = decay(s.singles)
        low, high = decay_range(s.singles, s.paths)
        numbers = {
            "decades_per_module": slope,
            "R2": fit,
            "R2_low": low,
            "R2_high": high,
            "paths": sum(map(len, s.singles)),
        }
        holds = slope < 0 and fit >= LINEAR
        sure = not low < LINEAR <= high
        excluded = "" if sure else "the paths looked at leave the side of R² open"
        given = {"blocks": s.blocks}
        cases.append(Case(setting, holds, numbers, given, "", excluded))
    return Found(
        cases,
        [s.closure for _, s in spectra],
        [
            Decider("R2", LINEAR, by="blocks"),
            Decider("decades_per_module", by="blocks"),
        ],
        features={"blocks": "the number of modules"},
        note=f"paths looked at: {medians(cases, 'paths', by='blocks', digits=3)}",
        batch=bench.setup.path_batch,
    )


def decay(singles: list[list[float]]) -> tuple[float, float]:
    """Decades per module and R² of the mean norms of single paths."""
    means = [float(np.mean(found)) for found in singles]
    return line([(k, math.log10(v)) for k, v in enumerate(means) if v > 0])


def decay_range(singles: list[list[float]], paths: list[int]) -> tuple[float, float]:
    """What R² the choice of paths leaves open: 95 %, (R², R²) if none was left out.

    A basic bootstrap over the paths of each length that were drawn.
    """
    fit = decay(singles)[1]
    drawn = [len(s) < n for s, n in zip(singles, paths, strict=True)]
    if not any(drawn):
        return fit, fit
    rng = np.random.default_rng(0)
    again = []
    for _ in range(RESAMPLES):
        other = [
            rng.choice(s, len(s)).tolist() if some else s
            for s, some in zip(singles, drawn, strict=True)
        ]
        again.append(decay(other)[1])
    low, high = np.quantile(again, (0.025, 0.975))
    return 2 * fit - float(high), min(1.0, 2 * fit - float(low))


@claim(
    "veit-count",
    source="Veit et al. 2016",
    statement="the gradient along all paths of a length is their number times the mean "
    "norm of one",
    quantity="‖c_k‖ / (C(L, k) × mean norm of a path), per length with more than one "
    f"path; satisfied from {MOST}",
)
def path_count(bench: Bench) -> Found:
    """Veit et al.'s estimate, which is right if all paths of a length are aligned."""
    cases, spectra = [], bench.spectra(*bench.setup.paths)
    for setting, s in spectra:
        for k in s.lengths:
            if s.paths[k] > 1 and s.veit:
                part = s.norms[k] / (s.veit[k] or math.inf)
                numbers = {"of_estimate": part, "coherence": s.coherence[k]}
                given = {"length": k, "blocks": s.blocks}
                cases.append(Case(setting, part >= MOST, numbers, given))
    return Found(
        cases,
        [s.closure for _, s in spectra],
        [Decider("of_estimate", MOST, by="blocks"), Decider("coherence", by="blocks")],
        features={"length": "the length"},
        note="coherence: ‖c_k‖ / √Σ‖path‖², 1 if the paths of a length are orthogonal; "
        f"largest {largest_of(spectra):z.2f}",
        batch=bench.setup.path_batch,
    )


def largest_of(spectra: list[tuple[str, Spectrum]]) -> float:
    """The largest coherence of any length."""
    found = [c for _, s in spectra for c in s.coherence if not math.isnan(c)]
    return max(found, default=math.nan)
