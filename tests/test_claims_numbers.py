"""The numbers beside the verdicts, each worked out by hand from planted readings."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from tests.claims_tiny import TINY, batch, tiny_bench
from tests.test_claims_borders import dense, lengths, read
from tinyflow.flow import claims_setup, claims_shrink, claims_sums
from tinyflow.flow.claims import CLAIMS
from tinyflow.flow.claims_bench import DIFFERENCES, FLOW, LOOKING, PATHS, SHRINKING
from tinyflow.flow.claims_setup import train_briefly
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
            train_briefly("quadir_cnn", *batch(2), steps=1, lr=lr)
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
