"""The claims: rules on planted numbers, every claim on tiny settings, and no bias."""

import ast
import dataclasses
import inspect
import json
import math

import numpy as np
import pytest

from models import build_model
from tinyflow.flow import claims as table
from tinyflow.flow import claims_blocks, claims_dense, claims_gates, claims_paths
from tinyflow.flow.claims import CLAIMS, claims, to_rows, train_briefly
from tinyflow.flow.claims_bench import Bench
from tinyflow.flow.claims_setup import FULL, QUICK, Setup
from tinyflow.flow.claims_verdict import Case, Condition, judge, subsets, summary
from tinyflow.flow.depth import depth_sweep
from tinyflow.flow.probe import FlowError

TINY = Setup(
    plain=("plain20",),
    vgg=(),
    residual=("resnet20",),
    se=("se_resnet20",),
    dense=("densenet121",),
    paths=("resnet20",),
    deep=("resnet20",),
    four=(),
    shrunk=("plain20",),
    path_batch=2,
    samples=1,
    shrink_batch=2,
    shrink_at=(0.5, 1.0),
)


def batch(size=4, dtype="float32"):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((size, 3, 32, 32)).astype(dtype)
    return images, rng.integers(0, 10, size)


@pytest.fixture(scope="module")
def bench():
    images, labels = batch()
    return Bench(images, labels, (0,), setup=TINY)


def planted(bench, name, **changes):
    """A bench that says of network `name` what `changes` makes of its first reading."""
    other = dataclasses.replace(bench)
    before = bench.readings(name)
    other._readings = dict(bench._readings)
    other._readings[name] = [dataclasses.replace(r, **changes) for r in before]
    return other


def cases(outcomes, **numbers):
    return [
        Case("net/0", outcome, {name: column[i] for name, column in numbers.items()})
        for i, outcome in enumerate(outcomes)
    ]


# --- the rule -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("true", "false", "expected"),
    [(20, 0, "holds"), (19, 1, "holds"), (0, 20, "fails"), (1, 19, "fails")],
)
def test_clear_cases(true, false, expected):
    found = judge(cases([True] * true + [False] * false))
    assert found.verdict == expected
    assert f"{true} of {true + false}" in found.why


def test_a_condition_that_separates():
    mixed = cases([True, True, False, False], kind=["a", "b", "c", "c"])
    found = judge(mixed, subsets(mixed, "kind", "the kind"))
    assert found.verdict == "holds only when the kind is a or b"


def test_a_condition_that_does_not_separate_is_not_used():
    mixed = cases([True, False, True, False], kind=["a", "a", "b", "b"])
    found = judge(mixed, subsets(mixed, "kind", "the kind"))
    assert found.verdict.startswith("holds only in 50% of cases")
    assert "the kind is" in found.why  # the nearest one is named


def test_an_always_true_condition_explains_nothing():
    mixed = cases([True] * 18 + [False] * 2)
    found = judge(mixed, [Condition("always", lambda n: True)])
    assert "always" not in found.verdict


def test_thresholds_are_searched_with_enough_cases_only():
    values = list(range(24))
    many = cases([v <= 7 for v in values], place=values)
    assert judge(many, features=["place"]).verdict == "holds only when place ≤ 7"
    few = [case for case in many if 4 <= case.numbers["place"] <= 11]
    assert "≤" not in judge(few, features=["place"]).verdict
    high = cases([v >= 16 for v in values], place=values)
    assert judge(high, features=["place"]).verdict == "holds only when place ≥ 16"


def test_a_searched_condition_is_said_in_words():
    many = cases([v <= 7 for v in range(24)], place=list(range(24)))
    found = judge(many, features={"place": "the block's place"})
    assert found.verdict == "holds only when the block's place ≤ 7"


def test_a_stated_condition_goes_before_a_searched_one():
    values = list(range(24))
    many = cases([v <= 7 for v in values], place=values)
    stated = Condition("early", lambda n: n["place"] < 8)
    assert judge(many, [stated], ["place"]).verdict == "holds only when early"


def test_no_cases_no_verdict():
    with pytest.raises(ValueError, match="at least one case"):
        judge([])


def test_summary_per_setting():
    found = [Case("a/0", True, {"x": 1.0, "k": "u", "b": True})]
    found += [Case("a/0", False, {"x": 3.0, "k": "v", "b": False}), Case("b/0", True)]
    first, second = summary(found)
    assert first == {
        "setting": "a/0",
        "cases": 2,
        "share": 0.5,
        "x": 2.0,
        "k": "u, v",
        "b": "some",
    }
    assert second == {"setting": "b/0", "cases": 1, "share": 1.0}


# --- every claim, on tiny settings ----------------------------------------------------


@pytest.fixture(scope="module")
def found(bench):
    return {name: claim(bench) for name, claim in CLAIMS.items()}


def test_every_claim_is_measured_and_conserved(found):
    missing = {name for name, claim in found.items() if claim is None}
    assert missing == {"noh-order"}  # TINY names no four networks
    for name, claim in found.items():
        if claim is None:
            continue
        assert claim.id == name
        assert claim.verdict in ("holds", "fails") or claim.verdict.startswith(
            "holds only"
        )
        assert claim.conserved and claim.closure_max < 1e-5, name
        assert claim.settings["mode"] == "init" and claim.settings["models"]
        assert " of " in claim.decided_by and claim.measured
        assert all(row["cases"] > 0 for row in claim.measured)


def test_what_is_exact_at_any_size(found):
    """Equations and product rules do not depend on batch or seed."""
    for name in ("noh1-equation", "noh3-equation", "noh5-sum", "noh2-limit"):
        assert found[name].verdict == "holds", name
    for name in ("noh3-limit", "noh5-printed", "quadir-relu"):
        assert found[name].verdict == "fails", name
    assert found["noh2-equation"].verdict == "holds only when the shortcut is identity"


def test_the_gate_obeys_the_product_rule(bench):
    for constant, expected in ((False, 2.0), (True, 1.0)):
        (s,) = bench.shrunk("se_resnet20", constant=constant)
        for i in range(len(s.blocks)):
            assert s.slope(i, "gain", "H") == pytest.approx(1, abs=0.1)
            assert s.slope(i, "gate", "H") == pytest.approx(expected, abs=0.3)


def test_normalisation_makes_up_for_a_shrunken_block(bench):
    (s,) = bench.shrunk("plain20")
    assert s.followed == (True, False)
    assert s.slope(0, "x") == pytest.approx(0, abs=0.1)
    assert s.slope(1, "x") == pytest.approx(1, abs=0.1)
    assert s.slope(0, "x", "H") == pytest.approx(1, abs=0.1)


def test_finite_differences_agree(bench):
    for name in ("plain20", "resnet20", "se_resnet20"):
        (s,) = bench.shrunk(name)
        assert max(s.derivative) < 1e-7


def test_shrinking_puts_nothing_out_of_place(bench):
    last = dataclasses.replace(TINY, shrink_at=(1.0,))
    again = dataclasses.replace(bench, setup=last)
    (a,), (b,) = bench.shrunk("plain20"), again.shrunk("plain20")
    assert a.norms[-1] == b.norms[0]


def test_total_jacobians_count_more(bench):
    (reading,) = bench.readings("densenet121")
    first, later = reading.sums
    assert first.name == "denseblock1.x0" and first.later == 6
    assert first.closure < 1e-6 and later.closure < 1e-6
    assert first.excess > 0.1


# --- verdicts follow the numbers ------------------------------------------------------


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
    broken = tuple(dataclasses.replace(t, closure=1e-3) for t in reading.terms)
    other = planted(bench, "resnet20", terms=broken, closure=1e-3)
    claim = claims_blocks.residual_equation(other)
    assert claim.verdict != claims_blocks.residual_equation(bench).verdict
    assert not claim.conserved and claim.closure_max == 1e-3


def test_cancelling_blocks_are_found_by_their_cosine(bench):
    """Half of the blocks get a residual that works against the shortcut."""
    (reading,) = bench.readings("resnet20")
    terms = []
    for i, t in enumerate(reading.terms):
        cosine = -0.9 if i % 2 else 0.1
        size = math.sqrt(1 + 1 + 2 * cosine)
        norms = {"x": size, "H": 1.0, "shortcut": 1.0, "residual": 1.0}
        shares = {
            "shortcut": (1 + cosine) / size**2,
            "residual": (1 + cosine) / size**2,
        }
        terms.append(
            dataclasses.replace(
                t, norms=norms, shares=shares, flags={"noh2": size >= 1}
            )
        )
    claim = claims_blocks.residual_remains(planted(bench, "resnet20", terms=(*terms,)))
    assert claim.verdict.startswith("holds only when cos(shortcut, residual) > ")


@pytest.mark.parametrize(("slope", "expected"), [(0.0, "holds"), (2.0, "fails")])
def test_planted_gates_flip_the_limit(bench, slope, expected, monkeypatch):
    bench.shrunk("se_resnet20")
    monkeypatch.setattr(
        "tinyflow.flow.claims_shrink.Shrink.slope", lambda *a, **k: slope
    )
    assert claims_gates.gate_limit(bench).verdict == expected


def test_planted_gradients_flip_se_against_resnet(bench):
    for weight, expected in ((1e9, "holds"), (0.0, "fails")):
        other = planted(bench, "se_resnet20", weight=weight)
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


def test_planted_growths_order_the_four(bench):
    four = ("plain20", "resnet20", "se_resnet20", "densenet121")
    growth = dict(zip(four, (1.0, 2.0, 3.0, 4.0), strict=True))
    setup = dataclasses.replace(TINY, four=four)
    for sign, expected in ((1, "holds"), (-1, "fails")):
        other = dataclasses.replace(bench, setup=setup)
        other._readings = {
            name: [
                dataclasses.replace(r, first=growth[name] ** sign, last=1.0)
                for r in bench.readings(name)
            ]
            for name in four
        }
        assert claims_dense.order_of_four(other).verdict == expected


def test_planted_spectra_flip_veit(bench):
    (spectrum,) = bench.spectra("resnet20")
    count = len(spectrum.lengths)
    for peak, expected in ((2, "holds"), (9, "fails")):
        shares = [float(k == peak) for k in range(count)]
        other = dataclasses.replace(bench)
        other._spectra = {"resnet20": [dataclasses.replace(spectrum, shares=shares)]}
        assert claims_paths.short_paths(other).verdict == expected
    for base, expected in ((0.1, "holds"), (2.0, "fails")):
        veit = [n * base**k for k, n in enumerate(spectrum.paths)]
        other._spectra = {"resnet20": [dataclasses.replace(spectrum, veit=veit)]}
        assert claims_paths.path_decay(other).verdict == expected


def test_planted_masks_and_shortcuts_flip_quadir(bench):
    (reading,) = bench.readings("resnet20")
    terms = tuple(dataclasses.replace(t, mask=1.0) for t in reading.terms)
    other = planted(bench, "resnet20", terms=terms, shortcuts=(reading.last, 0.1))
    assert claims_paths.relu_identity(other).verdict == "holds"
    assert claims_paths.full_gradient(other).verdict == "holds"


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
        assert claims_paths.damped_gradient(other).verdict == expected
        assert claims_paths.damped_variance(other).verdict == expected


def test_no_claim_writes_its_verdict_down():
    """No string in a claim's file is a verdict; only the rule's file spells them."""
    for module in (claims_blocks, claims_gates, claims_dense, claims_paths, table):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in ("holds", "fails"), module.__name__
                assert not node.value.startswith("holds only"), module.__name__


# --- the table, training, depth -------------------------------------------------------


TOLD = ("resnet20", "se_resnet20")


class Told:
    """Notes what a Progress is told."""

    def __init__(self):
        self.begun, self.planned, self.done = [], 0.0, 0.0

    def plan(self, total):
        self.planned = total

    def begin(self, what, weight):
        self.begun.append(what)
        self.done += weight


def test_table_with_trained_networks():
    images, labels = batch()
    model = train_briefly("resnet20", *batch(16), steps=2, batch=4)
    told = Told()
    found = claims(
        images,
        labels,
        seeds=[0],
        trained={"resnet20": [model]},
        setup=dataclasses.replace(TINY, residual=("resnet20",)),
        only=["noh2-remains", "noh3-component", "quadir-full"],
        progress=told,
    )
    # The SE-ResNet was not among the trained ones: its claim is missing there.
    assert [(c.id, c.settings["mode"]) for c in found] == [
        ("noh2-remains", "init"),
        ("noh3-component", "init"),
        ("quadir-full", "init"),
        ("noh2-remains", "trained"),
        ("quadir-full", "trained"),
    ]
    looks = [f"looking at {n}, initial weights, seed 0" for n in TOLD]
    assert told.begun == [*looks, "looking at resnet20, trained weights, seed 0"]
    assert told.done == pytest.approx(told.planned)
    assert found[0].measured != found[3].measured
    for measured in (False, True):
        rows = to_rows(found, measured=measured)
        assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    with pytest.raises(FlowError, match="noh2-remains"):
        claims(images, labels, only=["noh2-remain"])


def test_rows_are_strict(found):
    claim = dataclasses.replace(found["noh1-depth"], closure_max=math.inf)
    (row,) = to_rows([claim])
    assert row["closure_max"] is None
    assert row["models"] == "plain20"


def test_looking_at_trained_networks_changes_nothing():
    images, labels = batch()
    model = build_model("se_resnet20", seed=3)
    before = {name: a.copy() for name, a in model.state_dict().items()}
    last = dataclasses.replace(TINY, shrink_at=(1.0,))
    trained = Bench(images, labels, (), trained={"se_resnet20": [model]}, setup=last)
    trained.readings("se_resnet20")
    trained.shrunk("se_resnet20")
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_setups_name_networks_that_exist():
    for setup in (QUICK, FULL):
        for part in dataclasses.fields(setup):
            names = getattr(setup, part.name)
            if isinstance(names, tuple) and isinstance(names[0], str):
                for name in names:
                    build_model(name, seed=None)


def test_parts_are_played_by_the_trained_networks():
    names = ["vgg11_bn", "plain20", "resnet56", "se_resnet56", "densenet121"]
    part = QUICK.only(names)
    assert part.plain == ("plain20",) and part.vgg == ("vgg11_bn",)
    assert part.residual == part.paths == part.deep == ("resnet56",)
    assert part.four == ("vgg11_bn", "resnet56", "se_resnet56", "densenet121")
    assert part.shrunk == ("plain20", "vgg11_bn")
    assert QUICK.only(["resnet20"]).four == QUICK.only(["resnet20"]).deep == ()


def test_train_briefly_learns_and_repeats():
    images, labels = batch(8)
    first = train_briefly("resnet20", images, labels, steps=6, batch=8, lr=0.05)
    again = train_briefly("resnet20", images, labels, steps=6, batch=8, lr=0.05)
    for name, array in first.state_dict().items():
        np.testing.assert_array_equal(array, again.state_dict()[name])
    setup = dataclasses.replace(TINY, residual=("resnet20",))
    fresh = Bench(images, labels, (0,), setup=setup).readings("resnet20")[0]
    trained = Bench(images, labels, (), trained={"resnet20": [first]}, setup=setup)
    assert trained.readings("resnet20")[0].loss < 0.8 * fresh.loss
    with pytest.raises(ValueError, match="labels"):
        train_briefly("resnet20", images)


def test_depth_sweep():
    images, labels = batch(4)
    points = depth_sweep([20, 32], seeds=[0], images=images, labels=labels)
    assert [(p.kind, p.depth) for p in points] == [
        ("plain", 20),
        ("plain", 32),
        ("resnet", 20),
        ("resnet", 32),
    ]
    for p in points:
        assert p.growth == pytest.approx(p.first / p.last)
        assert p.closure < 1e-5 and p.weight > 0 and math.isfinite(p.loss)
    plain, deeper, residual, _ = points
    assert deeper.growth > plain.growth > residual.growth > 1  # it grows, not vanishes


def test_a_term_that_dies_has_an_infinite_slope(bench):
    (s,) = bench.shrunk("se_resnet20")
    for gate, expected in (([1.0, 0.1, 0.0, 0.0], math.inf), ([0.0] * 4, math.nan)):
        norms = tuple(n | {"gate": gate} for n in s.norms)
        dead = dataclasses.replace(s, norms=norms)
        assert str(dead.slope(0, "gate", "H")) == str(expected)
        other = dataclasses.replace(bench)
        other._shrunk = {("se_resnet20", c): [dead] for c in (False, True)}
        assert claims_gates.gate_limit(other).verdict == "fails"
