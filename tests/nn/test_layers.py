"""Layers beside PyTorch's of the same name, with every argument they pass on."""

import math

import numpy as np
import pytest

from tinyflow import Tape, Tensor, nn, ops

RNG = np.random.default_rng(0)
X = RNG.normal(0, 3, (2, 4, 9, 9))
G = RNG.normal(size=(2, 4, 9, 9))


def part(shape):
    return G.flat[: math.prod(shape)].reshape(shape)


def both(layer, x=X):
    """A layer's output and ∂⟨y, g⟩/∂x; g is the first of `G`."""
    with Tape() as tape:
        y = layer(t := Tensor(x, requires_grad=True))
        g = part(y.shape)
        loss = (y * g).sum()
    tape.backward(loss)
    return y.data, t.grad


def theirs(torch, layer, x=X):
    t = torch.tensor(x, requires_grad=True)
    y = layer(t)
    (y * torch.tensor(part(y.shape))).sum().backward()
    return y.detach().numpy(), t.grad.numpy()


def same(ours, other):
    for a, b in zip(ours, other, strict=True):
        np.testing.assert_allclose(a, b, 1e-12, 1e-12)


ACTIVATIONS = (
    "ReLU ReLU6 Sigmoid Tanh SiLU Hardswish Hardsigmoid LeakyReLU ELU GELU Softplus"
)


@pytest.mark.parametrize("name", ACTIVATIONS.split())
def test_activations_are_those_of_pytorch(name):
    torch = pytest.importorskip("torch")
    other = getattr(torch.nn, name)()
    if name == "Hardsigmoid":  # whose slope has the digits of float32
        other = lambda x: torch.nn.functional.relu6(x + 3) / 6  # noqa: E731
    same(both(getattr(nn, name)()), theirs(torch, other))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("MaxPool2d", (3, 2, 1)),
        ("MaxPool2d", (3, 2, 0, 1, True)),
        ("MaxPool2d", (2, 2, 1, 2)),
        ("AvgPool2d", (3, 2, 1)),
        ("AvgPool2d", (3, 2, 1, False, False)),
        ("AvgPool2d", (2, 2, 0, True, True)),
        ("AvgPool2d", (2, 2, 0, False, True, 3)),
        ("AdaptiveAvgPool2d", ((4, None),)),
        ("AdaptiveMaxPool2d", ((4, None),)),
        ("GroupNorm", (2, 4, 0.1, False)),
        ("GroupNorm", (2, 4)),
        ("Flatten", (0, 2)),
        ("LayerNorm", ((9, 9), 0.1, False)),
        ("LayerNorm", (9, 0.1, True, False)),
        ("LeakyReLU", (-0.5,)),
        ("ELU", (1.5,)),
        ("GELU", ("tanh",)),
        ("Softplus", (0.5, 2.0)),
        ("LocalResponseNorm", (3, 2.0, 0.5, 0.3)),
    ],
)
def test_a_layer_passes_every_argument_on(name, arguments):
    torch = pytest.importorskip("torch")
    if name == "MaxPool2d" and len(arguments) == 5:  # PyTorch has another one there
        *first, ceil_mode = arguments
        other = torch.nn.MaxPool2d(*first, ceil_mode=ceil_mode)
    elif name == "GELU":  # a keyword there
        other = torch.nn.GELU(approximate="tanh")
    else:
        other = getattr(torch.nn, name)(*arguments)
    ours = getattr(nn, name)(*arguments).to(dtype="float64")
    same(both(ours), theirs(torch, other.double()))


@pytest.mark.parametrize("activation", ["relu", "silu", "hardswish", "relu6", "tanh"])
def test_a_gate_has_the_activation_it_is_given(activation):
    torch = pytest.importorskip("torch")
    gate = nn.SqueezeExcitation(4, 3, activation, rng=RNG).to(dtype="float64")
    w1, b1, w2, b2 = (
        torch.tensor(p.data)
        for p in (gate.fc1.weight, gate.fc1.bias, gate.fc2.weight, gate.fc2.bias)
    )
    phi = getattr(torch.nn.functional, activation)

    def other(x):
        z = x.mean((2, 3))
        z = torch.sigmoid(phi(z @ w1[:, :, 0, 0].T + b1) @ w2[:, :, 0, 0].T + b2)
        return x * z[:, :, None, None]

    same(both(gate), theirs(torch, other))


def test_a_gate_is_the_papers_unless_told_otherwise():
    with pytest.raises(ValueError, match="activation must be one of relu"):
        nn.SqueezeExcitation(4, 2, "gelu", rng=None)
    assert nn.SqueezeExcitation(4, 2, rng=None).activation == "relu"


W = np.array([1.0, 0.0, 2.0, 0.5])
LABELS = np.arange(162).reshape(2, 9, 9) % 4


@pytest.mark.parametrize(
    ("name", "arguments", "target"),
    [
        ("CrossEntropyLoss", {"weight": W, "ignore_index": 2}, LABELS),
        ("CrossEntropyLoss", {"reduction": "none", "label_smoothing": 0.1}, LABELS),
        ("NLLLoss", {"weight": W, "ignore_index": 2, "reduction": "sum"}, LABELS),
        ("MSELoss", {"reduction": "sum"}, G),
        ("BCEWithLogitsLoss", {"weight": X[0], "pos_weight": X[1]}, G),
        ("BCEWithLogitsLoss", {"reduction": "none"}, G),
    ],
)
def test_losses_pass_every_argument_on(name, arguments, target):
    torch = pytest.importorskip("torch")

    def tensors(given):
        return {
            k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v
            for k, v in given.items()
        }

    loss, other = getattr(nn, name)(**arguments), getattr(torch.nn, name)
    weights = {k: v for k, v in arguments.items() if isinstance(v, np.ndarray)}
    assert dict(loss.named_buffers()).keys() == weights.keys()
    same(
        both(lambda x: loss(x, target)),
        theirs(
            torch, lambda x: other(**tensors(arguments))(x, torch.from_numpy(target))
        ),
    )
    if weights:
        narrow = loss.to(dtype="float32").state_dict()
        assert {a.dtype for a in narrow.values()} == {np.dtype("float32")}


class Sum(nn.Module):
    def __init__(self, parts):
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        first, *others = (part(x) for part in self.parts)
        for y in others:
            first = first + y
        return first


def test_a_list_of_modules_names_and_trains_them():
    net = Sum(nn.Linear(4, 2, rng=RNG) for _ in range(3))
    net.parts.append(nn.Linear(4, 2, bias=False, rng=RNG))
    assert [name for name, _ in net.named_parameters()] == [
        *(f"parts.{i}.{p}" for i in range(3) for p in ("weight", "bias")),
        "parts.3.weight",
    ]
    assert len(net.parts) == 4 and net.parts[-1] is list(net.parts)[3]
    x = ops.add(np.ones((5, 4), "float32"), 0.0)
    expected = sum(x.data @ part.weight.data.T for part in net.parts)
    np.testing.assert_allclose(net(x).data, expected, rtol=1e-5)
    assert not net.eval().parts[2].training
    with pytest.raises(TypeError, match=r"modules\[1\] must be a Module, not"):
        nn.ModuleList([nn.ReLU(), ops.relu])
    with pytest.raises(TypeError, match="ModuleList does not define forward"):
        nn.ModuleList()(x)
