"""The Inception networks: counts, PyTorch, and what the instrument sees of them."""

import numpy as np
import pytest

import models
from models.branches import Branches, Mixed, conv_unit
from tests.models.compare import same_as_pytorch
from tinyflow import Tensor, flow, nn, ops
from tinyflow.flow.blocks import find_blocks, split
from tinyflow.optim import SGD
from tinyflow.train.step import train_step

# Parameters and multiply-adds for 1000 classes, parameters for 10: torchvision's and
# timm's where they publish them, the others counted independently from the tables.
COUNTS = {
    "googlenet": (6_998_552, 1_582_671_872, 5_983_802),
    "googlenet_bn": (6_624_904, 1_498_376_192, 5_610_154),
    "inception_v3": (23_834_568, 5_713_216_096, 21_806_058),
    "inception_v4": (42_679_816, 12_253_974_624, 41_158_186),
    "inception_resnet_v1": (22_756_328, 6_206_361_696, 20_981_258),
    "inception_resnet_v2_paper": (32_433_928, 9_257_953_632, 30_310_378),
    "inception_resnet_v2": (55_843_464, 13_155_794_016, 54_321_834),
}
WITH_HEADS = {  # the same with auxiliary classifiers
    "googlenet_bn_aux": (13_004_888, None),
    "inception_v3_aux": (27_161_264, 24_371_444),
    "inception_resnet_v2_aux": (59_211_120, 56_928_180),
}
QUICK = ("googlenet", "googlenet_bn")
SIZES = {name: 32 if name in QUICK else 139 for name in COUNTS}


def cases(names=COUNTS):
    return [
        pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in names
    ]


@pytest.mark.parametrize("name", COUNTS)
def test_counts_equal_the_papers(name):
    large, macs, small = COUNTS[name]
    side = models.find(name).native
    how = {"image_size": side, "seed": None}
    model = models.build_model(name, num_classes=1000, **how)
    assert models.count_parameters(model) == large
    assert models.count_macs(model, side) == macs
    model = models.build_model(name, num_classes=10, **how)
    assert models.count_parameters(model) == small


@pytest.mark.parametrize("name", WITH_HEADS)
def test_counts_with_auxiliary_classifiers(name):
    side = models.find(name).native
    for classes, expected in zip((1000, 10), WITH_HEADS[name], strict=True):
        how = {"num_classes": classes, "image_size": side, "seed": None}
        found = models.count_parameters(models.build_model(name, **how))
        assert expected in (None, found)
    assert models.count_macs(models.build_model(name, **how), side) == (
        models.count_macs(models.build_model(name.removesuffix("_aux"), **how), side)
    )


def quiet(model):
    """Without dropout."""
    for _, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def test_heads_count_as_the_paper_has_them():
    """L + 0.3 (L₁ + L₂), in a training step, in a probe and in PyTorch."""
    torch = pytest.importorskip("torch")
    from tests.oracles.torch_inception import Layers, googlenet, googlenet_heads

    model = quiet(models.build_model("googlenet_bn_aux", seed=3)).to(dtype="float64")
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((4, 3, 32, 32)), rng.integers(0, 10, 4)
    layers = Layers(model)
    own = [p for name, p in layers.p.items() if name.startswith("heads.")]
    layers.left = layers.left[len(own) :]
    of = torch.nn.functional.cross_entropy
    right = torch.tensor(labels)
    expected = of(googlenet(layers, torch.tensor(images)), right)
    assert not layers.left
    layers.left = own
    expected = expected + 0.3 * sum(of(y, right) for y in googlenet_heads(layers))
    expected.backward()
    assert not layers.left

    p = flow.probe(model, images, labels)
    assert p.loss.item() == pytest.approx(expected.item(), rel=1e-9)
    terms = flow.block_terms(p.tape)
    assert len(terms) == 9 and max(t.closure for t in terms) <= 1e-12
    assert all(t.kind == "branches" for t in terms)
    assert ["other" in t.shares for t in terms] == 3 * [False] + [
        *(True, False, False, True, False, False)
    ]  # 4b and 4e read maps that a classifier reads, too
    rule = SGD(list(model.named_parameters()), 0.0)
    taken = train_step(model.train(), images, labels, rule)
    assert taken.loss == pytest.approx(expected.item(), rel=1e-9)
    for name, parameter in model.named_parameters():
        other = layers.p[name].grad.numpy()
        error = float(np.abs(parameter.grad - other).max())
        assert error <= 1e-9 * max(float(np.abs(other).max()), 1e-3), name
    alone = model.eval()(Tensor(images))
    assert isinstance(alone, Tensor) and alone.shape == (4, 10)


def test_the_papers_heads_average_over_windows_at_its_size():
    large = models.build_model("googlenet_aux", image_size=224, seed=None)
    small = models.build_model("googlenet_aux", image_size=32, seed=None)
    pools = [type(m.heads[0].pool).__name__ for m in (large, small)]
    assert pools == ["AvgPool2d", "AdaptiveAvgPool2d"]
    assert models.count_parameters(large) == models.count_parameters(small)


def test_a_run_with_heads_is_trained_and_found_again(tmp_path):
    from tinyflow.train import TrainConfig, train
    from tinyflow.train.trained import find_trained

    network, place = models.find("googlenet_aux"), tmp_path / "run"
    how = {"batch_size": 8, "limit_train": 16, "limit_test": 8, "lr": 1e-4}
    result = train(TrainConfig(network, epochs=1, mixup=0.2, output=place, **how))
    assert len(result.rows) == 1
    found = find_trained(place, models.find)
    assert found.told.model == "googlenet_aux" and len(found.model.heads) == 2


def built(name, batch=2):
    side = SIZES[name]
    network = models.find(name)
    model = network.build(image_size=side, seed=3, dropout=0.0).to(dtype="float64")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, side, side))
    return model.train(), images, rng.integers(0, 10, batch)


@pytest.mark.parametrize("name", cases())
def test_loss_and_every_gradient_equal_pytorchs(name):
    torch = pytest.importorskip("torch")
    from tests.oracles.torch_inception import Layers, network

    model, images, labels = built(name, 4 if name in QUICK else 2)
    run = network(name)
    layers = Layers(model, norm=name != "googlenet")

    def peer(t):
        return run(layers, t)

    same_as_pytorch(torch, model, images, labels, peer, layers.p, floor=1e-3)
    assert not layers.left


KINDS = {
    "googlenet": 9 * ["branches"],
    "googlenet_bn": 9 * ["branches"],
    "inception_v3": 11 * ["branches"],
    "inception_v4": 19 * ["branches"],
    "inception_resnet_v1": 2 * ["branches"] + 20 * ["identity"],
    "inception_resnet_v2_paper": 5 * ["branches"] + 20 * ["identity"],
    "inception_resnet_v2": 3 * ["branches"] + 40 * ["identity"],
}


@pytest.mark.parametrize("name", cases())
def test_every_block_is_found_and_closes(name):
    p = flow.probe(*built(name))
    found = flow.block_terms(p.tape)
    assert sorted(t.kind for t in found) == KINDS[name]
    assert max(t.closure for t in found) <= 1e-12
    assert all(sum(t.shares.values()) == pytest.approx(1) for t in found)


class One(nn.Module):
    """One block of branches, behind a convolution: no two of its inputs are equal."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1, rng=rng)
        text = (
            "1x1: 4 | 3x3: 3 4@3 (1x3: 2@1x3 | 3x1: 3@3x1) | 5x5: 2 4@5 | pool: max 3"
        )
        self.block = Mixed(text, 8, conv_unit(rng))
        self.fc = nn.Linear(self.block.channels, 5, rng=rng)

    def forward(self, x):
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


def test_branches_against_differences_of_each_path():
    model = One().to(dtype="float64").train()
    rng = np.random.default_rng(2)
    p = flow.probe(model, rng.standard_normal((4, 3, 6, 6)), np.arange(4))
    (block,) = find_blocks(p.tape)
    terms, side = split(p.tape, block), model.block.side
    assert block.kind == "branches" and list(terms) == ["1x1", "3x3", "5x5", "pool"]
    x, g, v = block.x.value, block.h.grad, 1e-6
    direction, at = rng.standard_normal(x.shape), 0
    for label, branch in zip(side.labels, side.branches, strict=True):
        higher, lower = (
            branch(Tensor(x + s * v * direction)).data for s in (1.0, -1.0)
        )
        part = g[:, at : at + higher.shape[1]]
        at += higher.shape[1]
        expected = float(((higher - lower) / (2 * v) * part).sum())
        assert float((terms[label] * direction).sum()) == pytest.approx(expected, 1e-5)
    assert at == g.shape[1]


class Small(nn.Module):
    """Two blocks of Inception-ResNet."""

    def __init__(self):
        from models.inception_v4 import Residual

        rng = np.random.default_rng(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1, rng=rng)
        text = "1x1: 4 | 3x3: 4 4@1x3 4@3x1"
        unit = conv_unit(rng)
        self.first = Residual(text, 8, 0.2, unit, rng)
        self.second = Residual(text, 8, 0.2, unit, rng, last=True)
        self.fc = nn.Linear(8, 5, rng=rng)

    def forward(self, x):
        return self.fc(self.second(self.first(self.stem(x))).mean((2, 3)))


def test_a_shortcut_beside_branches_has_a_term_for_each_and_its_paths():
    model = Small().to(dtype="float64").train()
    rng = np.random.default_rng(2)
    images, labels = rng.standard_normal((4, 3, 6, 6)), np.arange(4)
    p = flow.probe(model, images, labels)
    first, second = find_blocks(p.tape)
    assert first.kind == second.kind == "identity" and len(first.through) == 2
    x, g, v = second.x.value, second.h.grad, 1e-6
    terms = split(p.tape, second)
    assert list(terms) == ["shortcut", "1x1", "3x3"]
    direction = rng.standard_normal(x.shape)
    side, linear = model.second.side, model.second.linear

    def h(a, b):
        found = [
            branch(Tensor(z)) for branch, z in zip(side.branches, (a, b), strict=True)
        ]
        return linear(ops.concat(found, 1)).data * model.second.factor

    moved = {
        "shortcut": direction,
        "1x1": (h(x + v * direction, x) - h(x - v * direction, x)) / (2 * v),
        "3x3": (h(x, x + v * direction) - h(x, x - v * direction)) / (2 * v),
    }
    for name, change in moved.items():
        expected = float((change * g).sum())
        assert float((terms[name] * direction).sum()) == pytest.approx(expected, 1e-5)
    kept, last = flow.block_terms(p.tape)
    assert last.mask is None and kept.mask is not None
    spectrum = flow.spectrum(p, veit_samples=4)
    assert spectrum.lengths == [0, 1, 2] and spectrum.closure < 1e-12
    assert sum(spectrum.shares) == pytest.approx(1)
    # the path of length 0, both shortcuts, by hand
    straight = p.tape.pullback(
        second.h, g, to=second.x, scale={edge: 0.0 for edge in second.through}
    )
    straight = p.tape.pullback(
        first.out, straight, to=first.x, scale={edge: 0.0 for edge in first.through}
    )
    assert spectrum.norms[0] == pytest.approx(float(np.linalg.norm(straight)), 1e-12)


def test_texts_are_read_as_they_are_written():
    side = Branches("a: 8@1x7/2 | b: max/2C 4 (c: 2@3 | d: 3@3V)", 5, conv_unit(None))
    assert (side.labels, side.channels) == (["a", "b"], 13)
    conv = side.branches[0][0][0]
    assert conv.weight.shape == (8, 5, 1, 7)
    assert (conv.stride, conv.padding) == (2, (0, 3))
    pool = side.branches[1][0]
    assert (pool.stride, pool.padding, pool.ceil_mode) == (2, (0, 0), True)
    inner = side.branches[1][2].side
    assert inner.labels == ["c", "d"] and inner.branches[1][0][0].padding == (0, 0)
    with pytest.raises(ValueError, match="'64@' is no layer"):
        Mixed("a: 64@", 3, conv_unit(None))


@pytest.mark.slow
def test_googlenet_learns_a_batch():
    model = models.build_model("googlenet_bn", seed=0).train()
    rule = SGD(list(model.named_parameters()), 0.02, 0.9)
    rng = np.random.default_rng(0)
    labels = np.arange(16) % 4
    images = rng.normal(size=(16, 3, 32, 32)).astype("float32")
    images[:, 0] += labels[:, None, None]
    losses = [float(train_step(model, images, labels, rule).loss) for _ in range(30)]
    assert np.mean(losses[-5:]) < 0.7 * losses[0], losses
