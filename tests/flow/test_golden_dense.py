"""Every number of a dense block against PyTorch, on initial and on trained weights."""

import math
from dataclasses import asdict

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is the oracle")

import torch

from tests.oracles.torch_expected import expected_dense
from tests.oracles.torch_nets import STATES, Case, angle, same, size
from tinyflow import flow
from tinyflow.flow.claims.sums import layer_sum
from tinyflow.flow.depth import ends, rms
from tinyflow.flow.probe import norm


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("state", STATES)
def test_every_field_of_every_dense_block(state, training):
    case = Case("densenet8", state, training)
    found = [asdict(b) for b in flow.dense_terms(case.probe().tape)]
    expected = expected_dense(case.oracle(), case.oracle)
    assert [len(b["consumers"]) for b in expected] == [5, 3]
    for ours, theirs in zip(found, expected, strict=True):
        assert 0 <= ours.pop("closure") < 1e-14
        sources = ours.pop("sources")
        assert len(sources) == len(theirs["totals"]) == len(set(sources))
        ours |= {key: ours[key].tolist() for key in ("norms", "shares")}
        same(ours, theirs, at=theirs["name"])


def test_closure_is_the_worst_map_relative_to_its_gradient():
    case = Case("densenet8", "trained")
    tape = case.probe().tape
    theirs = case.oracle().dense[0]
    worst = 0.0
    for j, c, factor in ((0, 1, 1.5), (2, 3, 1.001)):
        edge = tape.edges(f"features.denseblock1.x{j}")[c - j]
        edge.grad = edge.grad * factor
        missing = (factor - 1) * size(theirs["readers"][c][1][j].g)
        worst = max(worst, missing / size(theirs["maps"][j].g))
    assert flow.dense_terms(tape)[0].closure == pytest.approx(worst, rel=1e-9)


@pytest.mark.parametrize("state", STATES)
def test_sums_with_partial_and_with_total_jacobians(state):
    """Σ over later maps of (∂x_l/∂x_j)ᵀ g_l, by PyTorch: all paths, or direct ones."""
    case = Case("densenet8", state)
    tape, oracle = case.probe().tape, case.oracle()
    for i, block in enumerate(flow.dense_terms(tape)):
        maps, readers = oracle.dense[i]["maps"], oracle.dense[i]["readers"]
        for j in range(len(maps) - 1):
            ours, g = layer_sum(tape, block, j), maps[j].g
            tail = readers[-1][1][j].g
            every = tail + sum(
                torch.autograd.grad(x, maps[j], x.g, retain_graph=True)[0]
                for x in maps[j + 1 :]
            )
            direct = tail + sum(
                torch.autograd.grad(x, uses[j], x.g, retain_graph=True)[0]
                for x, (_, uses) in zip(maps[1:], readers, strict=False)
                if j < len(uses)
            )
            assert size(direct - g) / size(g) < 1e-13
            assert ours.closure < 1e-13 and ours.later == len(maps) - 1 - j
            assert ours.name == f"denseblock{i + 1}.x{j}"
            found = (ours.excess, ours.factor, ours.cosine)
            same(
                list(found),
                [size(every - g) / size(g), size(every) / size(g), angle(every, g)],
            )


@pytest.mark.parametrize("name", ["densenet8", "resnet8", "vgg8"])
def test_the_ends_of_a_network(name):
    """The first value that a block reads and a layer made; the last map."""
    case = Case(name, "trained")
    first, last = ends(case.probe().tape)
    oracle = case.oracle()
    at = {"densenet8": lambda: oracle.dense[0]["maps"][0]}
    at |= {
        "resnet8": lambda: oracle.blocks[0]["x"],
        "vgg8": lambda: oracle.blocks[1]["x"],
    }
    for node, theirs in ((first, at[name]()), (last, oracle.last)):
        assert node.shape == tuple(theirs.shape)
        same([norm(node.grad), rms(node)], [size(theirs.g), rms_of(theirs.g)])


def rms_of(g):
    """Root of the mean square."""
    return float((g**2).mean().sqrt())


def test_the_exponent_is_the_slope_of_a_fitted_line():
    from tinyflow.flow.dense import fit_exponent

    m = [4, 3, 2, 1]
    for alpha in (0.5, -1.0, 2.0):
        exact = fit_exponent(m, [3 * n**alpha for n in m])
        assert exact == pytest.approx(alpha, rel=1e-12)
    assert fit_exponent([1, 2, 4], [1.0, 2.0, 1.0]) == pytest.approx(0, abs=1e-12)
    assert math.isnan(fit_exponent([1, 2], [1.0, 2.0]))
    assert math.isnan(fit_exponent([1, 2, 2], [1.0, 2.0, 3.0]))
    assert math.isnan(fit_exponent([1, 2, 3], [1.0, 2.0, 0.0]))
    assert not math.isnan(fit_exponent([1, 2, 3, 0], [1.0, 2.0, 1.0, 5.0]))
    assert np.isnan(fit_exponent([], []))
