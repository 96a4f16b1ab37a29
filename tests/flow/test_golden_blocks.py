"""Every number of a block against PyTorch, on initial and on trained weights."""

from dataclasses import asdict

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is the oracle")

from tests.oracles.torch_expected import expected_terms, terms_of
from tests.oracles.torch_nets import STATES, Case, same, size
from tinyflow import flow
from tinyflow.flow.blocks import find_blocks, split

NAMES = ("resnet8", "resnet8b", "se_resnet8", "plain8", "vgg8")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_every_block(name, state, training):
    case = Case(name, state, training)
    found = [asdict(t) for t in flow.block_terms(case.probe().tape)]
    expected = expected_terms(case.oracle())
    assert len(found) == len(expected) >= 3
    for ours, theirs in zip(found, expected, strict=True):
        assert 0 <= ours.pop("closure") < 1e-14
        same(ours, theirs, at=theirs["name"])


def test_flags_that_are_false_too():
    """A branch that works against the shortcut, and gates of either sign."""
    seen = set()
    for seed in range(4):
        case = Case("se_resnet8", training=False, seed=seed)
        weights = {name: p.data for name, p in case.model.named_parameters()}
        for name, factor in (("conv1", 1.0), ("conv2", -0.5)):
            kernel = weights[f"layer1.0.{name}.weight"]
            kernel[...] = 0
            kernel[range(16), range(16), 1, 1] = factor
        for name in ("fc1", "fc2"):
            weights[f"layer1.0.se.{name}.weight"] *= 10
        ours = flow.block_terms(case.probe().tape)[0]
        theirs = expected_terms(case.oracle())[0]
        same({**asdict(ours), **theirs}, asdict(ours))
        seen |= set(ours.flags.items())
    assert {("noh2", True), ("noh2", False), ("noh3", True), ("noh3", False)} <= seen


@pytest.mark.parametrize("name", NAMES)
def test_every_term_entry_by_entry(name):
    case = Case(name, "trained")
    tape = case.probe().tape
    for block, theirs in zip(find_blocks(tape), case.oracle().blocks, strict=True):
        terms, expected = split(tape, block), terms_of(theirs)
        assert list(terms) == list(expected)
        for term, t in expected.items():
            np.testing.assert_allclose(terms[term], t.numpy(), rtol=0, atol=1e-12)


def test_the_closure_is_what_is_missing_relative_to_the_gradient():
    case = Case("resnet8", "trained")
    tape, oracle = case.probe().tape, case.oracle()
    block, theirs = find_blocks(tape)[1], oracle.blocks[1]
    block.residual.grad = block.residual.grad * 1.25
    missing = 0.25 * size(theirs["residual"].g) / size(theirs["x"].g)
    assert flow.measure(tape, block).closure == pytest.approx(missing, rel=1e-10)


def test_a_dead_squeeze_unit_is_counted():
    case = Case("se_resnet8")
    for p in ("layer3.0.se.fc1", "layer2.0.se.fc1"):
        dict(case.model.named_parameters())[f"{p}.bias"].data[0] = -100
    found = [t.gate["dead"] for t in flow.block_terms(case.probe().tape)]
    assert found[1:] == [t["gate"]["dead"] for t in expected_terms(case.oracle())][1:]
    assert found[1] >= 1 / 2 and found[2] >= 1 / 4
