"""Dropout and stochastic depth inside the networks: where, how often, what is left."""

import numpy as np
import pytest

import models
from models.resnet import Bottleneck
from tinyflow import Tape, Tensor, nn, ops
from tinyflow.network import Network

RNG = np.random.default_rng


def images(n=2):
    return Tensor(RNG(0).normal(size=(n, 3, 32, 32)).astype("float32"))


def build(name, **options):
    return models.find(name).build(seed=0, **options)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("resnet20", "dropout"),
        ("resnet18", "dropout"),
        ("densenet121", "dropout"),
        ("vgg11_bn", "dropout"),
        ("resnet20", "stochastic_depth"),
        ("se_resnet50", "stochastic_depth"),
    ],
)
def test_evaluation_and_weights_are_the_same_with_it(name, option):
    without, dropping = build(name), build(name, **{option: 0.6})
    for (n, a), (m, b) in zip(
        without.state_dict().items(), dropping.state_dict().items(), strict=True
    ):
        assert n == m and (a == b).all()
    x = images()
    assert (without.eval()(x).data == dropping.eval()(x).data).all()
    if name != "vgg11_bn":
        assert (without.train()(x).data != dropping.train()(x).data).any()


@pytest.mark.parametrize(
    ("name", "convolutions"),
    [("densenet121", 1 + 2 * 58 + 3), ("densenet40_12", 1 + 36 + 2)],
)
def test_densenet_drops_after_each_convolution_but_the_stem(name, convolutions):
    model = build(name, dropout=0.25).train()
    with Tape() as tape:
        model(images(2))
    dropped = {n.edges[0].producer for n in tape.nodes if n.op == "dropout"}
    convolved = [n for n in tape.nodes if n.op == "conv2d"]
    assert len(convolved) == convolutions
    assert dropped == set(convolved[1:])


def test_probabilities_rise_linearly_to_the_last_block():
    for name, blocks in (("resnet20", 9), ("resnet50", 16)):
        model = build(name, stochastic_depth=0.5)
        inside = [module for _, module in model.named_modules()]
        found = [m.p for m in inside if isinstance(m, nn.StochasticDepth)]
        assert found == pytest.approx([0.5 * i / blocks for i in range(1, blocks + 1)])


def test_probabilities_of_resnet_rs_rise_by_stage():
    """As in the authors' code: (i + 1) / 5 of the last, in stage i."""
    model = build("resnet_rs50", stochastic_depth=0.1, dropout=0.25)
    inside = [module for _, module in model.named_modules()]
    found = [m.p for m in inside if isinstance(m, nn.StochasticDepth)]
    by_stage = [0.04] * 3 + [0.06] * 4 + [0.08] * 6 + [0.1] * 3
    assert found == pytest.approx(by_stage)
    assert [m.p for m in inside if isinstance(m, nn.Dropout)] == [0.25]
    assert not any(m.bn3.weight.data.any() for m in inside if isinstance(m, Bottleneck))


def test_a_branch_goes_as_a_whole_image_by_image():
    drop = nn.StochasticDepth(0.3, rng=RNG(1)).train()
    x = Tensor(RNG(2).normal(size=(4000, 2, 3)), requires_grad=True)
    with Tape() as tape:
        y = drop(x)
        loss = ops.sum(y * y)
    tape.backward(loss)
    kept = y.data[:, 0, 0] != 0
    np.testing.assert_allclose(y.data[kept], x.data[kept] / 0.7, rtol=1e-12)
    assert (y.data[~kept] == 0).all() and (x.grad[~kept] == 0).all()
    np.testing.assert_allclose(x.grad[kept], 2 * x.data[kept] / 0.49, rtol=1e-12)
    # 4000 draws: five standard deviations of the mean are 0.036.
    assert abs(kept.mean() - 0.7) < 0.036
    assert drop.eval()(x) is x


def test_what_a_network_has_not_is_refused():
    for name, options, said in (
        ("densenet121", {"stochastic_depth": 0.1}, "densenet121 has no stochastic_dep"),
        ("plain20", {"stochastic_depth": 0.1}, "needs shortcuts"),
        ("vgg11", {"stochastic_depth": 0.1}, "vgg11 has no stochastic_depth"),
    ):
        with pytest.raises(ValueError, match=said):
            build(name, **options)
    own = Network("mine", lambda **given: nn.Linear(given["more"], 2, rng=None))
    assert own.build(more=7).weight.shape == (2, 7)
