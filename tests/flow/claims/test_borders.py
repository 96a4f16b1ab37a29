"""Every threshold of the claims at its border, from both sides."""

import dataclasses
import math

import numpy as np
import pytest

from tinyflow.flow.blocks import Terms
from tinyflow.flow.claims import (
    blocks as claims_blocks,
)
from tinyflow.flow.claims import (
    counts as claims_counts,
)
from tinyflow.flow.claims import (
    dense as claims_dense,
)
from tinyflow.flow.claims import (
    desmith as claims_desmith,
)
from tinyflow.flow.claims import (
    gates as claims_gates,
)
from tinyflow.flow.claims import (
    paths as claims_paths,
)
from tinyflow.flow.claims import (
    quadir as claims_quadir,
)
from tinyflow.flow.claims import (
    training as claims_training,
)
from tinyflow.flow.claims.bench import (
    DIFFERENCES,
    FLOW,
    LOOKING,
    PATHS,
    SHRINKING,
    Bench,
)
from tinyflow.flow.claims.differences import Difference
from tinyflow.flow.claims.readings import Reading, Run
from tinyflow.flow.claims.setup import Setup
from tinyflow.flow.claims.shrink import EPSILONS, Shrink, excess
from tinyflow.flow.claims.sums import LayerSum
from tinyflow.flow.dense import DenseBlock
from tinyflow.flow.paths import Spectrum

NET = Setup(
    plain=("net",),
    vgg=(),
    residual=("net",),
    se=("se_net",),
    dense=("net",),
    paths=("net",),
    deep=("net",),
    four=("v", "net", "s", "d"),
    shrunk=("net",),
    quadir=(),
    tables=("Table 2",),
)
JUST = 1e-9  # how far from a border a number is put


def terms(**changes):
    found = Terms(
        name="layer1.0",
        kind="identity",
        shape=(1, 1, 1, 1),
        norms={"x": 1.0, "H": 1.0, "shortcut": 1.0, "residual": 1.0},
        ratio=1.0,
        shares={"shortcut": 0.5, "residual": 0.5},
        cosines={"shortcut,residual": 0.0},
        cancellation=0.7,
        mask=0.5,
        closure=0.0,
        flags={"noh2": True},
    )
    return dataclasses.replace(found, **changes)


def reading(**changes):
    found = Reading("net", "0", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, True)
    return dataclasses.replace(found, **changes)


def bench(kept, dtype="float32", **changes):
    """A bench that has measured already what `kept` says."""
    made = Bench(np.zeros((2, 3, 8, 8)), np.zeros(2, int), (0,), dtype, setup=NET)
    for key, found in kept.items():
        made._kept[key] = found if isinstance(found, list) else [found]
    return dataclasses.replace(made, **changes) if changes else made


def read(**changes):
    return bench({(LOOKING, "net"): reading(**changes)})


def shrunk(**slopes):
    norms = {name: [e**slope for e in EPSILONS] for name, slope in slopes.items()}
    return Shrink("net", "0", ("b",), ("identity",), (False,), (norms,), 0.0)


def both_ways(**slopes):
    found = shrunk(**slopes)
    key = (SHRINKING, "se_net")
    return bench({(*key, False): found, (*key, True): found})


def differing(error=0.0, printed=0.0, name="net"):
    kept = {(DIFFERENCES, name): [[("net:b/0", Difference("b", "k", error, printed))]]}
    return kept


def dense(exponent=0.5, alike=1.0, state=(1.0, 1.0)):
    return DenseBlock(
        "f.block1", ["x0", "x1"], ["a"], np.ones((2, 1)), np.ones((2, 1)),
        totals=[0.0, 0.0], rms=[1.0, 1.0], readers=[4, 4], coherence=[1.0, 1.0],
        effective=[4 * alike] * 2, exponent=exponent, state_norms=list(state),
        closure=0.0,
    )  # fmt: skip


def summed(closure, excess=0.0):
    sums = (LayerSum("b.x0", 1, closure, excess, 1.0, 1.0),)
    kept = {(LOOKING, "net"): reading(dense=(dense(),), sums=sums)}
    return bench(kept | differing())


def lengths(blocks=54, **changes):
    count = blocks + 1
    found = Spectrum(
        blocks, list(range(count)), [1.0] * count, [0.0] * count,
        [math.comb(blocks, k) for k in range(count)], 1.0, 0.0, 0.0,
        veit=[1.0] * count, singles=[[1.0]] * count, coherence=[1.0] * count,
        coherence_range=[(1.0, 1.0)] * count,
    )  # fmt: skip
    found = dataclasses.replace(found, **changes)
    return bench({(PATHS, "net"): [("net/0", found)]})


def short(share):
    shares = [0.0] * 55
    shares[5], shares[17], shares[18] = share / 2, share / 2, 1 - share
    return lengths(shares=shares)


def bent(fit):
    """Paths whose R² is `fit`: a slope plus a wave at right angles to it."""
    k = np.arange(9.0)
    wave = np.where(k % 2, 1.0, -1.0)
    wave -= np.polyval(np.polyfit(k, wave, 1), k)
    straight = -(k - k.mean())
    size = math.sqrt((straight @ straight) * (1 / fit - 1) / (wave @ wave))
    found = straight + size * wave
    singles = [[10.0**v] * math.comb(8, i) for i, v in enumerate(found)]
    return lengths(8, singles=singles)


def powered(exponent, variance=False):
    sizes = [(i + 1) ** exponent for i in range(4)]
    found = tuple(
        terms(name=f"layer1.{i}", norms={"residual": s, "H": 1.0})
        for i, s in enumerate(sizes)
    )
    return read(terms=found, variances=tuple((1.0, s) for s in sizes))


def fours(better):
    growths = {"v": 0.5, "net": 0.5, "s": 0.5, "d": better}
    return bench(
        {(LOOKING, n): reading(model=n, first=g, last=1.0) for n, g in growths.items()}
    )


def gated(weight=1.0, growth=0.5):
    se = reading(model="se_net", weight=weight)
    return bench({(LOOKING, "net"): reading(first=growth), (LOOKING, "se_net"): se})


def curved(difference):
    curves = {"resnet20": [[9.0] * 8 + [1 + difference] * 2]}
    return bench({}, curves=curves | {"plain20": [[0.0] * 8 + [1.0] * 2]})


def conserving(closure):
    kept = {
        (LOOKING, "se_net"): reading(model="se_net", terms=(terms(closure=closure),))
    }
    return bench(kept | differing(name="se_net"))


def left(size):
    norms = {"excess": [size] * len(EPSILONS)}
    found = Shrink("net", "0", ("b",), ("identity",), (False,), (norms,), 0.0)
    key = (SHRINKING, "se_net")
    return bench({(*key, False): found, (*key, True): found})


def responding(deviation):
    made = read(responses=(deviation,))
    made.trained = {"net": [None]}
    return made


DIFFERENCE, HALF = claims_blocks.DIFFERENCE, claims_blocks.HALF
MOST, LINEAR = claims_paths.MOST, claims_paths.LINEAR
LAW, ALIKE = claims_dense.LAW, claims_dense.ALIKE
ROOT = 1 - claims_dense.SLACK
BORDERS = {
    # what: (claim, bench of a number, number that just holds, number that just fails)
    "noh1-equation": (claims_blocks.plain_equation,
        lambda v: bench(differing(v)), DIFFERENCE, DIFFERENCE * 1.001),
    "noh2-equation": (claims_blocks.residual_equation,
        lambda v: bench(differing(0, v)), DIFFERENCE, DIFFERENCE * 1.001),
    "noh3-equation": (claims_gates.gate_equation, conserving, 1e-5, 1.001e-5),
    "noh3-equation, difference": (claims_gates.gate_equation,
        lambda v: bench({(LOOKING, "se_net"): reading(terms=(terms(),))}
                        | differing(v, name="se_net")),
        DIFFERENCE, DIFFERENCE * 1.001),
    "noh1-limit": (claims_blocks.plain_limit,
        lambda v: bench({(SHRINKING, "net", False): shrunk(x=v, H=0)}),
        HALF + JUST, HALF - JUST),
    "noh2-limit": (claims_blocks.residual_limit,
        lambda v: bench({(SHRINKING, "net", False): shrunk(x=v, H=0)}),
        HALF - JUST, HALF + JUST),
    "noh3-limit": (claims_gates.gate_limit,
        lambda v: both_ways(gate=v, gain=1, H=0), HALF - JUST, HALF + JUST),
    "noh3-component, slope": (claims_gates.gate_component,
        lambda v: both_ways(excess=v), HALF - JUST, HALF + JUST),
    "noh3-component, size": (claims_gates.gate_component, left, 1.001e-6, 1e-6),
    "noh3-component, sign": (claims_gates.gate_component, left, 0.1, -0.1),
    "noh1-depth": (claims_blocks.plain_depth, lambda v: read(first=v), 1 - JUST, 1.0),
    "noh3-first-layer": (claims_gates.gate_against_residual, gated, 1.0, 1 - JUST),
    "noh5-sum": (claims_dense.dense_sum, summed, 1e-5, 1.001e-5),
    "noh5-printed": (claims_dense.dense_printed, lambda v: summed(0.0, v),
        1e-5, 1.001e-5),
    "noh6-bound": (claims_dense.dense_bound,
        lambda v: read(dense=(dense(state=(v, 1.0)),)), ROOT, ROOT - JUST),
    "noh6-law, low": (claims_dense.dense_law,
        lambda v: read(dense=(dense(v),)), 0.5 - LAW + JUST, 0.5 - LAW - JUST),
    "noh6-law, high": (claims_dense.dense_law,
        lambda v: read(dense=(dense(v),)), 0.5 + LAW - JUST, 0.5 + LAW + JUST),
    "noh6-law, likeness": (claims_dense.dense_law,
        lambda v: read(dense=(dense(alike=v),)), ALIKE, ALIKE - JUST),
    "quadir-relu": (claims_quadir.relu_identity,
        lambda v: read(terms=(terms(mask=v),)), MOST, MOST - JUST),
    "quadir-full": (claims_quadir.full_gradient,
        lambda v: read(shortcuts=(v, 0.0)), MOST, MOST - JUST),
    "quadir-sum": (claims_quadir.telescoped,
        lambda v: read(runs=(Run("b", 2, True, v),)), 1e-5, 1.001e-5),
    "veit-short-paths": (claims_paths.short_paths, short, MOST, MOST - JUST),
    "veit-decay": (claims_paths.path_decay, bent, LINEAR + JUST, LINEAR - JUST),
    "veit-count": (claims_paths.path_count,
        lambda v: lengths(norms=[v] * 55), MOST, MOST - JUST),
    "desmith-gradient, low": (claims_desmith.damped_gradient, powered,
        -0.7 + JUST, -0.7 - JUST),
    "desmith-gradient, high": (claims_desmith.damped_gradient, powered,
        -0.3 - JUST, -0.3 + JUST),
    "desmith-variance, low": (claims_desmith.damped_variance, powered,
        -1.3 + JUST, -1.3 - JUST),
    "desmith-variance, high": (claims_desmith.damped_variance, powered,
        -0.7 - JUST, -0.7 + JUST),
    "quadir-convergence": (claims_training.faster, curved, -JUST, 0.0),
    "noh-response": (claims_training.responses, responding, 1 - JUST, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", BORDERS)
def test_a_threshold_at_its_border(name):
    claim, made, holds, fails = BORDERS[name]
    assert claim(made(holds)).verdict == "holds"
    assert claim(made(fails)).verdict == "fails"


def test_the_order_of_four_at_equality():
    assert claims_dense.order_of_four(fours(0.5)).verdict == "holds"
    assert claims_dense.order_of_four(fours(0.5 - JUST)).verdict == "fails"


def test_a_premise_at_its_border():
    applies = claims_gates.gate_against_residual(gated(growth=1 - JUST)).verdict
    assert applies == "holds"
    verdict = claims_gates.gate_against_residual(gated(growth=1.0)).verdict
    assert verdict.startswith("not applicable: ")


def test_the_excess_of_a_small_gate_keeps_its_digits():
    for part, cosine in ((0.3, 0.5), (0.3, -0.5), (1.0, -1.0)):
        t = terms(
            norms={"shortcut": 2.0, "gate": 2 * part},
            cosines={"shortcut,gate": cosine},
        )
        expected = math.sqrt(1 + part**2 + 2 * part * cosine) - 1
        assert excess(t) == pytest.approx(expected)
    t = terms(norms={"shortcut": 1.0, "gate": 1e-12}, cosines={"shortcut,gate": 0.5})
    assert excess(t) == pytest.approx(5e-13, rel=1e-6)


@pytest.mark.parametrize(("gain", "holds"), [(2.78, 1), (2.77, 0)])
def test_a_difference_of_two_runs_is_significant_from_277(monkeypatch, gain, holds):
    errors = {name: 20.0 for name in claims_counts.ERRORS} | {"plain18": 20.0 + gain}
    monkeypatch.setattr(claims_counts, "ERRORS", errors)
    claim = claims_counts.differences_are_significant(bench({}))
    assert f"true in {holds} of 5 cases" in claim.decided_by


@pytest.mark.parametrize(
    ("more", "expected"),
    [(0.0, "fails"), (1e-6, "holds"), (0.0099, "holds"), (0.0101, "fails")],
)
def test_slightly_more_is_at_most_one_percent(monkeypatch, more, expected):
    def counts(find, name, size=224, classes=1000):
        return 1, 0, 1e9 * (1 + more * name.startswith("se_"))

    monkeypatch.setattr(claims_counts, "counts", counts)
    assert claims_counts.gates_cost_little(bench({})).verdict == expected


@pytest.mark.parametrize(
    ("parameters", "additions", "expected"),
    [(100, 10, "holds"), (101, 10, "fails"), (100, 11, "fails")],
)
def test_free_shortcuts(monkeypatch, parameters, additions, expected):
    def counts(find, name, size=224, classes=1000):
        return parameters if name in dict(claims_counts.FREE) else 100, 0, 1000

    monkeypatch.setattr(claims_counts, "counts", counts)
    monkeypatch.setattr(claims_counts, "additions", lambda find, name, size: additions)
    assert claims_counts.shortcuts_are_free(bench({})).verdict == expected


@pytest.mark.parametrize(("dense", "expected"), [(1001, "holds"), (1000, "fails")])
def test_more_computation_is_more(monkeypatch, dense, expected):
    def counts(find, name, size=224, classes=1000):
        return 1, 0, dense if name.startswith("dense") else 1000

    monkeypatch.setattr(claims_counts, "counts", counts)
    assert claims_counts.dense_costs_more(bench({})).verdict == expected


@pytest.mark.parametrize(("last", "expected"), [(1.0, "holds"), (9.0, "fails")])
def test_an_order_of_errors_must_be_less_likely_than_chance(last, expected):
    """Six networks: turned round ρ = -1; with the best one put last it is chance."""
    table = claims_training.TABLES["Table 2"]
    ranked = sorted(table, key=table.__getitem__, reverse=True)
    growths = dict(zip(ranked, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), strict=True))
    if last > 1:
        growths = dict(zip(ranked, (6.0, 5.0, 1.0, 2.0, 3.0, 4.0), strict=True))
    made = bench({(FLOW, n): [(n, "0", g, g)] for n, g in growths.items()})
    assert claims_training.flow_against_error(made).verdict == expected


# --- what conditions may read, and what the choice of paths leaves open ---------------


@pytest.mark.slow
def test_the_choice_of_paths_turns_no_verdict():
    """Noisy paths near the border: undecided at most, never holds and fails."""
    k = np.arange(55.0)
    for spread in (0.2, 1.0):
        verdicts = set()
        for seed in range(20):
            rng = np.random.default_rng(seed)
            singles = [
                (10 ** (-0.1 * i + spread * rng.normal(size=4))).tolist() for i in k
            ]
            verdict = claims_paths.path_decay(lengths(singles=singles)).verdict
            verdicts.add(verdict.partition(":")[0])
        assert len(verdicts - {"not applicable"}) <= 1, verdicts


def test_with_all_paths_nothing_is_left_open():
    singles = [[1.0, 2.0], [3.0]]
    fit = claims_paths.decay([*singles, [4.0]])[1]
    assert claims_paths.decay_range([*singles, [4.0]], [2, 1, 1]) == (fit, fit)
    low, high = claims_paths.decay_range([*singles, [4.0]], [3, 1, 1])
    assert low < high
