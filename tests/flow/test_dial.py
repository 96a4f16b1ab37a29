"""A dial is every counterfactual at once, without another backward pass."""

from functools import cache

import numpy as np
import pytest

import models
from tinyflow import Tape, Tensor, flow, nn, ops
from tinyflow.flow.blocks import find_blocks
from tinyflow.flow.counterfactual import branch_edges, counterfactual, first_weight
from tinyflow.flow.probe import cosine, norm

FACTORS = (-3.0, -1.0, 0.0, 0.3, 1.0, 2.0, 10.0)


@cache
def probed(name: str, scale: float = 1.0) -> flow.Probe:
    model = models.build_model(name, image_size=32, seed=1).to(dtype="float64")
    for _, module in model.named_modules():
        if isinstance(module, nn.Dropout | nn.StochasticDepth):
            module.eval()
    for _, p in model.named_parameters():
        if scale != 1 and p.ndim > 1:
            p.data[...] *= scale
    rng = np.random.default_rng(3)
    return flow.probe(model, rng.standard_normal((3, 3, 32, 32)), np.array([1, 7, 2]))


def check(dial: flow.Dial, probe: flow.Probe, edges: list, rounded: float) -> None:
    """Against backward passes with the messages scaled."""
    g = first_weight(probe).grad
    assert dial.closure <= 1e-12
    for f in FACTORS:
        turned = counterfactual(probe, edges, f)
        size = max(norm(turned), norm(g))
        assert dial.norm(f) == pytest.approx(norm(turned), abs=rounded * size)
        change = norm(turned - g) / norm(g)
        assert dial.change(f) == pytest.approx(change, rel=1e-6, abs=1e-7)
        if norm(turned) > 1e-3 * size:
            angle = cosine(turned, g)
            assert dial.cosine(f) == pytest.approx(angle, abs=100 * rounded)


@pytest.mark.parametrize(
    ("name", "block", "branches"),
    [
        ("resnet20", "layer2.1", ("residual", "shortcut")),
        ("resnet20", "layer3.0", ("residual", "shortcut")),
        ("se_resnet20", "layer1.2", ("residual", "shortcut", "scale", "squeeze")),
        ("preact_resnet110", "layer2.7", ("residual",)),
        ("shufflenet_v2_cifar", "stage3.2", ("residual", "shortcut")),
    ],
)
def test_a_dial_equals_the_counterfactual_at_every_factor(name, block, branches):
    probe = probed(name)
    for branch in branches:
        dial = flow.dial(probe, block, branch)
        assert (dial.block, dial.branch) == (block, branch)
        check(dial, probe, branch_edges(probe, block, branch), 1e-11)


def test_the_coefficients_are_those_of_the_square_of_the_norm():
    probe = probed("resnet20")
    dial = flow.dial(probe, "layer2.1", "residual")
    a, b, c = dial.coefficients
    none, whole = (
        norm(counterfactual(probe, branch_edges(probe, "layer2.1", "residual"), f))
        for f in (0, 1)
    )
    assert a == pytest.approx(none**2) and a + 2 * b + c == pytest.approx(whole**2)
    for f in FACTORS:
        assert dial.norm(f) ** 2 == pytest.approx(a + 2 * b * f + c * f * f, rel=1e-9)
    shortest = dial.norm(dial.least)
    assert all(shortest < dial.norm(dial.least + d) for d in (-1e-3, 1e-3))


@pytest.mark.parametrize("name", ["resnet20", "se_resnet20"])
def test_all_residual_branches_turn_together(name):
    probe = probed(name)
    *single, together = flow.dials(probe)
    blocks = find_blocks(probe.tape)
    assert (together.block, together.branch) == ("all", "residual")
    assert len(together.gram) == len(blocks) + 1
    check(together, probe, [e for b in blocks for e in b.through], 1e-11)
    with pytest.raises(flow.FlowError, match="9 branches turn together"):
        _ = together.coefficients
    a_block = 4 if name == "se_resnet20" else 2
    assert [(d.block, d.branch) for d in single[:2]] == [
        (blocks[0].name, "residual"),
        (blocks[0].name, "shortcut"),
    ]
    assert len(single) == a_block * len(blocks)
    g = norm(first_weight(probe).grad)
    for dial in single:
        assert dial.norm(1) == pytest.approx(g, rel=1e-12)
        assert dial.change(1) == 0 and dial.cosine(1) == pytest.approx(1, abs=1e-12)


def test_labelled_branches_and_another_tensor():
    """Inception's branches; the gradient of a map instead of a weight."""
    probe = probed("squeezenet_cifar")
    with pytest.raises(flow.FlowError, match="no residual blocks"):
        flow.dials(probe)
    probe = probed("resnet20")
    block = find_blocks(probe.tape)[4]
    dial = flow.dial(probe, block.name, "shortcut", to=block.x)
    assert dial.to == block.x.name
    cut = counterfactual(probe, [block.shortcut], 0.0, block.x)
    assert dial.norm(0) == pytest.approx(norm(cut), rel=1e-12)


@pytest.mark.parametrize("exponent", [-700, 700])
def test_a_gradient_of_any_size_has_a_dial(exponent):
    """Its squares need not be numbers."""
    probe = probed("resnet20")
    usual = flow.dial(probe, "layer2.1", "residual")
    model = models.build_model("resnet20", image_size=32, seed=1).to(dtype="float64")
    x = Tensor(probe.images.data, name="images")
    with Tape("edges") as tape:
        logits = model(tape.watch(x))
        loss = ops.cross_entropy(logits, np.array([1, 7, 2])) * 2.0**exponent
    tape.backward(loss)
    other = flow.dial(flow.Probe(tape, loss, x, True, logits), "layer2.1", "residual")
    for f in FACTORS:
        assert other.norm(f) == pytest.approx(usual.norm(f) * 2.0**exponent, rel=1e-12)
        assert other.change(f) == pytest.approx(usual.change(f), rel=1e-12)
        assert other.cosine(f) == pytest.approx(usual.cosine(f), rel=1e-12)


def test_what_nothing_reaches_is_zero():
    zero = flow.Dial("b", "residual", "w", 1.0, np.zeros((2, 2)), 0.0)
    assert (zero.norm(5), zero.change(5), zero.cosine(5), zero.least) == (0, 0, None, 0)


def test_a_planted_error_shows_in_the_closure(monkeypatch):
    probe, right = probed("resnet20"), Tape.graded_pullback

    def wrong(*args, **options):
        parts = right(*args, **options)
        return parts | {(1,): parts[(1,)] * 1.001}

    monkeypatch.setattr(Tape, "graded_pullback", wrong)
    assert flow.dial(probe, "layer2.1", "residual").closure > 1e-5


def test_what_is_not_there_is_one_sentence():
    probe = probed("resnet20")
    with pytest.raises(flow.FlowError, match="no block 'layer9'"):
        flow.dial(probe, "layer9", "residual")
    with pytest.raises(flow.FlowError, match="has no squeeze"):
        flow.dial(probe, "layer2.1", "squeeze")
