"""Blocks of every family: closure, and each term against differences of its path."""

import sys

import numpy as np
import pytest

from tests.models.families import FAMILIES
from tinyflow import Tape, Tensor, flow, nn
from tinyflow.flow.blocks import find_blocks, split
from tinyflow.flow.compare import is_dense
from tinyflow.flow.show import tables

BLOCKS = {  # of each kind one that no other test of this folder has
    ("preact_resnet14", "layer1.0"): "pre-activation",
    ("preact_resnet14", "layer1.1"): "identity",
    ("preact_resnet14", "layer2.0"): "option A",
    ("preact_resnet20", "layer1.0"): "projection",
    ("preact_resnet20", "layer3.0"): "projection",
}
WAYS = {  # which of the edges at the forks a term crosses
    "shortcut": {"shortcut"},
    "residual": {"residual", "scale", "squeeze"},
    "gain": {"residual", "scale"},
    "gate": {"residual", "squeeze"},
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
        for of in (sys.modules[type(module).__module__], nn):
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
    v, step = np.random.default_rng(0).standard_normal(x.shape), 1e-6
    for term, way in terms.items():
        ways = WAYS[term]
        slope = (run.h(x + step * v, ways) - run.h(x - step * v, ways)) / (2 * step)
        along = float((slope * g).sum())
        assert float((way * v).sum()) == pytest.approx(along, rel=1e-5), term
        assert abs(along) > 1e-6, term


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
