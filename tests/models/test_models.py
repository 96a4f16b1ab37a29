"""The networks against the papers' own numbers, and against their tapes."""

import math

import numpy as np
import pytest

import models
from tinyflow import Tape, Tensor, ops

# Parameters for 1000 classes at the native size and for 10 classes at 32x32, and GMACs
# for 1000 classes at the native size. torchvision's and timm's published digits where
# they publish them, else computed independently from the papers' tables.
COUNTS = {
    "vgg19": (143_667_240, 38_947_914, 19.632),
    "vgg19_bn": (143_678_248, 38_958_922, 19.632),
    "resnet18": (11_689_512, 11_181_642, 1.814),
    "resnet34": (21_797_672, 21_289_802, 3.664),
    "plain18": (11_515_688, None, 1.795),
    "plain34": (21_623_848, None, 3.644),
    "resnet50": (25_557_032, 23_528_522, 4.089),
    "resnet101": (44_549_160, 42_520_650, 7.801),
    "resnet152": (60_192_808, 58_164_298, 11.514),
    "se_resnet50": (28_088_024, 26_059_514, 4.092),
    "se_resnet101": (49_326_872, 47_298_362, 7.806),
    "se_resnet152": (66_821_848, 64_793_338, 11.520),
    "densenet121": (7_978_856, 6_964_106, 2.834),
    "densenet169": (14_149_480, 12_501_130, 3.360),
    "densenet201": (20_013_928, 18_112_138, 4.291),
    "densenet264": (33_337_704, 30_675_594, 5.752),
}
CIFAR_COUNTS = {  # He et al. 2016, section 4.2, with option A; SE with r = 16
    20: (269_722, 272_095, 40.6),
    32: (464_154, 468_109, 68.9),
    44: (658_586, 664_123, 97.2),
    56: (853_018, 860_137, 125.5),
    110: (1_727_962, 1_742_200, 252.9),
}
RUNNING = {  # parameters and running statistics together, 10 classes
    "vgg19_bn": 38_969_930,
    "resnet50": 23_581_642,
    "se_resnet50": 26_112_634,
    "densenet121": 7_047_754,
}
TRACED = ["vgg11", "vgg11_bn", "resnet18", "plain18", "resnet50", "se_resnet50"]
TRACED += ["densenet121", "resnet20", "plain20", "se_resnet20"]


def step(model, batch=2, retain="edges", dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((batch, 3, 32, 32)).astype(dtype)
    with Tape(retain) as tape:
        loss = ops.cross_entropy(model(Tensor(images)), rng.integers(0, 10, batch))
    tape.backward(loss)
    return tape, loss


@pytest.mark.parametrize("name", COUNTS)
def test_counts_equal_the_papers(name):
    large, small, gmacs = COUNTS[name]
    model = models.build_model(name, num_classes=1000, image_size=224, seed=None)
    assert models.count_parameters(model) == large
    assert round(models.count_macs(model, 224) / 1e9, 3) == gmacs
    if small is not None:
        model = models.build_model(name, num_classes=10, seed=None)
        assert models.count_parameters(model) == small


@pytest.mark.parametrize("depth", CIFAR_COUNTS)
def test_cifar_counts(depth):
    plain, se, mmacs = CIFAR_COUNTS[depth]
    for kind, expected in (("resnet", plain), ("plain", plain), ("se_resnet", se)):
        model = models.build_model(f"{kind}{depth}", seed=None)
        assert models.count_parameters(model) == expected
        if kind == "resnet":
            assert round(models.count_macs(model, 32) / 1e6, 1) == mmacs


@pytest.mark.parametrize("name", RUNNING)
def test_counts_with_running_statistics(name):
    model = models.build_model(name, seed=None)
    total = sum(math.prod(a.shape) for a in model.state_dict().values())
    assert total == RUNNING[name]


def test_short_names_are_the_four_of_table_a1():
    assert models.SHORT == {
        "vgg": "vgg19",
        "resnet": "resnet50",
        "se_resnet": "se_resnet50",
        "densenet": "densenet121",
    }
    assert models.build_model("se_resnet", seed=None).name == "se_resnet50"


def test_stage_output_sizes_are_the_papers():
    model = models.build_model("resnet50", image_size=224, seed=None).eval()
    with Tape("tensors") as tape:
        model(Tensor(np.zeros((0, 3, 224, 224), np.float32)))
    sizes = {"conv1": 112, "maxpool": 56, "layer1": 56, "layer2": 28, "layer3": 14}
    for name, size in {**sizes, "layer4": 7}.items():
        assert tape[name].shape[2:] == (size, size)
    model = models.build_model("densenet121", image_size=224, seed=None).eval()
    with Tape("tensors") as tape:
        model(Tensor(np.zeros((0, 3, 224, 224), np.float32)))
    found = [tape[f"features.denseblock{i}.x0"].shape[1:] for i in (1, 2, 3, 4)]
    assert found == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
    assert tape["features.norm5"].shape[1:] == (1024, 7, 7)


def test_parameter_names_are_torchvisions():
    names = dict(models.build_model("resnet50", seed=None).named_parameters())
    assert {"conv1.weight", "layer1.0.downsample.0.weight", "fc.bias"} <= names.keys()
    assert names["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    names = dict(models.build_model("se_resnet50", seed=None).named_parameters())
    assert names["layer1.0.se.fc1.weight"].shape == (16, 256, 1, 1)
    names = dict(models.build_model("vgg19", seed=None).named_parameters())
    assert {"features.0.weight", "features.34.bias", "classifier.6.weight"} <= set(
        names
    )
    names = dict(models.build_model("densenet121", seed=None).named_parameters())
    layer = "features.denseblock4.denselayer16"
    assert names[f"{layer}.norm1.weight"].shape == (512 + 15 * 32,)
    assert {"features.transition3.conv.weight", "features.norm5.bias"} <= names.keys()
    state = models.build_model("densenet121", seed=None).state_dict()
    assert f"{layer}.norm2.running_mean" in state


@pytest.mark.parametrize("name", TRACED)
def test_every_parameter_gets_a_gradient_and_every_edge_adds_up(name):
    model = models.build_model(name)
    tape, loss = step(model)
    assert np.isfinite(loss.item())
    for path, p in model.named_parameters():
        assert p.grad is not None and np.isfinite(p.grad).all(), path
        assert p.grad.dtype == np.float32
        assert p.grad.any(), path
    closure = tape.closure()
    assert len(closure) > 20 and set(closure.values()) == {0.0}
    assert {node.name for node in tape.nodes} <= set(tape.names)


@pytest.mark.parametrize("name", ["se_resnet20", "densenet121"])
def test_directional_derivative_of_a_whole_network(name):
    model = models.build_model(name).to(dtype="float64")
    how = {"retain": "leaves", "dtype": "float64", "batch": 8}
    step(model, **how)
    rng = np.random.default_rng(1)
    directions = [rng.standard_normal(p.shape) for p in model.parameters()]
    expected = sum(
        float((p.grad * d).sum())
        for p, d in zip(model.parameters(), directions, strict=True)
    )
    values, eps = [], 1e-9
    for sign in (1, -2):
        for p, d in zip(model.parameters(), directions, strict=True):
            p.data += sign * eps * d
        values.append(step(model, **how)[1].item())
    numeric = (values[0] - values[1]) / (2 * eps)
    assert numeric == pytest.approx(expected, rel=1e-4)


def test_the_fork_of_a_residual_block_stands_in_the_graph():
    tape, _ = step(models.build_model("se_resnet20"))
    for block, kind in (("layer1.1", "add"), ("layer2.0", "downsample.slice")):
        x, h = tape[f"{block}.in"], tape[f"{block}.H"]
        residual, shortcut = tape.edge(x, "residual"), tape.edge(x, "shortcut")
        assert residual.consumer == f"{block}.conv1.conv2d"
        assert shortcut.consumer == f"{block}.{kind}"
        assert np.array_equal(shortcut.grad + residual.grad, x.grad)
        if kind == "add":  # the identity passes ∂L/∂H on unchanged
            assert shortcut.grad is h.grad
        f = tape[f"{block}.se.in"]
        assert {e.label for e in tape.edges(f)} == {"scale", "squeeze"}


def test_dense_maps_have_one_edge_per_consumer():
    tape, _ = step(models.build_model("densenet121"))
    block = "features.denseblock1"
    for source in range(7):
        consumers = [e.consumer for e in tape.edges(f"{block}.x{source}")]
        expected = [f"{block}.denselayer{i + 1}.concat" for i in range(source, 6)] + [
            "features.transition1.concat"
        ]
        assert consumers == expected
    reader = tape[f"{block}.denselayer3.concat"]
    filled = np.concatenate([e.grad for e in reader.edges], axis=1)
    assert np.array_equal(filled, reader.grad)


def test_models_are_reproducible_and_seeds_differ():
    first, again, other = (
        models.build_model("resnet20", seed=s).state_dict() for s in (0, 0, 1)
    )
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert not np.array_equal(first["conv1.weight"], other["conv1.weight"])
    w = models.build_model("densenet121").features.conv0.weight.data
    assert w.std() == pytest.approx(math.sqrt(2 / (3 * 49)), rel=0.05)


def test_wrong_names_and_sizes_are_one_sentence():
    with pytest.raises(ValueError, match=r"unknown model 'resnet5'.*resnet50"):
        models.build_model("resnet5")
    with pytest.raises(ValueError, match="at least 32x32 pixels, not 28x28"):
        models.build_model("vgg", image_size=28)
    with pytest.raises(ValueError, match="at least 29x29"):
        models.build_model("densenet", image_size=28)
    model = models.build_model("resnet20")
    with pytest.raises(ValueError, match="missing"):
        model.load_state_dict({})
    state = {k: v.copy() for k, v in model.state_dict().items()}
    state["fc.weight"] = np.zeros((3, 64), np.float32)
    with pytest.raises(ValueError, match=r"fc\.weight: the file has shape"):
        model.load_state_dict(state)


@pytest.mark.slow
def test_list_models_prints_a_line_per_network():
    lines = list(models.list_models(1000))
    assert len(lines) == 1 + len(models.FAMILIES) + len(models.MODELS)
    (line,) = [x for x in lines if x.startswith("  se_resnet50 ")]
    assert "28,088,024" in line and "4.092" in line and "= se_resnet" in line


def test_list_models_prints_the_names_that_are_like_a_pattern():
    heading, *lines = models.list_models(pattern="*plain[35]*")
    names = ["Plain nets", "plain34", "ResNet for CIFAR", "plain32", "plain56"]
    assert [line.split("  ")[-1 if line[0] != " " else 1] for line in lines] == names
    assert {len(x.partition("  He ")[0]) for x in lines if x[0] == " "} == {
        len(heading.partition("  paper")[0])
    }
    _, family, line = models.list_models(pattern="vgg")  # a short name
    assert family == "VGG" and line.endswith("= vgg")
    assert "38,947,914 (139,611,210)" in line  # at 32 pixels and at its native size
    with pytest.raises(ValueError, match=r"no network has a name like 'vgg\?'"):
        next(models.list_models(pattern="vgg?"))


def test_every_name_belongs_to_one_family():
    names = [network.name for rows in models.FAMILIES.values() for network in rows]
    assert len(set(names)) == len(names) == len(models.MODELS)
    assert not set(names) & set(models.SHORT)


def test_counting_puts_each_module_back_into_its_own_mode():
    model = models.build_model("resnet20")
    model.layer1.eval()
    before = {path: module.training for path, module in model.named_modules()}
    assert len(set(before.values())) == 2
    models.count_macs(model, 32)
    model.summary((2, 3, 32, 32))
    assert {path: module.training for path, module in model.named_modules()} == before
