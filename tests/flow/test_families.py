"""Blocks of every family: closure, and each term against differences of its path."""

import sys

import numpy as np
import pytest

from tests.models.families import FAMILIES
from tinyflow import Tape, Tensor, flow
from tinyflow.flow.blocks import find_blocks, split
from tinyflow.flow.compare import is_dense
from tinyflow.flow.show import tables
from tinyflow.network import Network
from tinyflow.nn import gate

BLOCKS = {  # of each kind one that no other test of this folder has
    ("preact_resnet14", "layer1.0"): "pre-activation",
    ("preact_resnet14", "layer1.1"): "identity",
    ("preact_resnet14", "layer2.0"): "option A",
    ("preact_resnet20", "layer1.0"): "projection",
    ("preact_resnet20", "layer3.0"): "projection",
    ("shufflenet", "stage2.0"): "branches",
    ("shufflenet", "stage3.2"): "channel split",
    ("shufflenet_cifar", "stage2.1"): "channel split",
    ("resnet_rs", "layer1.0"): "projection",
    ("resnet_rs", "layer2.0"): "average pool",
    ("resnet_rs", "layer2.1"): "identity",
}
WAYS = {  # which of the edges at the forks a term crosses
    "shortcut": {"shortcut"},
    "residual": {"residual", "scale", "squeeze"},
    "gain": {"residual", "scale"},
    "gate": {"residual", "squeeze"},
    "branch1": {"branch1"},
    "branch2": {"branch2"},
}


def probed(name):
    small = FAMILIES[name]
    model = small.moved()
    return model, flow.probe(model, *small.batch())


@pytest.mark.parametrize("name", FAMILIES)
def test_terms_of_a_family_add_up(name):
    _, p = probed(name)
    assert set(p.tape.closure().values()) == {0.0}
    if is_dense(p.tape):
        assert all(d.closure <= 1e-12 for d in flow.dense_terms(p.tape))
        return
    found = flow.block_terms(p.tape)
    assert len(found) >= 3 and max(t.closure for t in found) <= 1e-12
    for t in found:
        assert sum(t.shares.values()) == pytest.approx(1, abs=1e-9)
        assert t.flags.get("triangle", True)


class Forks:
    """Stands in for `fork`: some uses get the values of a run from elsewhere."""

    def __init__(self, patch, module):
        self.held, self.ways, self.met = [], None, 0
        for of in (sys.modules[type(module).__module__], gate):
            patch.setattr(of, "fork", self)
        self.module = module

    def __call__(self, x, *labels):
        if self.ways is None:
            self.held.append(x)
            return (x,) * len(labels)
        held, self.met = self.held[self.met], self.met + 1
        return tuple(x if label in self.ways else held for label in labels)

    def h(self, x, ways):
        """H at `x` along these ways; the values of all others are those held."""
        self.ways, self.met = ways, 0
        with Tape("tensors") as tape:
            self.module(Tensor(x, requires_grad=True))
        return tape["H"].value


@pytest.mark.parametrize(("name", "block"), BLOCKS)
def test_each_term_against_finite_differences_of_its_path(name, block, monkeypatch):
    model, p = probed(name)
    (found,) = [b for b in find_blocks(p.tape) if b.name == block]
    assert found.kind == BLOCKS[name, block]
    terms, x, g = split(p.tape, found), found.x.value, found.h.grad
    model.train()
    run = Forks(monkeypatch, dict(model.named_modules())[block])
    assert np.array_equal(run.h(x, None), found.h.value)
    v = np.random.default_rng(0).standard_normal(x.shape)
    for term, way in terms.items():
        along, errors = float((way * v).sum()), []
        for step in (1e-6, 1e-7):  # the corner of a ReLU inside a step spoils it
            ends = (run.h(x + sign * step * v, WAYS[term]) for sign in (1, -1))
            slope = float(((next(ends) - next(ends)) * g).sum()) / (2 * step)
            errors.append(abs(slope - along))
        assert min(errors) <= 1e-6 * abs(along) and abs(along) > 1e-6, (term, errors)


def test_a_gate_in_front_of_a_branch_that_is_dropped_is_found():
    small = FAMILIES["resnet_rs"]
    network = Network("small", small.make)
    model = network.build(image_size=20, stochastic_depth=0.9).to(dtype="float64")
    for block in model.layer4:
        block.bn3.weight.data[...] = 1
    p = flow.probe(model, *small.batch(12))
    (found,) = [b for b in find_blocks(p.tape) if b.name == "layer4.0"]
    assert found.h.edges[0].producer.name == "layer4.0.drop.mul"
    terms = split(p.tape, found)
    assert list(terms) == ["shortcut", "gain", "gate"]
    kept = np.abs(found.h.edges[0].producer.value).max((1, 2, 3)) > 0
    assert 0 < kept.sum() < 12  # 0.9 of the branches are not there
    for branch in (found.scale.grad, found.squeeze.grad):
        assert not branch[~kept].any() and branch[kept].any()
    assert flow.measure(p.tape, found).closure <= 1e-12


def test_path_lengths_where_the_fork_lies_behind_the_input():
    _, p = probed("preact_resnet14")
    found = flow.spectrum(p, veit_samples=1)
    assert found.blocks == 6 and found.closure <= 1e-12
    assert [len(s) for s in found.singles] == found.paths == [1, 6, 15, 20, 15, 6, 1]
    assert sum(found.shares) == pytest.approx(1)


def test_without_a_relu_behind_the_sum_there_is_no_mask():
    _, p = probed("preact_resnet14")
    found = flow.block_terms(p.tape)
    assert [t.mask for t in found] == [None] * 6
    for t, b in zip(found, find_blocks(p.tape), strict=True):
        assert t.norms["H"] == t.norms["y"] == pytest.approx(np.linalg.norm(b.h.grad))
    table = tables.blocks(found, "")
    (shown,) = [c for c in table.columns if c.heading == "H > 0"]
    assert set(shown.write(shown.values)) == {"-"}
