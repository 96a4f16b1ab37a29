"""Verdicts follow the numbers: plant other ones, and they turn."""

import ast
import dataclasses
import inspect
import math

import pytest

import models
from tests.flow.claims.tiny import TINY, tiny_bench
from tinyflow.flow import claims as table
from tinyflow.flow.claims import (
    blocks as claims_blocks,
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
from tinyflow.flow.claims.bench import (
    LOOKING,
    PATHS,
    SHRINKING,
    Bench,
)


@pytest.fixture
def bench():
    return tiny_bench()


def with_kept(bench, **changes):
    """A bench of the same numbers, some of them changed: ``{(what, name): found}``."""
    other = dataclasses.replace(bench, **changes)
    other._kept = dict(bench._kept)
    return other


def planted(bench, name, **changes):
    """A bench that says of network `name` what `changes` makes of its first reading."""
    before = bench.readings(name)
    other = with_kept(bench)
    other._kept[LOOKING, name] = [dataclasses.replace(r, **changes) for r in before]
    return other


def test_planted_growth_flips_the_depth_claim(bench):
    shrunk = planted(bench, "plain20", first=1.0, last=10.0)
    grown = planted(bench, "plain20", first=10.0, last=1.0)
    assert claims_blocks.plain_depth(shrunk).verdict == "holds"
    assert claims_blocks.plain_depth(grown).verdict == "fails"


def test_planted_terms_flip_the_residual_claims(bench):
    (reading,) = bench.readings("resnet20")
    for flag, expected in ((True, "holds"), (False, "fails")):
        terms = tuple(
            dataclasses.replace(t, flags=t.flags | {"noh2": flag})
            for t in reading.terms
        )
        other = planted(bench, "resnet20", terms=terms)
        assert claims_blocks.residual_remains(other).verdict == expected
    other = planted(bench, "resnet20", closure=1e-3)
    claim = claims_blocks.residual_remains(other)
    assert not claim.conserved and claim.closure_max == 1e-3


@pytest.mark.parametrize(("slope", "expected"), [(0.0, "holds"), (2.0, "fails")])
def test_planted_gates_flip_the_limit(bench, slope, expected, monkeypatch):
    claims_gates.limits(bench)
    monkeypatch.setattr(
        "tinyflow.flow.claims.shrink.Shrink.slope", lambda *a, **k: slope
    )
    assert claims_gates.gate_limit(bench).verdict == expected


def test_planted_gradients_flip_se_against_resnet(bench):
    """Only where a gradient vanishes in the ResNet is there anything to overcome."""
    none = "not applicable: no gradient vanishes in the ResNet"
    for last, weight, expected in (
        (1e9, 1e9, "holds"),
        (1e9, 0.0, "fails"),
        (1e-9, 1e9, none),
    ):
        vanishing = planted(bench, "resnet20", last=last)
        other = planted(vanishing, "se_resnet20", weight=weight)
        assert claims_gates.gate_against_residual(other).verdict == expected


def test_planted_states_flip_the_root_law(bench):
    (reading,) = bench.readings("densenet121")
    for power, expected in ((0.5, "holds"), (0.0, "holds only when l ≤ 1")):
        dense = []
        for d in reading.dense:
            state = [1.0]
            for layer in range(1, len(d.state_norms)):
                state.append(state[-1] / (1.001 * layer**power))
            dense.append(dataclasses.replace(d, state_norms=state))
        other = planted(bench, "densenet121", dense=tuple(dense))
        assert claims_dense.dense_bound(other).verdict == expected
    equal = tuple(
        dataclasses.replace(d, exponent=0.5, effective=[float(m) for m in d.readers])
        for d in reading.dense
    )
    other = planted(bench, "densenet121", dense=equal)
    assert claims_dense.dense_law(other).verdict == "holds"
    # One kind of evidence does not make up for the other.
    for changes in ({"exponent": 0.0}, {"effective": [1.0] * 99}):
        half = [
            dataclasses.replace(
                d,
                exponent=changes.get("exponent", d.exponent),
                effective=changes.get("effective", d.effective)[: len(d.readers)],
            )
            for d in equal
        ]
        other = planted(bench, "densenet121", dense=tuple(half))
        assert claims_dense.dense_law(other).verdict == "fails"


def test_planted_growths_order_the_four(bench):
    four = ("plain20", "resnet20", "se_resnet20", "densenet121")
    setup = dataclasses.replace(TINY, four=four)
    judged = "resnet20 over plain20"
    rest = "se_resnet20 over resnet20, densenet121 over resnet20"
    for growths, expected in (
        ((0.1, 0.2, 0.3, 0.4), "holds"),
        ((0.4, 0.3, 0.2, 0.1), "fails"),
        ((0.1, 2.0, 1.0, 1.0), f"holds for {judged}, not applicable to {rest}"),
        ((2.0, 2.0, 1.0, 1.0), "not applicable: no gradient vanishes in plain20; "),
    ):
        other = with_kept(bench, setup=setup)
        for name, growth in zip(four, growths, strict=True):
            (reading,) = bench.readings(name)
            other._kept[LOOKING, name] = [
                dataclasses.replace(reading, first=growth, last=1.0)
            ]
        verdict = claims_dense.order_of_four(other).verdict
        assert verdict.startswith(expected)


def test_planted_spectra_flip_veit(bench):
    ((setting, spectrum),) = bench.spectra("resnet20")
    other = with_kept(bench)

    def plant(**changes):
        changed = dataclasses.replace(spectrum, **changes)
        other._kept[PATHS, "resnet20"] = [(setting, changed)]

    lengths = list(range(55))
    for peak, expected in ((5, "holds"), (17, "holds"), (4, "fails"), (18, "fails")):
        shares = [float(k == peak) for k in lengths]
        plant(blocks=54, shares=shares, lengths=lengths)
        assert claims_paths.short_paths(other).verdict == expected
    plant(blocks=9)
    verdict = claims_paths.short_paths(other).verdict
    assert verdict.startswith("not applicable: the range is one of 54 modules")
    for base, expected in ((0.1, "holds"), (2.0, "fails")):
        plant(singles=[[base**k] * n for k, n in enumerate(spectrum.paths)])
        assert claims_paths.path_decay(other).verdict == expected
    for part, expected in ((0.96, "holds"), (0.94, "fails")):
        plant(norms=[part * v for v in spectrum.veit])
        assert claims_paths.path_count(other).verdict == expected


def test_planted_masks_and_shortcuts_flip_quadir(bench):
    (reading,) = bench.readings("resnet20")
    terms = tuple(dataclasses.replace(t, mask=1.0) for t in reading.terms)
    other = planted(bench, "resnet20", terms=terms, shortcuts=(reading.last, 0.1))
    other.setup = dataclasses.replace(TINY, quadir=())
    assert claims_quadir.relu_identity(other).verdict == "holds"
    assert claims_quadir.full_gradient(other).verdict == "holds"


def test_his_sum_holds_without_the_relu_behind_it(bench):
    (own,) = bench.readings("quadir_resnet")
    (bare,) = bench.readings("quadir_sum")
    (his,) = own.runs
    (without,) = bare.runs
    assert his.blocks == without.blocks == 5 and his.relu and not without.relu
    assert without.error < 1e-6 < 0.01 < his.error
    claim = claims_quadir.telescoped(bench)
    assert claim.verdict.startswith("holds only in")  # one seed is too few to tell why
    three = Bench(bench.images, bench.labels, (0, 1, 2), find=models.find, setup=TINY)
    verdict = claims_quadir.telescoped(three).verdict
    assert verdict == "holds only when no ReLU follows the addition"


def test_planted_power_laws_flip_de_and_smith(bench):
    (reading,) = bench.readings("resnet20")
    for power, expected in ((-0.5, "holds"), (0.0, "fails")):
        terms = tuple(
            dataclasses.replace(
                t,
                name=f"layer1.{i}",
                kind="identity",
                norms={"residual": (i + 1) ** power, "H": 1.0},
            )
            for i, t in enumerate(reading.terms)
        )
        variances = tuple((1.0, (i + 1) ** (2 * power)) for i in range(len(terms)))
        other = planted(bench, "resnet20", terms=terms, variances=variances)
        assert claims_desmith.damped_gradient(other).verdict == expected
        claim = claims_desmith.damped_variance(other)
        assert claim.verdict == expected
        # In the first stage both ways of counting are one: it is counted once.
        assert [row["setting"] for row in claim.measured] == [
            "resnet20:layer1 from the stem/0"
        ]


def test_no_claim_writes_its_verdict_down():
    """No string in a claim's file is a verdict; only the rule's file spells them."""
    for module in (*table.ROOMS, table):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in ("holds", "fails"), module.__name__
                assert not node.value.startswith("holds only"), module.__name__


def test_a_term_that_dies_has_an_infinite_slope(bench):
    (s,) = bench.shrunk("se_resnet20")
    for gate, expected in (([1.0, 0.1, 0.0, 0.0], math.inf), ([0.0] * 4, math.nan)):
        norms = tuple(n | {"gate": gate} for n in s.norms)
        dead = dataclasses.replace(s, norms=norms)
        assert str(dead.slope(0, "gate", "H")) == str(expected)
        other = with_kept(bench)
        for constant in (False, True):
            other._kept[SHRINKING, "se_resnet20", constant] = [dead]
        assert claims_gates.gate_limit(other).verdict == "fails"
