"""Layers take what their operators take, and both what PyTorch's do, or say why not."""

import inspect
import re

import numpy as np
import pytest

from tests import ROOT
from tinyflow import Tensor, habits, nn, ops

PAGE = (ROOT / "docs/operators.md").read_text("utf-8")
OPERATOR = {
    name: getattr(ops, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    for name in (
        "Sigmoid Tanh Hardsigmoid Hardswish Softplus Linear Flatten Conv2d Dropout "
        "GroupNorm LayerNorm LocalResponseNorm"
    ).split()
} | {
    "AdaptiveAvgPool2d": ops.adaptive_avg_pool2d,
    "AdaptiveMaxPool2d": ops.adaptive_max_pool2d,
    "AvgPool2d": ops.avg_pool2d,
    "BCEWithLogitsLoss": ops.bce_with_logits,
    "BatchNorm2d": ops.batch_norm,
    "ChannelShuffle": ops.channel_shuffle,
    "CrossEntropyLoss": ops.cross_entropy,
    "Dropout2d": ops.dropout2d,
    "ELU": ops.elu,
    "GELU": ops.gelu,
    "GlobalAvgPool2d": ops.global_avg_pool2d,
    "LeakyReLU": ops.leaky_relu,
    "MSELoss": ops.mse_loss,
    "MaxPool2d": ops.max_pool2d,
    "NLLLoss": ops.nll_loss,
    "ReLU": ops.relu,
    "ReLU6": ops.relu6,
    "SiLU": ops.silu,
}
OF_SEVERAL = {"StochasticDepth", "SqueezeExcitation"}
OF_MODULES = {"Module", "ModuleList", "Sequential", "Identity"}

NOT_THE_LAYERS = {  # arguments of operators
    "input": "what forward is called with",
    "target": "what forward is called with",
    "training": "what train() and eval() set",
    "generator": "drawn from the layer's rng",
    "running_mean": "a buffer",
    "running_var": "a buffer",
}
PARAMETERS = {"weight", "bias"}
ALLOWED = {"affine", "bias", "elementwise_affine", "in_features", "in_channels"}
NOT_OURS = {  # arguments of PyTorch's layers: a row in the page, or a reason here
    "size_average": "deprecated there in favour of reduction",
    "reduce": "deprecated there in favour of reduction",
    "args": "of Module, which takes none",
    "kwargs": "of Module, which takes none",
}


def parameters(function):
    return inspect.signature(function).parameters


def test_every_layer_is_compared():
    layers = {n for n in nn.__all__ if inspect.isclass(getattr(nn, n))}
    assert layers - {"Rng"} == set(OPERATOR) | OF_SEVERAL | OF_MODULES


@pytest.mark.parametrize("name", OPERATOR)
def test_a_layer_takes_what_its_operator_takes(name):
    """With the same default; γ and β are parameters, which a flag asks for."""
    layer, operator = parameters(getattr(nn, name)), parameters(OPERATOR[name])
    for argument, p in operator.items():
        if argument in layer and argument not in PARAMETERS:
            if not (name == "Flatten" and argument == "start_dim"):  # the batch stays
                assert layer[argument].default == p.default, argument
        elif argument in PARAMETERS:
            assert argument in layer or ALLOWED & layer.keys(), argument
        else:
            assert argument in NOT_THE_LAYERS, argument


@pytest.mark.parametrize("name", OPERATOR)
def test_a_layer_takes_what_pytorchs_takes(name):
    theirs = getattr(pytest.importorskip("torch").nn, name, None)
    ours = parameters(getattr(nn, name))
    told = set(re.findall(r"`(\w+)`", PAGE.split("## Where arguments differ")[1]))
    for argument, p in parameters(theirs).items() if theirs else ():
        if argument not in ours:
            assert argument in told or argument in NOT_OURS, argument
        elif ours[argument].default != p.default:
            assert argument in told, argument


# --- the page ------------------------------------------------------------------------


def test_the_page_lists_every_operator_and_layer():
    there = set(re.findall(r"`(\w+)`", PAGE.split("## Left out")[0]))
    layers = {n for n in nn.__all__ if inspect.isclass(getattr(nn, n))}
    assert set(ops.__all__) | (layers - {"Module", "Rng"}) <= there


def left_out():
    rows = PAGE.split("## Left out")[1].split("## Where")[0].split("\n| ")[2:]
    return [n for row in rows for n in re.findall(r"`(\w+)`", row.split(" | ")[0])]


def test_what_is_left_out_is_not_there_and_is_told_where_to_look():
    told = {n for t in (habits.NN, habits.OPS) for n, s in t.items() if "docs/" in s}
    assert set(left_out()) == told
    for name in told:
        room = nn if name in habits.NN else ops
        with pytest.raises(AttributeError, match=r"has no .*docs/operators\.md"):
            getattr(room, name)
    for room, table in ((nn, habits.NN), (ops, habits.OPS)):
        assert not set(table) & set(room.__all__)


A = np.random.default_rng(0).normal(size=(2, 4, 5, 3))
B, C = np.random.default_rng(1).normal(size=(2, *A.shape))


def test_what_stands_there_instead_is_the_same():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, y, z = map(Tensor, (A, B, C))
    a, b, c = map(torch.from_numpy, (A, B, C))
    slope, p = np.array(0.3), np.exp(C) / np.exp(C).sum()
    d = x - y
    pairs = {
        "HuberLoss": (
            ops.where(d.abs() < 1, d * d / 2, d.abs() - 0.5).mean(),
            functional.huber_loss(a, b),
        ),
        "InstanceNorm2d": (ops.group_norm(x, 4), functional.instance_norm(a)),
        "KLDivLoss": (
            (Tensor(p) * (Tensor(p).log() - y)).sum(),
            functional.kl_div(b, torch.from_numpy(p), reduction="sum"),
        ),
        "L1Loss": ((x - y).abs().mean(), functional.l1_loss(a, b)),
        "Mish": (x * ops.tanh(ops.softplus(x)), functional.mish(a)),
        "PReLU": (
            ops.where(x > 0, x, x * slope),
            functional.prelu(a, torch.from_numpy(slope)[None]),
        ),
        "MultiheadAttention": (
            ops.softmax(x @ y.transpose(-2, -1) * 3**-0.5, -1) @ z,
            functional.scaled_dot_product_attention(a, b, c),
        ),
        "Conv1d": (
            ops.conv2d(x[0][:, :, None], z[0, :, :, None])[:, :, 0],
            functional.conv1d(a[0], c[0]),
        ),
        "amin": (-ops.amax(-x, 1), torch.amin(a, 1)),
        "std": (ops.sqrt(ops.var(x, 1)), torch.std(a, 1)),
    }
    for name, (ours, theirs) in pairs.items():
        np.testing.assert_allclose(ours.data, theirs.numpy(), 1e-11, 1e-12, name)
    assert set(pairs) <= habits.NN.keys() | habits.OPS.keys()
