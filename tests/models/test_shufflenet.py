"""ShuffleNet-v2: strides, and its units as the instrument sees them."""

import numpy as np
import pytest

import models
from tinyflow import Tape, Tensor, flow, fork, nn, ops
from tinyflow.flow.blocks import find_blocks, split
from tinyflow.tape import mark

UNITS = [f"stage{i}.{j}" for i, n in ((2, 4), (3, 8), (4, 4)) for j in range(n)]


def probed(name="shufflenet_v2_x1_0"):
    model = models.build_model(name, seed=1).to(dtype="float64").train()
    rng = np.random.default_rng(2)
    images = rng.standard_normal((3, 3, 32, 32))
    return model, flow.probe(model, images, rng.integers(0, 10, 3))


def test_for_cifar_the_strides_before_the_first_stage_are_left_out():
    small, other = (
        models.build_model(f"shufflenet_v2_{n}", seed=None) for n in ("cifar", "x1_0")
    )
    assert [(k, p.shape) for k, p in small.named_parameters()] == [
        (k, p.shape) for k, p in other.named_parameters()
    ]
    stem = 24 * 27  # multiply-adds of a pixel
    assert models.count_macs(small, 32) - stem * 32**2 == (
        models.count_macs(other, 128) - stem * 64**2
    )


@pytest.mark.parametrize("name", [n for n in models.MODELS if "shufflenet" in n])
def test_every_unit_is_found_and_closes(name):
    _, p = probed(name)
    found = flow.block_terms(p.tape)
    assert [t.name for t in found] == UNITS
    for t in found:
        opens = t.name.endswith(".0")
        assert t.kind == ("branches" if opens else "channel split")
        terms = ["branch1", "branch2"] if opens else ["shortcut", "residual"]
        assert list(t.shares) == terms
        assert t.closure <= 1e-12 and sum(t.shares.values()) == pytest.approx(1)
        assert t.mask is None
        if not opens:  # no entry is in both
            assert t.cosines == {"shortcut,residual": 0.0} and t.flags["noh2"]
            squares = t.norms["shortcut"] ** 2 + t.norms["residual"] ** 2
            assert squares == pytest.approx(t.norms["x"] ** 2, rel=1e-12)


def test_each_half_of_a_unit_has_its_own_gradient():
    """∂L/∂x = [g₁ | J_Fᵀ g₂], g being the gradient of y with its channels put back."""
    model, p = probed()
    block = next(b for b in find_blocks(p.tape) if b.name == "stage3.3")
    module = dict(model.named_modules())["stage3.3"].train()
    x, half = block.x.value, module.half
    g = np.concatenate([block.out.grad[:, 0::2], block.out.grad[:, 1::2]], 1)
    with Tape() as tape:
        behind = Tensor(x[:, half:], requires_grad=True)
        f = module.branch2(behind)
    tape.backward(f, np.ascontiguousarray(g[:, half:]))
    terms = split(p.tape, block)
    assert not terms["shortcut"][:, half:].any()
    assert not terms["residual"][:, :half].any()
    np.testing.assert_array_equal(terms["shortcut"][:, :half], g[:, :half])
    size = abs(behind.grad).max()
    np.testing.assert_allclose(
        terms["residual"][:, half:], behind.grad, 0, 1e-12 * size
    )
    np.testing.assert_array_equal(block.f.value, block.out.value[:, 1::2])


def test_path_lengths_count_the_units_that_split():
    _, p = probed("shufflenet_v2_x0_5")
    found = flow.spectrum(p)
    assert found.blocks == 13 and found.closure <= 1e-12
    assert sum(found.shares) == pytest.approx(1)
    assert found.total == pytest.approx(np.linalg.norm(p.tape["stage2.1.in"].grad))


class Joined(nn.Module):
    """A unit by hand: what of x is kept, what is convolved, how H is made of both."""

    def __init__(self, kept, read, make):
        self.kept, self.read, self.make = kept, read, make
        self.conv = nn.Conv2d(len(range(4)[read]), 2, 1, rng=np.random.default_rng(0))

    def forward(self, x):
        shortcut, residual = fork(x, "shortcut", "residual")
        h = self.make(shortcut[:, self.kept], self.conv(residual[:, self.read]))
        return ops.relu(mark(h, "H"))


def joined(kept, f):
    return ops.concat([kept, f], 1)


@pytest.mark.parametrize(
    ("kept", "read", "make", "kind"),
    [
        (slice(0, 2), slice(2, 4), joined, "channel split"),
        (slice(0, 2), slice(2, 4), lambda k, f: ops.concat([f, k], 1), "channel split"),
        (slice(0, 3), slice(3, 4), joined, "channel split"),
        # What is not one, or cannot be told from the edges, is not called so.
        (slice(0, 4), slice(0, 4), joined, "other"),
        (slice(0, 1), slice(2, 4), joined, "other"),
        (slice(0, 2), slice(2, 4), lambda k, f: joined(k * 2.0, f), "other"),
        (
            *(slice(0, 2), slice(2, 4)),
            *(lambda k, f: ops.channel_shuffle(joined(k, f), 2), "other"),
        ),
        (slice(0, 2), slice(2, 4), lambda k, f: f + k, "option A"),
    ],
)
def test_a_unit_is_called_what_its_edges_say(kept, read, make, kind):
    x = Tensor(np.random.default_rng(1).standard_normal((2, 4, 3, 3)))
    unit = Joined(kept, read, make).to(dtype="float64")
    model = nn.Sequential(nn.Conv2d(4, 4, 1, rng=np.random.default_rng(2)), unit)
    model.to(dtype="float64")
    with Tape("edges") as tape:
        loss = ops.sum(ops.mul(*[model(x)] * 2))
    tape.backward(loss)
    (block,) = find_blocks(tape)
    assert block.kind == kind
    found = flow.measure(tape, block)
    assert list(found.shares) == ["shortcut", "residual"] and found.closure <= 1e-12


def test_what_is_joined_whole_is_no_identity():
    """[F(x) | x]: nothing is added, so that ∂L/∂x holds no ∂L/∂H as it is."""

    class Unit(nn.Module):
        def forward(self, x):
            residual, shortcut = fork(x, "residual", "shortcut")
            return ops.relu(mark(ops.concat([ops.tanh(residual), shortcut], 1), "H"))

    x = Tensor(np.ones((1, 2, 1, 1)), requires_grad=True)
    with Tape("edges") as tape:
        loss = ops.sum(nn.Sequential(Unit())(x))
    tape.backward(loss)
    assert [b.kind for b in find_blocks(tape)] == ["other"]


def test_in_a_figure_the_terms_of_both_kinds_of_unit_look_different():
    pytest.importorskip("matplotlib")
    from tinyflow.flow.show.figures_blocks import terms

    _, p = probed("shufflenet_v2_x0_5")
    figure = terms(flow.block_terms(p.tape), "shufflenet_v2_x0_5", "")
    norms, *_ = figure.axes
    looks = {line.get_label(): line.get_color() for line in norms.get_lines()}
    colours = [looks[t] for t in ("branch1", "branch2", "shortcut", "residual")]
    assert len(set(colours)) == 4
    said = " ".join(text.get_text() for text in figure.texts)
    assert "the sum branch1 + branch2 or shortcut + residual." in " ".join(said.split())
