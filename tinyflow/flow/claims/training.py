"""Claims that need training, or published error rates: convergence, flow and error."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from tinyflow.flow.claims.bench import Bench
from tinyflow.flow.claims.blocks import closures
from tinyflow.flow.claims.counts import ERRORS
from tinyflow.flow.claims.table import Decider, Found, claim
from tinyflow.flow.claims.verdict import CHANCE, Case
from tinyflow.flow.stats import rank_correlation

PAIRS = {
    "Quadir's own pair": ("quadir_resnet", "quadir_cnn"),
    "He's pair": ("resnet20", "plain20"),
}
LAST = 5  # the last fifth of a curve, over which losses are averaged

# Published error rates by table, that is by recipe: of different ones the errors cannot
# be compared. Test error on CIFAR-10 (He et al. 2016, Table 6; Noh's Figure 5), and
# top-1 error on ImageNet (Noh's Tables 1 and 2).
TABLES = {
    "CIFAR ResNets": {
        "resnet20": 8.75,
        "resnet32": 7.51,
        "resnet44": 7.17,
        "resnet56": 6.97,
        "resnet110": 6.43,
    },
    "Table 1": {n: ERRORS[n] for n in ("plain18", "plain34", "resnet18", "resnet34")},
    "Table 2": {
        f"{kind}{depth}": ERRORS[f"{kind}{depth}"]
        for kind in ("resnet", "se_resnet")
        for depth in (50, 101, 152)
    },
}


@claim(
    "noh-error",
    source="Noh 2021, research question 2",
    statement="the more of the gradient arrives at the first layers of a network, the "
    "lower is its error rate",
    quantity="Spearman's rank correlation of published error and growth (‖g‖ at the "
    "first block's input over ‖g‖ at the last map, at initial weights, 32 pixels), per "
    f"table; satisfied if negative and an order by chance does so in at most "
    f"{CHANCE:.0%}",
    fresh=True,
)
def flow_against_error(bench: Bench) -> Found:
    """Research question 2, as far as growth at initial weights goes."""
    cases = []
    for table in bench.setup.tables:
        flows: dict[str, dict[str, float]] = {}
        for name, unit, growth, _ in bench.flows(*TABLES[table]):
            flows.setdefault(unit, {})[name] = growth
        for unit, growths in flows.items():
            errors = [TABLES[table][name] for name in growths]
            rho, p = rank_correlation(list(growths.values()), errors)
            numbers = {"correlation": rho, "p": p, "nets": len(errors)}
            holds = rho < 0 and p <= CHANCE
            cases.append(Case(f"{table}/{unit}", holds, numbers, {}, table))
    nets = ", ".join(f"{t} {len(TABLES[t])}" for t in bench.setup.tables)
    return Found(
        cases,
        decide=[Decider("correlation", 0.0, by="evidence")],
        note=f"networks: {nets}; so few that only a nearly perfect order is no chance",
    )


@claim(
    "quadir-convergence",
    source="Quadir 2019, overview and results",
    statement="a residual net converges faster than a plain one",
    quantity="training loss over the last fifth of the steps, residual less plain, the "
    "same batches, per pair; satisfied below 0",
)
def faster(bench: Bench) -> Found | None:
    """Quadir: his ResNet needs fewer epochs than his CNN."""
    cases, steps = [], 0
    for kind, (residual, plain) in PAIRS.items():
        if residual not in bench.curves or plain not in bench.curves:
            continue
        both = zip(bench.curves[residual], bench.curves[plain], strict=False)
        for i, (a, b) in enumerate(both):
            steps = len(a)
            numbers = {
                "difference": end_of(a) - end_of(b),
                "loss": end_of(a),
                "loss_of_plain": end_of(b),
            }
            seed = bench.seeds[i] if i < len(bench.seeds) else i
            holds = numbers["difference"] < 0
            cases.append(Case(f"{residual}/{seed}", holds, numbers, {}, kind))
    return Found(
        cases,
        decide=[Decider("difference", 0.0, by="evidence")],
        note=f"after {steps} steps",
        dtype="float32",
    )


def end_of(curve: Sequence[float]) -> float:
    """Mean of the last fifth of a curve, of one value at least."""
    return statistics.fmean(curve[-max(1, len(curve) // LAST) :])


@claim(
    "noh-response",
    source="Noh 2021, section 4, from He et al. 2016",
    statement="the standard deviation of the layer response, the output of the 3x3 "
    "layer of ResNet, is less than 1",
    quantity="standard deviation behind each normalised 3x3 convolution, before ReLU "
    "and addition; satisfied below 1",
)
def responses(bench: Bench) -> Found:
    """He et al.'s Figure 7, which prints no such number."""
    readings = bench.readings(*bench.setup.residual)
    fixed = (
        "" if bench.mode == "trained" else "at initial weights normalisation sets it"
    )
    cases = [
        Case(r.setting, s < 1, {"deviation": s}, {}, "", fixed)
        for r in readings
        for s in r.responses
        if not math.isnan(s)
    ]
    return Found(cases, closures(readings), [Decider("deviation", 1.0, by="model")])
