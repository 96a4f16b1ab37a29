"""Numbers of the instrument that can be written down, without PyTorch, and borders."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from tinyflow import Tape, Tensor, flow, fork, mark, nn, ops
from tinyflow.flow import compare, depth
from tinyflow.flow.blocks import find_blocks, has_blocks
from tinyflow.flow.counterfactual import branch_edges, first_weight
from tinyflow.flow.dense import measure_dense
from tinyflow.flow.paths import Spectrum
from tinyflow.flow.probe import cosine, dot, norm, relative
from tinyflow.flow.trace import Row, TraceWriter


class Line(nn.Module):
    """y = relu(x (s + a)), one block on numbers; with `gate`, F = a x (c + k a x)."""

    def __init__(self, a, gate=None):
        self.w = Tensor(np.ones((1, 1, 1, 1)), requires_grad=True)
        self.block = Fork(a, gate)

    def forward(self, x):
        return self.block(ops.mul(x, self.w))


class Fork(nn.Module):
    def __init__(self, a, gate):
        self.a, self.gate = a, gate

    def forward(self, x):
        residual, shortcut = fork(x, "residual", "shortcut")
        f = ops.mul(residual, self.a)
        if self.gate is not None:
            c, k = self.gate
            scale, squeeze = fork(f, "scale", "squeeze")
            f = ops.mul(scale, ops.add(ops.mul(squeeze, k), c))
        return ops.relu(mark(ops.add(f, shortcut), "H"))


def line(a, gate=None, x=1.0, g=2.0):
    """The block's terms for one input x and ∂L/∂y = g; tape and block."""
    with Tape("edges") as tape:
        model = Line(a, gate)
        y = ops.sum(ops.mul(model(Tensor(np.full((2, 1, 1, 1), x))), g))
    tape.backward(y)
    return tape, find_blocks(tape)[0]


@pytest.mark.parametrize("a", [0.5, -0.5, -1.5, 3.0])
def test_a_block_of_one_number(a):
    """g_x = (1 + a) g: every field by hand."""
    t = flow.measure(*line(a, x=1.0 if a > -1 else -1.0))
    root = math.sqrt(2)
    assert t.norms == pytest.approx(
        {
            "x": abs(1 + a) * 2 * root,
            "H": 2 * root,
            "y": 2 * root,
            "shortcut": 2 * root,
            "residual": abs(a) * 2 * root,
        }
    )
    assert t.ratio == pytest.approx(abs(1 + a))
    assert t.shares == pytest.approx({"shortcut": 1 / (1 + a), "residual": a / (1 + a)})
    assert t.cosines == pytest.approx({"shortcut,residual": math.copysign(1, a)})
    assert t.cancellation == pytest.approx(abs(1 + a) / (1 + abs(a)))
    assert (t.mask, t.shape, t.kind) == (1.0, (2, 1, 1, 1), "identity")
    assert t.flags == {"noh2": a >= 0 or a <= -2, "triangle": True}


def test_a_gate_of_one_number():
    """F = a x (c + k a x): gain (c + k a x) a g, gate k a x a g, slope of s by hand."""
    a, c, k = 0.5, 0.25, 0.5
    t = flow.measure(*line(a, (c, k), x=2.0))
    s = c + k * a * 2.0
    parts = {"shortcut": 1.0, "gain": s * a, "gate": k * a * 2.0 * a}
    total = sum(parts.values())
    assert t.shares == pytest.approx({n: p / total for n, p in parts.items()})
    assert t.gate == pytest.approx(
        {"mean": s, "min": s, "max": s, "slope": s * (1 - s), "dead": 0.0}
    )
    found = compare.against_shortcut(t)
    assert found == pytest.approx(1.0)


@pytest.mark.parametrize(("below", "holds"), [(0.9e-6, True), (1.1e-6, False)])
def test_flags_allow_a_millionth(below, holds):
    """‖g_x‖, ‖shortcut + gate‖ just above and just below their borders."""
    assert flow.measure(*line(-below)).flags["noh2"] is holds
    t = flow.measure(*line(1.0, (2.0, -below)))
    assert t.flags["noh3"] is holds
    assert t.flags["noh2"] is True


@pytest.mark.parametrize("a", [0.0, -0.5, 0.5])
def test_the_triangle_at_its_border(a):
    """‖g_x‖ ≥ |‖shortcut‖ - ‖rest‖| (1 - ε) - ε Σ‖term‖ with ε = 1e-6."""
    size = abs(1 - abs(a)) * (1 - 1e-6) - 1e-6 * (1 + abs(a))
    for factor, holds in ((1 + 1e-9, True), (1 - 1e-9, False)):
        tape, block = line(a)
        block.x.grad = block.h.grad * (size * factor)
        assert flow.measure(tape, block).flags["triangle"] is holds


def test_no_gradient_at_all_is_zero_everywhere_and_no_error():
    t = flow.measure(*line(0.5, (0.2, 0.3), g=0.0))
    assert set(t.norms.values()) == {0.0} == set(t.shares.values())
    assert (t.ratio, t.cancellation, t.closure) == (0.0, 0.0, 0.0)
    assert set(t.cosines.values()) == {None}
    assert compare.against_shortcut(t) is None
    found = flow.measure_branch(SimpleNamespace(**probe_of(g=0.0)), "block", "residual")
    assert (found.norm_ratio, found.change, found.cosine) == (0.0, 0.0, None)
    found = flow.spectrum(SimpleNamespace(**probe_of(g=0.0)))
    assert found.shares == [0.0, 0.0] and found.closure == 0.0


def probe_of(g=2.0, retain="edges"):
    with Tape(retain) as tape:
        loss = ops.sum(ops.mul(Line(0.5)(Tensor(np.ones((2, 1, 1, 1)))), g))
    tape.backward(loss)
    return {"tape": tape, "loss": loss}


def test_what_keeps_no_gradients_cannot_be_analysed():
    p = SimpleNamespace(**probe_of(retain="leaves"))
    (block,) = find_blocks(p.tape)
    for ask in (
        lambda: flow.measure(p.tape, block),
        lambda: flow.split(p.tape, block),
        lambda: flow.spectrum(p),
    ):
        with pytest.raises(flow.FlowError, match="gradient"):
            ask()
    first_weight(p).grad = None
    with pytest.raises(flow.FlowError, match="holds no gradient"):
        flow.measure_branch(p, "block", "residual")


def test_a_block_has_both_marks():
    tape = Tape()
    with tape:
        x = ops.mul(Tensor(np.ones(1), requires_grad=True), 1.0)
        assert not has_blocks(tape)
        mark(x, "a.in")
        assert not has_blocks(tape)
        mark(x, "b.H")
        assert not has_blocks(tape)
        mark(x, "a.H")
    assert has_blocks(tape)


class OnImages(nn.Module):
    """A block that reads the images themselves, as VGG's first one does."""

    def __init__(self):
        self.w = Tensor(np.full((1, 1, 1, 1), 3.0), requires_grad=True)

    def forward(self, x):
        return ops.relu(mark(ops.mul(x, self.w), "H"))


@pytest.mark.parametrize("watched", [True, False])
def test_a_block_on_the_images_has_terms_where_these_are_watched(watched):
    x = Tensor(np.ones((1, 1, 2, 2)))
    with Tape("edges") as tape:
        net = nn.Sequential(block=OnImages())
        loss = ops.sum(net(tape.watch(x) if watched else x))
    tape.backward(loss)
    found = flow.block_terms(tape)
    assert [t.norms["x"] for t in found] == ([6.0] if watched else [])


def test_a_dense_block_of_two_maps():
    """A reader of x0, and one of both: contributions (3, 1), (0, 4) and (1, 2)."""
    w, v = (Tensor(np.ones((2, 1)), requires_grad=True) for _ in "wv")
    with Tape("edges") as tape:
        x0, x1 = mark(ops.mul(w, 1.0), "d.x0"), mark(ops.mul(v, 1.0), "d.x1")
        one = ops.sum(ops.mul(x0, np.array([[3.0], [1.0]])))
        both = ops.mul(ops.concat([x0, x1], 1), np.array([[0.0, 1.0], [4.0, 2.0]]))
        loss = ops.add(one, ops.sum(both))
    tape.backward(loss)
    found = measure_dense(tape, "d")
    root = np.sqrt
    assert np.allclose(found.norms, [[root(10), 4], [np.nan, root(5)]], equal_nan=True)
    shares = [[14 / 34, 20 / 34], [np.nan, 1]]
    assert np.allclose(found.shares, shares, equal_nan=True)
    assert found.totals == pytest.approx([root(34), root(5)])
    assert found.rms == pytest.approx([root(17), root(2.5)])
    assert found.readers == [2, 1] and math.isnan(found.exponent)
    assert found.coherence == pytest.approx([root(34 / 26), 1])
    assert found.effective == pytest.approx([26**2 / (10**2 + 16**2), 1])
    assert found.state_norms == pytest.approx([root(34), root(16 + 5)])
    assert found.closure == 0.0


def test_a_counterfactual_of_one_number():
    """∂L/∂w is 6, of which 2 comes along the residual branch."""
    p = SimpleNamespace(**probe_of())
    for factor, left in ((0.0, 4.0), (0.5, 5.0), (-3.0, -2.0)):
        found = flow.measure_branch(p, "block", "residual", factor)
        assert found.norm_ratio == pytest.approx(abs(left) / 6)
        assert found.change == pytest.approx(abs(left - 6) / 6)
        assert found.cosine == pytest.approx(math.copysign(1, left))


def test_a_point_of_a_depth_sweep(monkeypatch):
    """First 3√2, last √2, the weight 6; the loss Σ 2 (1 + ½) over two entries."""
    monkeypatch.setattr(depth, "probe", lambda *a, **how: SimpleNamespace(**probe_of()))
    found = depth.measure_depth(None, "plain", 20, 3, None, None)
    assert (found.kind, found.depth, found.seed) == ("plain", 20, 3)
    root = math.sqrt(2)
    numbers = found.first, found.last, found.growth, found.weight, found.loss
    assert numbers == pytest.approx((3 * root, root, 3, 6, 6))
    assert found.closure == 0.0


def test_medians_and_means_over_blocks():
    """With g_x = (1 + a) g: ratios 1 + a, shares 1 / (1 + a) and a / (1 + a)."""
    blocks = [flow.measure(*line(a, x=1.0)) for a in (1.0, 7.0, -0.5, 3.0)]
    s = compare.Summary("n", "s", "d", 1, 0.0, blocks, [], 0.0)
    assert s.ratio == pytest.approx((2 + 4) / 2)
    assert s.share("shortcut") == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert s.share("gain", "residual") == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert s.share("gate") is None
    assert s.cosine == pytest.approx((1 + 1 - 1 + 1) / 4)
    root = math.sqrt(2)
    assert s.ends == pytest.approx((2 * 2 * root, 4 * 2 * root))


def chain(count):
    """Blocks layer1.0 … marked by hand, whose outputs have no names."""
    x = Tensor(np.ones(1), requires_grad=True)
    with Tape("edges") as tape:
        for i in range(count):
            x = mark(ops.mul(x, 2.0), f"layer1.{i}.in")
            x = mark(ops.mul(x, 2.0), f"layer1.{i}.H")
    tape.backward(x)
    return tape


def test_a_block_whose_output_has_no_name():
    (terms,) = flow.block_terms(chain(1))
    assert terms.norms == {"x": 2.0, "H": 1.0, "F": 2.0}


def test_up_to_four_blocks_are_proposed():
    p = SimpleNamespace(tape=chain(6))
    for wrong, near in (("nothing", "0123"), ("layer1.9", "5432")):
        with pytest.raises(flow.FlowError) as found:
            branch_edges(p, wrong, "residual")
        said = ", ".join(f"layer1.{i}" for i in near)
        assert str(found.value) == f"no block {wrong!r}; there are 6, among them {said}"


def test_how_far_a_spectrum_is():
    """Looking at both paths of one block costs four of its pullbacks, the sweep one."""
    p = SimpleNamespace(**probe_of())
    n, seen = len(p.tape.nodes), []
    flow.spectrum(p, progress=seen.append)
    first = p.tape["block.in"].index
    assert seen == pytest.approx([(k / n) ** 2 for k in range(1, n - first)] + [1])
    part, seen = seen, []
    flow.spectrum(p, veit_samples=3, progress=seen.append)
    assert seen == pytest.approx([s / 5 for s in part] + [1 / 5 + 2 / 5, 1])


def test_a_trace_keeps_the_worst_closure(tmp_path):
    writer = TraceWriter(tmp_path)
    assert writer.closure_max == 0.0
    for factor, worst in ((1.0, 0.0), (1.75, 0.25), (1.25, 0.25)):
        tape, block = line(0.5)
        block.residual.grad = block.residual.grad * factor
        writer(0, 1.0, tape)
        assert writer.closure_max == pytest.approx(worst)


# --- formulas on given numbers --------------------------------------------------------


def test_spectrum_sums():
    s = Spectrum(3, [0, 1, 2, 3], [1.0] * 4, [0.5, 0.25, -0.5, 0.75], [1] * 4, 1, 0, 0)
    assert s.mean_length() == 0 * 0.5 + 1 * 0.25 + 2 * -0.5 + 3 * 0.75
    for low, high, total in ((0, 3, 1.0), (1, 2, -0.25), (2, 2, -0.5), (3, 9, 0.75)):
        assert s.share_between(low, high) == total


def test_norms_products_and_quotients():
    a, b = np.array([3.0, 4.0]), np.array([-4.0, 3.0])
    assert norm(a) == 5 and dot(a, b) == 0 and norm(None) == dot(None, a) == 0
    assert dot(a, None) == 0.0
    assert cosine(a, b) == 0 and cosine(a, 2 * a) == pytest.approx(1)
    assert cosine(a, 0 * a) is None and cosine(None, a) is None
    four = np.arange(16.0).reshape(1, 4, 2, 2)
    assert dot(four, four) == (np.arange(16.0) ** 2).sum()
    assert relative(a, b) == 1 and relative(a, 0 * b) == 5
    assert depth.ratio(6.0, 3.0) == 2 and depth.ratio(1.0, 0.0) == math.inf
    node = SimpleNamespace(grad=np.full((2, 8), 3.0), shape=(2, 8))
    assert depth.rms(node) == 3.0


def test_the_first_weight_is_a_leaf_with_axes_that_is_trained():
    with Tape() as tape:
        frozen = Tensor(np.ones((2, 2)))
        bias = Tensor(np.ones(2), requires_grad=True)
        weight = Tensor(np.ones((2, 2)), requires_grad=True)
        y = ops.add(ops.mul(tape.watch(frozen), 2.0), bias)
        ops.mul(ops.mul(y, y), weight)
    assert first_weight(SimpleNamespace(tape=tape)) is weight.node
    with Tape() as tape:
        ops.mul(bias, 2.0)
    with pytest.raises(flow.FlowError, match="no trainable weight"):
        first_weight(SimpleNamespace(tape=tape))


def test_the_worst_error_and_what_shares_miss():
    assert compare.worst([]) == 0 and compare.worst([1.0, 3.0, 2.0]) == 3
    assert math.isnan(compare.worst([1.0, math.nan]))
    rows = [
        Row(0, 1.0, "a", "identity", "x", 1.0, None, None),
        Row(0, 1.0, "a", "identity", "shortcut", 1.0, 3.0, None),
        Row(0, 1.0, "a", "identity", "residual", 1.0, -2.5, None),
        Row(0, 1.0, "b", "identity", "F", 1.0, 0.75, None),
        Row(1, 1.0, "b", "identity", "F", 1.0, 1.0, None),
        Row(1, 1.0, "c", "identity", "F", 0.0, 0.0, None),
    ]
    assert compare.missing_share(rows[:3]) == pytest.approx(0.5 / 5.5)
    assert compare.missing_share(rows) == 0.25
    assert compare.missing_share(rows[4:]) == 0 == compare.missing_share([])


def test_ratios_of_a_dense_block_without_gradient():
    d = SimpleNamespace(state_norms=[3.0, 0.0])
    s = compare.Summary("n", "s", "d", 1, 0.0, [], [d], 0.0)
    assert s.ratio == 3.0 and s.ends == (3.0, 3.0) and s.cosine is None
    assert s.share("shortcut") is None


def test_a_counterfactual_to_any_place():
    p = SimpleNamespace(**probe_of())
    (block,) = find_blocks(p.tape)
    found = flow.counterfactual(p, [block.residual], 0.5, block.x)
    assert found.ravel().tolist() == [2.0 * (1 + 0.5 * 0.5)] * 2
    assert flow.counterfactual(p, [block.residual]).item() == 2 * 2.0


def test_an_empty_map_has_a_size_of_one():
    """‖∂L/∂x‖ per √(number of entries), where there are none."""
    node = SimpleNamespace(grad=np.zeros((0, 3)), shape=(0, 3))
    assert depth.rms(node) == 0.0


def test_maps_without_gradient_have_no_contributions():
    """N_eff, R and shares of zeros are 0, and no division is tried."""
    with Tape("edges") as tape:
        x = ops.mul(Tensor(np.ones((2, 1, 1, 1)), requires_grad=True), 1.0)
        mark(x, "d.x0")
        loss = ops.sum(ops.mul(ops.add(ops.mul(x, 2.0), ops.mul(x, 3.0)), 0.0))
    tape.backward(loss)
    found = measure_dense(tape, "d")
    assert found.effective == found.coherence == found.totals == found.rms == [0.0]
    assert found.shares.tolist() == [[0.0, 0.0]] and found.state_norms == [0.0]
    assert found.readers == [2] and math.isnan(found.exponent) and found.closure == 0
