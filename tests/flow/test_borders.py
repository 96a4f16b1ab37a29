"""Flags, fits and words of the instrument at their borders, worked out by hand."""

import itertools
import math
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

import models
from tests.flow.show.test_layout import BLOCK
from tests.flow.test_flow import Small
from tinyflow import Tape, Tensor, flow, fork, mark, ops
from tinyflow.data import Loader, load_dataset
from tinyflow.flow import depth, paths, series
from tinyflow.flow.compare import against_shortcut, missing_share
from tinyflow.flow.dense import _reader, fit_exponent
from tinyflow.flow.depth import ratio, rms
from tinyflow.flow.settings import Settings
from tinyflow.flow.show import report
from tinyflow.flow.source import find_source
from tinyflow.flow.stats import rank_correlation
from tinyflow.flow.trace import Row

ONE = np.ones(1)


def residual(a, x=ONE, cotangent=ONE):
    """The tape of H = a x + x."""
    with Tape("edges") as tape:
        x = mark(Tensor(x, requires_grad=True) * 1.0, "b.in")
        branch, shortcut = fork(x, "residual", "shortcut")
        h = mark(ops.mul(branch, a) + shortcut, "b.H")
    tape.backward(h, cotangent)
    return tape


def gated(c):
    """H = x · (c x) + x at x = 1: gain and gate are both c."""
    with Tape("edges") as tape:
        x = mark(Tensor(ONE, requires_grad=True) * 1.0, "b.in")
        branch, shortcut = fork(x, "residual", "shortcut")
        scale, squeeze = fork(ops.mul(branch, 1.0), "scale", "squeeze")
        h = mark(ops.mul(scale, ops.mul(squeeze, c)) + shortcut, "b.H")
    tape.backward(h, ONE)
    return tape


@pytest.mark.parametrize(("short", "holds"), [(0.9e-6, True), (1.1e-6, False)])
def test_noh_may_be_missed_by_a_millionth(short, holds):
    (t,) = flow.block_terms(residual(-short))
    assert t.flags["noh2"] is holds and "noh3" not in t.flags
    (t,) = flow.block_terms(gated(-short))
    assert t.flags["noh3"] is holds and t.gate["mean"] == pytest.approx(-short)


@pytest.mark.parametrize(("short", "holds"), [(5.9e-6, True), (6.1e-6, False)])
def test_a_sum_is_no_shorter_than_its_parts_differ(short, holds):
    """Shortcut 1, rest 3: at least 2, less a millionth of it and one of 1 + 3."""
    tape = residual(3.0)
    tape["b.in"].grad = np.full(1, 2 - short)
    (t,) = flow.block_terms(tape)
    assert t.flags["triangle"] is holds


@pytest.mark.parametrize(
    ("behind", "mask"),
    [
        (ops.relu, 0.5),
        (lambda h: ops.relu(h) + ops.relu(h * 1.0), None),  # not by a ReLU alone
        (ops.tanh, None),
        (lambda h: h, None),
    ],
)
def test_a_mask_is_what_lies_above_zero_where_a_relu_reads_it(behind, mask):
    x = np.array([0.0, 1.0, -1.0, 2.0])
    with Tape("edges") as tape:
        x = mark(Tensor(x, requires_grad=True) * 1.0, "b.in")
        branch, shortcut = fork(x, "residual", "shortcut")
        y = behind(mark(branch * 0.0 + shortcut, "b.H"))
    tape.backward(y, np.ones(4))
    (t,) = flow.block_terms(tape)
    assert t.mask == mask


def test_norms_and_ratio_of_a_block_that_ends_with_its_sum():
    x = np.array([0.0, 1.0, -1.0, 2.0])
    (t,) = flow.block_terms(residual(0.0, x, np.ones(4)))
    assert t.norms["H"] == t.norms["x"] == t.ratio * 2 == 2


def test_where_nothing_arrives_all_is_zero():
    (t,) = flow.block_terms(residual(3.0, cotangent=np.zeros(1)))
    assert (t.ratio, t.cancellation, t.closure) == (0, 0, 0)
    assert t.shares == {"shortcut": 0, "residual": 0}
    assert t.cosines == {"shortcut,residual": None}


@pytest.mark.parametrize(
    ("norms", "cosines", "found"),
    [
        ((0, 3, 4), (None, None, 0.0), 0.0),
        ((1, 0, 0), (None, None, None), None),
        ((1, 3, 4), (0.5, -0.25, 0.0), (3 * 0.5 - 4 * 0.25) / 5),
        ((1, 3, 4), (1.0, -1.0, -1.0), -1.0),
        ((1, 1, 1), (0.6, 0.6, -0.9), 1.2 / math.sqrt(0.2)),
        ((1, 0, 4), (None, 0.25, None), 0.25),
    ],
)
def test_the_rest_of_a_gated_block_is_gain_and_gate(norms, cosines, found):
    names = ("shortcut", "gain", "gate")
    block = replace(
        BLOCK,
        norms=dict(zip(names, map(float, norms), strict=True)),
        shares=dict.fromkeys(names, 0.5),
        cosines=dict(
            zip(("shortcut,gain", "shortcut,gate", "gain,gate"), cosines, strict=True)
        ),
    )
    assert against_shortcut(block) == (found and pytest.approx(found))


def test_shares_that_are_missing_at_worst():
    def of(*blocks):
        return missing_share(
            Row(0, 1.0, f"b{i}", "plain", "t", 1.0, share, None)
            for i, shares in enumerate(blocks)
            for share in shares
        )

    assert of((0.5, 0.5, None), (0.0, 0.9)) == pytest.approx(0.1)
    assert of((3.0, -1.5), (1.0,)) == pytest.approx(0.5 / 4.5)
    assert of((0.0, 0.0)) == of() == 0  # no gradient, no share
    assert math.isnan(of((math.nan,), (1.0,)))


def test_an_exponent_needs_three_numbers_of_readers():
    assert fit_exponent([1, 2, 4], [3.0, 6.0, 12.0]) == pytest.approx(1)
    assert fit_exponent([1, 4, 16], [3.0, 6.0, 12.0]) == pytest.approx(0.5)
    assert fit_exponent([0, 1, 2, 4, 8], [5.0, 1.0, 2.0, 4.0, 0.0]) == pytest.approx(1)
    for few in (([1, 2], [1.0, 2.0]), ([1, 2, 2, 0], [1.0, 2.0, 3.0, 1.0])):
        assert math.isnan(fit_exponent(*few))
    long = "features.denseblock1.denselayer3.concat"
    readers = [_reader(name) for name in (long, "features.norm5.batch_norm", "add")]
    assert readers == ["denselayer3", "norm5", "classifier"]
    assert _reader("features.relu") == "classifier"


def test_sizes_per_entry_and_their_ratio():
    node = SimpleNamespace(grad=np.full((2, 3), 2.0), shape=(2, 3))
    assert rms(node) == pytest.approx(2)
    assert rms(SimpleNamespace(grad=np.zeros((0, 3)), shape=(0, 3))) == 0
    assert (ratio(3, 2), ratio(3, 0), ratio(0, 2)) == (1.5, math.inf, 0)


def test_how_many_paths_are_looked_at_and_how_long_that_takes(monkeypatch):
    """All of 512, in pullbacks of one block of 9; of more some, and four sums."""
    looking = paths.looking
    assert looking(9, 3) == pytest.approx(2 * 512 / (9 * 10 / 2))
    assert looking(10, 3) == 3 + 4 and looking(10, 0) == looking(9, 0) == 0
    clock = itertools.count(100.0, 0.5)
    now = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr(paths, "time", now)
    rng = np.random.default_rng(1)
    images = rng.standard_normal((4, 3, 2, 2))
    p = flow.probe(Small(2).to(dtype="float64"), images, np.array([0, 1, 2, 0]))
    found = flow.spectrum(p)
    assert found.seconds == 0.5
    assert found.mean_length() == pytest.approx(found.shares[1] + 2 * found.shares[2])
    assert found.share_between(1, 2) == pytest.approx(1 - found.shares[0])
    assert found.share_between(0, 1) == pytest.approx(1 - found.shares[2])


@pytest.mark.parametrize(("n", "orders"), [(3, 6), (8, 40320), (9, 5001)])
def test_a_perfect_order_is_one_of_all_or_of_5001(n, orders):
    up, down = list(range(n)), [10.0 - i**3 for i in range(n)]
    assert rank_correlation(up, down) == pytest.approx((-1, 1 / orders), rel=1e-12)
    assert rank_correlation(up, up) == pytest.approx((1, 1))


def test_equal_ranks_are_shared():
    """Ranks 1, 2½, 2½, 4 against 1, 2, 3, 4: of 24 orders 2 lie as low."""
    rho, p = rank_correlation([4.0, 2.0, 2.0, 1.0], [1, 2, 3, 4])
    assert rho == pytest.approx(-4.5 / math.sqrt(4.5 * 5)) and p == pytest.approx(
        2 / 24
    )


def test_pictures_are_those_of_seed_0_and_the_first_batch_of_the_loader():
    found = find_source(Settings(batch_size=5, seed=3))
    same = load_dataset("shapes", seed=0, limit=1000)
    assert np.array_equal(found.data.images, same.images)
    x, labels = next(Loader(same, 5, seed=3, dtype="float64").epoch(0))
    assert np.array_equal(found.batch()[0], x)
    assert np.array_equal(found.batch()[1], labels)
    with pytest.raises(flow.FlowError, match="--batch-size 1000000 is more than the"):
        find_source(Settings(batch_size=10**6))


def test_four_blocks_are_proposed(monkeypatch):
    module = import_module("tinyflow.flow.counterfactual")  # not the function
    blocks = [SimpleNamespace(name=f"layer1.{i}") for i in range(9)]
    monkeypatch.setattr(module, "find_blocks", lambda tape: blocks)
    for wrong in ("layer1.99", "xyz"):
        with pytest.raises(flow.FlowError, match="there are 9, among them ") as said:
            module.branch_edges(SimpleNamespace(tape=None), wrong, "residual")
        assert str(said.value).partition("them ")[2].count("layer1.") == 4


def test_the_worst_block_is_a_depths_closure(monkeypatch):
    blocks = [SimpleNamespace(closure=c) for c in (1e-9, 3e-7, 2e-8)]
    monkeypatch.setattr(depth, "block_terms", lambda tape: blocks)
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype="f4")
    model = models.build_model("plain20", image_size=8)
    point = depth.measure_depth(model, "plain", 20, 0, images, np.arange(2))
    assert point.closure == 3e-7


def test_a_sweep_is_as_long_as_both_nets_of_every_depth_and_seed(monkeypatch):
    told = []
    progress = SimpleNamespace(plan=told.append, begin=None)
    monkeypatch.setattr(series, "iter_depths", lambda *a, **k: iter(["points"]))
    source = find_source(Settings(batch_size=2, seed=1))
    assert list(series.sweep(source, [20, 56], 3, progress)) == ["points"]
    assert told == [2 * 3 * (20 + 56)]


@pytest.mark.parametrize("kept", [False, True])
def test_a_folder_is_complete_when_its_files_are_kept(kept, tmp_path):
    claimed = SimpleNamespace(claim=tmp_path, path=tmp_path, kept=kept)
    assert report.Folder(claimed).complete is kept


def test_a_leaf_is_no_block_whatever_it_is_called():
    with Tape("edges") as tape:
        x = mark(mark(Tensor(ONE, requires_grad=True), "b.in"), "b.H")
        y = x * 2.0
    tape.backward(y, ONE)
    assert "b.H" in tape.names and tape.names["b.H"].index < 0
    with pytest.raises(flow.FlowError, match="no blocks found"):
        flow.block_terms(tape)


def test_a_layer_may_pass_a_map_over():
    """Only the first and the third read x0: from the second on, 16 comes to it."""
    with Tape("edges") as tape:
        x0, x1 = (
            mark(Tensor(np.ones((1, 1)), requires_grad=True) * 1.0, f"d.x{j}")
            for j in range(2)
        )
        parts = ops.concat([x0, x1], 1), x1 * 1.0, ops.concat([x0, x1], 1)
        factors = np.array([[1.0, 2.0]]), 4.0, np.array([[16.0, 32.0]])
        y = ops.sum(ops.concat([p * f for p, f in zip(parts, factors, strict=True)], 1))
    tape.backward(y)
    (found,) = flow.dense_terms(tape)
    np.testing.assert_array_equal(found.norms, [[1, np.nan, 16], [2, 4, 32]])
    assert found.state_norms == [17.0, pytest.approx(math.hypot(16, 36), rel=1e-15)]


def test_depths_are_measured_in_training_mode_unless_told():
    images, labels = np.ones((2, 3, 8, 8)), np.array([0, 1])
    images[1, :, :4] = -1

    def first(**options):
        how = {"find": models.find, "seeds": [0], "images": images, "labels": labels}
        (point,) = depth.iter_depths(
            [20], ["resnet"], dtype="float64", **how, **options
        )
        return point.weight

    assert first() == first(training=True) != first(training=False)
