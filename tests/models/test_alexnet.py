"""AlexNet, twice: counts, PyTorch with narrow linear layers, and its blocks."""

import numpy as np
import pytest

import models
from models import alexnet
from tests.models.compare import same_as_pytorch
from tinyflow import Tape, Tensor, flow
from tinyflow.optim import SGD
from tinyflow.train.step import train_step

COUNTS = {  # parameters and multiply-adds for 1000 classes, parameters for 10
    "alexnet": (61_100_840, 714_188_480, 57_044_810),
    "alexnet_2012": (60_965_224, 724_406_816, 56_909_194),
}
SIDES = {"alexnet": 95, "alexnet_2012": 99}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_equal_the_papers(name):
    large, macs, small = COUNTS[name]
    side = models.find(name).native
    model = models.build_model(name, num_classes=1000, image_size=side, seed=None)
    assert models.count_parameters(model) == large
    assert models.count_macs(model, side) == macs
    for size in (models.find(name).smallest, side):
        model = models.build_model(name, image_size=size, seed=None)
        assert models.count_parameters(model) == small
    with Tape("tensors") as tape:
        model.eval()(Tensor(np.zeros((0, 3, side, side), np.float32)))
    assert tape["features"].shape[1:] == (256, 6, 6)


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(alexnet, "HIDDEN", 32)


def built(name, batch=2):
    side = SIDES[name]
    model = models.find(name).build(image_size=side, seed=3, dropout=0.0)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, side, side))
    return model.to(dtype="float64").train(), images, rng.integers(0, 10, batch)


def in_pytorch(torch, name, p, x):
    """Layer after layer, from the papers; `p` are weight and bias of each in turn."""
    function = torch.nn.functional

    def conv(x, stride=1, padding=0, groups=1):
        return function.conv2d(x, next(p), next(p), stride, padding, 1, groups).relu()

    def around(x):
        """1 / (2 + 1e-4 Σ of five squares) ** 0.75, written out."""
        square = function.pad(x**2, (0, 0, 0, 0, 2, 2))
        total = sum(square[:, i : i + x.shape[1]] for i in range(5))
        return x / (2 + 1e-4 * total) ** 0.75

    if name == "alexnet":
        x = function.max_pool2d(conv(x, 4, 2), 3, 2)
        x = function.max_pool2d(conv(x, 1, 2), 3, 2)
        x = conv(conv(conv(x, 1, 1), 1, 1), 1, 1)
    else:
        x = function.max_pool2d(around(conv(x, 4)), 3, 2)
        x = function.max_pool2d(around(conv(x, 1, 2, 2)), 3, 2)
        x = conv(conv(conv(x, 1, 1), 1, 1, 2), 1, 1, 2)
    x = function.adaptive_avg_pool2d(function.max_pool2d(x, 3, 2), 6).flatten(1)
    x = function.linear(x, next(p), next(p)).relu()
    x = function.linear(x, next(p), next(p)).relu()
    return function.linear(x, next(p), next(p))


@pytest.mark.parametrize("name", COUNTS)
def test_loss_and_every_gradient_equal_pytorchs(name, narrow):
    torch = pytest.importorskip("torch")
    model, images, labels = built(name)
    theirs = {
        n: torch.tensor(np.array(p.data), requires_grad=True)
        for n, p in model.named_parameters()
    }
    left = iter(theirs.values())

    def peer(t):
        return in_pytorch(torch, name, left, t)

    same_as_pytorch(torch, model, images, labels, peer, theirs)
    assert next(left, None) is None


@pytest.mark.parametrize("name", COUNTS)
def test_every_convolution_is_a_block_that_closes(name, narrow):
    p = flow.probe(*built(name))
    found = flow.block_terms(p.tape)
    assert [t.kind for t in found] == ["plain"] * 5
    assert max(t.closure for t in found) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_it_learns_a_batch(name, narrow):
    model, images, _ = built(name, 16)
    model.to(dtype="float32")
    labels = np.arange(16) % 4
    images = (images + labels[:, None, None, None]).astype("float32")
    rule = SGD(list(model.named_parameters()), 0.001, 0.9)
    losses = [float(train_step(model, images, labels, rule).loss) for _ in range(30)]
    assert np.mean(losses[-5:]) < 0.7 * losses[0], losses
