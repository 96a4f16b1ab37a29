"""The small networks: the papers' counts, PyTorch, and what the instrument sees."""

import math

import numpy as np
import pytest

import models
from models.efficientnet import SCALES, round8
from tests.models.compare import same_as_pytorch
from tinyflow import Tensor, flow, nn, ops
from tinyflow.flow.blocks import find_blocks, split
from tinyflow.optim import SGD
from tinyflow.train.step import train_step

# Parameters and multiply-adds for 1000 classes at the native size, parameters for 10
# classes, multiply-adds for 10 classes at 32 pixels. torchvision's published numbers of
# parameters where it has the network, Keras' for MobileNet-v1; the others counted
# independently from the papers' tables.
COUNTS = {
    "mobilenet_v1_1": (4_231_976, 568_740_352, 3_217_226, 11_596_288),
    "mobilenet_v1_0.75": (2_585_560, 325_400_448, 1_824_250, None),
    "mobilenet_v1_0.5": (1_331_592, 149_497_088, 823_722, None),
    "mobilenet_v1_0.25": (470_072, 41_030_272, 215_642, None),
    "mobilenet_v2": (3_504_872, 300_774_272, 2_236_682, 6_124_928),
    "shufflenet_v2_x0_5": (1_366_792, 40_476_448, 352_042, 815_392),
    "shufflenet_v2_x1_0": (2_278_604, 144_907_992, 1_263_854, 2_946_648),
    "shufflenet_v2_x1_5": (3_503_624, 295_759_392, 2_488_874, 6_025_248),
    "shufflenet_v2_x2_0": (7_393_996, 583_253_464, 5_365_486, 11_881_816),
    "efficientnet_b0": (5_288_548, 385_814_752, 4_020_358, 8_474_848),
    "efficientnet_b1": (7_794_184, 686_802_832, 6_525_994, 12_698_080),
    "efficientnet_b2": (9_109_994, 993_561_872, 7_715_084, 14_720_496),
    "efficientnet_b3": (12_233_232, 1_827_141_392, 10_711_602, 21_452_816),
    "efficientnet_b4": (19_341_616, 4_393_771_024, 17_566_546, 33_723_104),
    "efficientnet_b5": (30_389_784, 10_266_384_752, 28_361_274, 53_116_800),
    "efficientnet_b6": (43_040_704, 19_067_593_536, 40_758_754, 75_879_360),
    "efficientnet_b7": (66_347_960, 37_745_884_192, 63_812_570, 117_137_856),
    "squeezenet1_0": (1_248_424, 818_924_576, 740_554, None),
    "squeezenet1_1": (1_235_496, 349_151_936, 727_626, 2_995_904),
}
RUNNING = {  # parameters and running statistics, 1000 classes
    "mobilenet_v1_1": 4_253_864,
    "mobilenet_v1_0.25": 475_544,
    "mobilenet_v2": 3_538_984,
    "shufflenet_v2_x0_5": 1_374_744,
    "shufflenet_v2_x1_0": 2_294_784,
    "shufflenet_v2_x1_5": 3_527_064,
    "shufflenet_v2_x2_0": 7_427_712,
    "efficientnet_b0": 5_330_564,
    "efficientnet_b7": 66_658_680,
}
SMALL = "mobilenet_v1_0.25 mobilenet_v2 efficientnet_b0 squeezenet1_1".split()


@pytest.mark.parametrize("name", COUNTS)
def test_counts_equal_the_papers(name):
    large, macs, small, at32 = COUNTS[name]
    side = models.find(name).native
    how = {"num_classes": 1000, "image_size": side, "seed": None}
    model = models.build_model(name, **how)
    assert models.count_parameters(model) == large
    assert models.count_macs(model, side) == macs
    if name in RUNNING:
        arrays = model.state_dict().values()
        assert sum(math.prod(a.shape) for a in arrays) == RUNNING[name]
    model = models.build_model(name, num_classes=10, seed=None)
    assert models.count_parameters(model) == small
    assert at32 is None or models.count_macs(model, 32) == at32


CIFAR = {"mobilenet_v1_cifar": "mobilenet_v1_1", "mobilenet_v2_cifar": "mobilenet_v2"}
CIFAR |= {"efficientnet_cifar": "efficientnet_b0", "squeezenet_cifar": "squeezenet1_1"}


@pytest.mark.parametrize("name", CIFAR)
def test_for_cifar_only_the_first_stride_is_left_out(name):
    """The same parameters, and the arithmetic that there is at twice the size."""
    assert models.find(name).native == 32
    small, other = (models.build_model(n, seed=None) for n in (name, CIFAR[name]))
    assert [(k, p.shape) for k, p in small.named_parameters()] == [
        (k, p.shape) for k, p in other.named_parameters()
    ]
    if name != "squeezenet_cifar":  # whose first convolution has no border
        assert models.count_macs(small, 32) == models.count_macs(other, 64)


def test_widths_are_those_of_the_paper():
    """EfficientNet's rounding, and what each scale multiplies."""
    assert [round8(c * 1.1) for c in (16, 24, 40, 80, 112, 192, 320)] == [
        *(16, 24, 48, 88, 120, 208, 352)
    ]
    assert [round8(c * 2.0) for c in (32, 320)] == [64, 640]
    assert [side for _, _, side, _ in SCALES.values()] == [
        *(224, 240, 260, 300, 380, 456, 528, 600)
    ]
    b7 = models.build_model("efficientnet_b7", seed=None)
    stages = list(b7.features)[1:-1]
    assert [len(stage) for stage in stages] == [4, 7, 7, 10, 10, 13, 4]
    assert (b7.features[1][0].block[0][1].eps, b7.features[0][1].momentum) == (
        *(1e-3, 0.01),
    )


@pytest.mark.parametrize(
    "name", [*SMALL, "squeezenet1_0", "efficientnet_b1", "shufflenet_v2_x1_0"]
)
def test_loss_and_every_gradient_equal_pytorchs(name):
    torch = pytest.importorskip("torch")
    from benchmarks.peers_small import SmallPeer

    network = models.find(name)
    none = {"dropout": 0.0} if network.takes("dropout") else {}
    model = network.build(seed=3, **none)
    model.to(dtype="float64")
    peer = SmallPeer(model)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((4, 3, 32, 32)), rng.integers(0, 10, 4)
    same_as_pytorch(torch, model, images, labels, peer, peer.p, floor=1e-3)
    for path, buffer in model.named_buffers():
        assert np.allclose(buffer, peer.p[path].numpy(), rtol=1e-9, atol=1e-12), path


def probed(name, batch=3):
    """A network, and its gradients on a batch in float64."""
    model = models.build_model(name, seed=1).to(dtype="float64")
    model.train()
    for _, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    rng = np.random.default_rng(2)
    images, labels = rng.standard_normal((batch, 3, 32, 32)), rng.integers(0, 10, batch)
    return model, flow.probe(model, images, labels)


@pytest.mark.parametrize("name", SMALL)
def test_every_block_is_found_and_closes(name):
    _, p = probed(name)
    found = flow.block_terms(p.tape)
    kinds = [t.kind for t in found]
    expected = {
        "mobilenet_v1_0.25": ["plain"] * 13,
        "mobilenet_v2": 10 * ["identity"] + 7 * ["plain"],
        "efficientnet_b0": 9 * ["identity"] + 7 * ["plain"],
        "squeezenet1_1": ["branches"] * 8,
    }[name]
    assert sorted(kinds) == expected
    assert max(t.closure for t in found) <= 1e-12
    assert all(sum(t.shares.values()) == pytest.approx(1) for t in found)
    rectified = name in ("mobilenet_v1_0.25", "squeezenet1_1")
    assert all((t.mask is None) is not rectified for t in found)


V = 1e-6


def slope(function, x, direction):
    """The derivative of a function of an array along a direction."""
    return (function(x + V * direction) - function(x - V * direction)) / (2 * V)


def block_of(name, path):
    model, p = probed(name)
    module = dict(model.named_modules())[path]
    block = next(b for b in find_blocks(p.tape) if b.name == path)
    terms = split(p.tape, block)
    v = np.random.default_rng(0).standard_normal(block.x.shape)
    return module, block, terms, v


def test_an_inverted_residual_against_finite_differences_of_each_path():
    module, block, terms, v = block_of("mobilenet_v2", "features.3")
    assert set(terms) == {"shortcut", "residual"}
    f = slope(lambda x: module.conv(Tensor(x)).data, block.x.value, v)
    for name, moved in (("residual", f), ("shortcut", v)):
        expected = float((moved * block.h.grad).sum())
        assert float((terms[name] * v).sum()) == pytest.approx(expected, rel=1e-5)


def test_a_gate_inside_f_against_finite_differences_of_each_path():
    """F(x) = after(f ⊙ s(f)), f = before(x): move f alone, then what s sees alone."""
    module, block, terms, v = block_of("efficientnet_b0", "features.2.1")
    assert set(terms) == {"shortcut", "gain", "gate"}
    *before, gate, after = module.block

    def f(x):
        for layer in before:
            x = layer(x)
        return x

    def s(f):
        z = ops.mean(f, dim=(2, 3), keepdim=True)
        return ops.sigmoid(gate.fc2(ops.silu(gate.fc1(z))))

    x = block.x.value
    held = f(Tensor(x))
    gain = slope(lambda x: after(ops.mul(f(Tensor(x)), s(held))).data, x, v)
    through = slope(lambda x: after(ops.mul(held, s(f(Tensor(x))))).data, x, v)
    for name, moved in (("gain", gain), ("gate", through), ("shortcut", v)):
        expected = float((moved * block.h.grad).sum())
        assert float((terms[name] * v).sum()) == pytest.approx(expected, rel=1e-5)
    assert set(flow.block_terms(flow_tape("efficientnet_b0"))[2].gate) == {
        *("mean", "min", "max", "slope", "dead")
    }


def flow_tape(name):
    return probed(name)[1].tape


def test_branches_against_finite_differences_of_each_path():
    """What is forked lies behind the input: move it along one branch at a time."""
    module, block, terms, v = block_of("squeezenet1_1", "features.3")
    assert list(terms) == ["1x1", "3x3"] and block.fork is not block.x
    g, half = block.h.grad, module.expand1x1.weight.shape[0]
    for name, layer, part in (
        ("1x1", module.expand1x1, g[:, :half]),
        ("3x3", module.expand3x3, g[:, half:]),
    ):

        def h(x, layer=layer):
            return layer(ops.relu(module.squeeze(Tensor(x)))).data

        expected = float((slope(h, block.x.value, v) * part).sum())
        assert float((terms[name] * v).sum()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_it_learns_a_batch(name):
    model = models.build_model(name, seed=0).train()
    rule = SGD(list(model.named_parameters()), 0.02, 0.9)
    rng = np.random.default_rng(0)
    labels = np.arange(16) % 4
    images = rng.normal(size=(16, 3, 32, 32)).astype("float32")
    images[:, 0] += labels[:, None, None]
    losses = [train_step(model, images, labels, rule).loss for _ in range(30)]
    assert np.mean([float(v) for v in losses[-5:]]) < 0.7 * float(losses[0]), losses
