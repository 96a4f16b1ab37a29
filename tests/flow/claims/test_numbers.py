"""The numbers beside the verdicts, each worked out by hand from planted readings."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

import models
from tests.flow.claims.test_borders import (
    BORDERS,
    bench,
    dense,
    differing,
    lengths,
    read,
    reading,
    summed,
    terms,
)
from tests.flow.claims.tiny import TINY, batch, tiny_bench
from tinyflow import Tensor
from tinyflow.flow.claims import CLAIMS, claims
from tinyflow.flow.claims import (
    blocks as claims_blocks,
)
from tinyflow.flow.claims import (
    setup as claims_setup,
)
from tinyflow.flow.claims import (
    shrink as claims_shrink,
)
from tinyflow.flow.claims import (
    sums as claims_sums,
)
from tinyflow.flow.claims import (
    table as claims_table,
)
from tinyflow.flow.claims.bench import DIFFERENCES, FLOW, LOOKING, PATHS, SHRINKING
from tinyflow.flow.claims.nets import network
from tinyflow.flow.claims.setup import FULL, QUICK, train_briefly
from tinyflow.flow.claims.verdict import Case, judge, median
from tinyflow.flow.paths import looking


def numbers(claim, made):
    """What the claim says of its one setting."""
    (row,) = CLAIMS[claim](made).measured
    return row


def test_the_bound_of_a_dense_block():
    block = dense(state=(9.0, 4.0, 2.0))
    block = dataclasses.replace(block, totals=[0.0, 2.4, 1.2])
    rows = CLAIMS["noh6-bound"](read(dense=(block,))).measured
    (row,) = rows  # medians of l = 1 and l = 2
    assert row["ratio"] == pytest.approx((9 / 4 + 4 / 2) / 2)
    bound = (9 / 4 + 4 / 2 / math.sqrt(2)) / 2
    assert row["ratio_over_bound"] == pytest.approx(bound)
    assert row["without_F"] == pytest.approx(0.8)  # √(1 - 0.6²), twice


def test_the_share_of_some_lengths_in_an_estimate():
    veit = [1.0] * 55
    veit[5], veit[17], veit[4], veit[18] = 3.0, 5.0, 7.0, 11.0
    row = numbers("veit-short-paths", lengths(veit=veit))
    # 13 of 55 lengths, two of them with more.
    assert row["share_by_count_times_mean"] == pytest.approx((11 + 8) / (51 + 26))
    assert (
        numbers("veit-short-paths", lengths(veit=[]))["share_by_count_times_mean"] == 0
    )


def test_how_long_what_takes():
    made = tiny_bench()
    assert made.work(LOOKING, "resnet20") == 20
    assert made.work(FLOW, "resnet110") == 55
    assert made.work(DIFFERENCES, "se_resnet20") == 40
    assert made.work(SHRINKING, "plain56") == 224
    assert made.work(PATHS, "resnet110") == 110 * (1 + looking(55, 1)) == 110 * 6
    assert made.work(LOOKING, "quadir_resnet") == 20  # says no depth


def test_quadirs_networks_take_the_rate_they_are_given(monkeypatch):
    rates = []

    def adam(parameters, lr):
        rates.append(lr)
        raise LookupError

    monkeypatch.setattr(claims_setup, "Adam", adam)
    for lr in (None, 0.25):
        with pytest.raises(LookupError):
            train_briefly(network("quadir_cnn", models.find), *batch(2), steps=1, lr=lr)
    assert rates == [1e-3, 0.25]


def test_a_shrink_test_keeps_its_worst_closure(monkeypatch):
    measure, given = claims_shrink.measure, iter((0.25, 0.5, 0.125, 0.0625))

    def spoiled(tape, block):
        return dataclasses.replace(measure(tape, block), closure=next(given, 0.0))

    monkeypatch.setattr(claims_shrink, "measure", spoiled)
    one = dataclasses.replace(TINY, shrink_at=(1.0,))
    (found,) = dataclasses.replace(tiny_bench(), setup=one).shrunk("plain20")
    assert found.closure == 0.5


def test_sums_that_cancel_have_no_angle():
    """What comes back to a map may be nothing at all."""
    maps = {f"b.x{i}": SimpleNamespace(name=f"b.x{i}", grad=np.zeros(2), index=i)
            for i in range(2)}  # fmt: skip

    class Tape(SimpleNamespace):
        def __getitem__(self, name):
            return maps[name]

    tape = Tape(edges=lambda m: [], pullback=lambda *a, **how: np.zeros(2))
    found = claims_sums.layer_sum(tape, SimpleNamespace(name="b", sources="ab"), 0)
    assert (found.cosine, found.factor, found.later) == (0.0, 0.0, 1)


def test_a_dense_block_must_pass_both_kinds_of_evidence():
    made = summed(0.0)
    assert CLAIMS["noh5-sum"](made).verdict == "holds"
    made._kept |= differing(error=1.0)
    found = CLAIMS["noh5-sum"](made)
    assert found.verdict == "fails" and found.measured[1]["difference"] == 1.0


@pytest.mark.parametrize("values", [2, 3])
def test_a_threshold_needs_two_values(values):
    many = [Case(f"net/{i}", i % values == 0, {}, {"l": i % values}) for i in range(24)]
    assert judge(many, features={"l": "l"}).verdict == "holds only when l ≤ 0"


@pytest.mark.parametrize("claim", ["quadir-relu", "noh2-remains"])
def test_places_go_from_0_to_1(claim):
    found = tuple(terms(name=f"layer1.{i}") for i in range(3))
    made = bench({(LOOKING, "net"): [reading(terms=found)]})
    assert numbers(claim, made)["place"] == 0.5  # the median of 0, 0.5 and 1
    alone = bench({(LOOKING, "net"): [reading(terms=found[:1])]})
    assert numbers(claim, alone)["place"] == 0.0


def test_a_reading_says_whether_anything_is_normalised():
    assert tiny_bench().readings("resnet20")[0].normalised
    assert not tiny_bench().readings("quadir_resnet")[0].normalised


@pytest.mark.parametrize("name", BORDERS)
def test_a_decider_names_the_border_of_its_claim(name, monkeypatch):
    """The number that a case is put to the border by lies there."""
    seen = []
    monkeypatch.setattr(claims_table, "settle", lambda *a: seen.append(a[-1]))
    claim, made, holds, fails = BORDERS[name]
    claim(made(holds)), claim(made(fails))
    found, other = seen
    for d in found.decide:
        values = [median(f.cases, d.number) for f in (found, other)]
        moved = values[0] != pytest.approx(values[1], rel=1e-13, abs=1e-15)
        if d.border is not None and moved and all(map(math.isfinite, values)):
            assert values[0] == pytest.approx(d.border, rel=2e-6, abs=2e-9), d.number


def test_four_networks_per_entry():
    growths = {"v": 0.25, "net": 0.5, "s": 1.0, "d": 2.0}
    made = bench({
        (LOOKING, n): reading(model=n, first=g, first_rms=g * g, last_rms=0.5)
        for n, g in growths.items()
    })  # fmt: skip
    rows = CLAIMS["noh-order"](made).measured
    said = {row["evidence"]: row["ratio_per_entry"] for row in rows}
    assert said == {
        "net over v": pytest.approx(4.0),
        "s over net": pytest.approx(4.0),
        "d over net": pytest.approx(16.0),
    }
    zero = {**made._kept, (LOOKING, "v"): [reading(model="v", first_rms=0.0)]}
    row = CLAIMS["noh-order"](bench(zero)).measured[0]
    assert row["ratio_per_entry"] == pytest.approx(0.5)  # by 1 where there is none


def test_printed_multiply_adds_stand_beside_those_they_are_printed_for():
    rows = CLAIMS["noh-flops"](tiny_bench()).measured
    printed = {r["setting"]: r.get("printed_for_resnet") for r in rows}
    assert printed["densenet121:resnet50 at 224"] == 3.86e9  # Noh's Table 2
    assert printed["densenet121:resnet50 at 32"] is None
    assert printed["densenet264:resnet152 at 224"] == 11.3e9


def test_a_brief_training_lowers_its_rate_along_a_cosine(monkeypatch):
    rates = []

    def step(model, x, labels, optimizer):
        rates.append(optimizer.lr)
        return SimpleNamespace(loss=1.0)

    monkeypatch.setattr(claims_setup, "train_step", step)
    train_briefly(network("resnet20", models.find), *batch(2), steps=3, lr=0.5)
    cosines = [0.5 * (1 + math.cos(math.pi * k / 3)) for k in range(3)]
    assert rates == pytest.approx([0.5 * c for c in cosines])
    rates.clear()
    train_briefly(network("quadir_cnn", models.find), *batch(2), steps=2, lr=0.5)
    assert rates == [0.5, 0.5]


def test_which_blocks_are_shrunk():
    assert (QUICK.shrink_at, FULL.shrink_at) == ((0.5, 1.0), (0.0, 0.5, 1.0))


def test_the_rest_of_a_gradient_and_its_angle():
    """Of vectors: shortcut (1, 0), rest (0.5, 1), so that their sum is (1.5, 1)."""
    size = math.sqrt(1.5**2 + 1)
    t = terms(norms={"shortcut": 1.0, "x": size}, shares={"shortcut": 1.5 / size**2})
    rest, cosine = claims_blocks.rest_of(t)
    assert rest == pytest.approx(math.sqrt(1.25))
    assert cosine == pytest.approx(0.5 / math.sqrt(1.25))
    alone = terms(norms={"shortcut": 0.0, "x": 1.0}, shares={"shortcut": 0.0})
    assert claims_blocks.rest_of(alone) == (1.0, 0.0)


def test_what_is_assumed_unless_said_otherwise():
    images, labels = batch()
    only = {"setup": TINY, "only": ["noh1-depth"], "seeds": [0]}
    (found,) = claims(images, labels, find=models.find, **only)
    assert found.settings["statistics"] == "batch"
    (other,) = claims(images, labels, find=models.find, training=False, **only)
    assert other.settings["statistics"] == "running"
    assert found.measured[0]["growth"] != other.measured[0]["growth"]
    model = train_briefly(network("resnet20", models.find), *batch(4), steps=1, batch=4)
    assert model(Tensor(images)).shape == (4, 10)
