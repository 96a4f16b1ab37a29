"""Optimisers against PyTorch."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tinyflow import Tape, Tensor, nn
from tinyflow.ops import mul, sum
from tinyflow.optim import (
    SGD,
    Adam,
    AdamW,
    Optimizer,
    RMSprop,
    clip_grad_norm,
    names_of_vectors,
)

SHAPES = ((), (7,), (5, 3), (300, 17, 3, 3), (2, 70_000))  # the last two in blocks

CASES = [
    (SGD, {}),
    (SGD, {"weight_decay": 0.1}),
    (SGD, {"momentum": 0.9}),
    (SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "dampening": 0.3}),
    (SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (SGD, {"dampening": 0.3}),
    (SGD, {"momentum": 0.9, "nesterov": True}),
    (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (Adam, {}),
    (Adam, {"weight_decay": 0.1}),
    (Adam, {"betas": (0.5, 0.7), "eps": 1e-3}),
    (Adam, {"betas": (0.0, 0.0)}),
    (AdamW, {}),
    (AdamW, {"weight_decay": 0.5, "betas": (0.8, 0.9)}),
    (RMSprop, {}),
    (RMSprop, {"weight_decay": 0.1, "alpha": 0.9, "eps": 1e-3}),
    (RMSprop, {"momentum": 0.9}),
    (RMSprop, {"centered": True, "alpha": 0.9, "eps": 0.1}),
    (RMSprop, {"centered": True, "momentum": 0.5, "weight_decay": 0.1}),
]
KINDS = (SGD, Adam, AdamW, RMSprop)


def parameters(dtype: str = "float64", seed: int = 0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [
        Tensor(np.asarray(rng.normal(size=shape), dtype), requires_grad=True)
        for shape in SHAPES
    ]


def give_gradients(tensors: list[Tensor], step: int) -> None:
    rng = np.random.default_rng(1000 + step)
    for i, p in enumerate(tensors):
        g = np.asarray(rng.normal(size=p.shape), p.dtype)
        p.node.grad = None if (i + step) % 4 == 0 else g  # some are not used


@pytest.mark.parametrize(("kind", "options"), CASES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_ten_steps_as_pytorch(
    kind: type[Optimizer], options: dict[str, object], dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    ours = parameters(dtype)
    theirs = [torch.tensor(p.data.copy(), requires_grad=True) for p in ours]
    optimizer = kind(ours, lr=0.05, **options)
    oracle = getattr(torch.optim, kind.__name__)(theirs, lr=0.05, **options)
    for step in range(10):
        give_gradients(ours, step)
        for p, q in zip(ours, theirs, strict=True):
            q.grad = None if p.grad is None else torch.tensor(p.grad.copy())
        optimizer.lr = 0.05 / (1 + step)  # as a schedule does
        oracle.param_groups[0]["lr"] = optimizer.lr
        optimizer.step()
        oracle.step()
    rtol, atol = (1e-12, 1e-14) if dtype == "float64" else (2e-5, 2e-6)
    for p, q in zip(ours, theirs, strict=True):
        assert p.data.dtype == dtype
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol, atol)
    for name, array in optimizer.state_dict().items():
        assert name.startswith("steps/") or array.dtype == dtype, name


def test_defaults_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    for kind in KINDS:
        ours = kind(parameters(), lr=0.1)
        theirs = getattr(torch.optim, kind.__name__)([torch.zeros(1)], lr=0.1)
        for name in (
            "momentum",
            "dampening",
            "nesterov",
            "weight_decay",
            "betas",
            "eps",
            "alpha",
            "centered",
        ):
            if hasattr(ours, name):
                assert getattr(ours, name) == theirs.defaults[name], (kind, name)
    assert Adam(parameters()).lr == AdamW(parameters()).lr == 1e-3
    assert RMSprop(parameters()).lr == 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_some_parameters_do_not_decay(kind: type[Optimizer]) -> None:
    torch = pytest.importorskip("torch")
    ours = parameters()
    vectors = names_of_vectors(ours)
    assert vectors == {"0", "1"}
    theirs = [torch.tensor(p.data.copy(), requires_grad=True) for p in ours]
    optimizer = kind(ours, lr=0.05, weight_decay=0.3, no_decay=vectors)
    groups = (
        {"params": theirs[:2], "weight_decay": 0.0},
        {"params": theirs[2:], "weight_decay": 0.3},
    )
    oracle = getattr(torch.optim, kind.__name__)(groups, lr=0.05)
    for step in range(5):
        give_gradients(ours, step)
        for p, q in zip(ours, theirs, strict=True):
            q.grad = None if p.grad is None else torch.tensor(p.grad.copy())
        optimizer.step()
        oracle.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), 1e-12, 1e-14)
    with pytest.raises(TypeError, match="no_decay takes a list of names"):
        kind(ours, lr=0.05, no_decay="bias")


def test_centred_rmsprop_of_a_gradient_that_stays() -> None:
    """Its variance is 0, or by rounding below it, and no step may become NaN."""
    g = np.random.default_rng(0).normal(size=1000).astype("float32")
    p = Tensor(np.zeros_like(g), requires_grad=True)
    optimizer = RMSprop([p], lr=1.0, alpha=0.5, eps=1.0, centered=True)
    p.grad = g
    for _ in range(99):
        optimizer.step()
    before = p.data.copy()
    optimizer.step()
    np.testing.assert_allclose(before - p.data, g, rtol=2e-3, atol=1e-4)


def test_a_parameter_without_gradient_is_left_alone() -> None:
    for kind in KINDS:
        p, q = parameters()[:2]
        before = q.data.copy()
        p.node.grad = np.ones(p.shape)
        optimizer = kind([("p", p), ("q", q)], lr=0.1, weight_decay=0.5)
        optimizer.step()
        np.testing.assert_array_equal(q.data, before)
        assert "q" not in optimizer.steps


def test_gradients_of_an_earlier_step_are_forgotten() -> None:
    used, unused = (Tensor(np.ones(3), requires_grad=True) for _ in range(2))
    optimizer = SGD([used, unused], lr=1.0)
    unused.node.grad = np.ones(3)  # from an earlier step
    optimizer.zero_grad()
    with Tape() as tape:
        loss = sum(mul(used, used))
    tape.backward(loss, release=True)
    optimizer.step()
    np.testing.assert_array_equal(used.data, -np.ones(3))
    np.testing.assert_array_equal(unused.data, np.ones(3))


def test_a_tensor_listed_twice_is_updated_once() -> None:
    p = Tensor(np.ones(3), requires_grad=True)
    optimizer = SGD([("a", p), ("b", p)], lr=1.0)
    p.node.grad = np.ones(3)
    optimizer.step()
    np.testing.assert_array_equal(p.data, np.zeros(3))


@pytest.mark.parametrize("kind", KINDS)
def test_identity_decides_and_never_the_name(kind: type[Optimizer]) -> None:
    rng = np.random.default_rng(0)
    nets = [nn.Linear(3, 2, rng=rng) for _ in range(3)]
    listed = [pair for net in nets for pair in net.named_parameters()]
    optimizer = kind([*listed, ("0", nets[0].weight), *nets[1].parameters()], lr=0.1)
    assert list(optimizer.parameters) == [
        *("weight", "bias", "weight#2", "bias#2", "weight#3", "bias#3")
    ]
    before = [net.state_dict() for net in nets]
    for net in nets:
        for p in net.parameters():
            p.grad = np.ones(p.shape, np.float32)
    optimizer.step()
    for net, old in zip(nets, before, strict=True):
        for name, array in net.state_dict().items():
            assert (array != old[name]).all(), name
    heir = kind(listed, lr=0.1)
    heir.load_state_dict(optimizer.state_dict())
    assert heir.steps == optimizer.steps


def test_names_and_numbers_may_meet() -> None:
    a, b, c, d = parameters()[:4]
    assert list(SGD([a, ("0", b), ("0#2", c), ("0", d)], lr=1).parameters) == [
        *("0", "0#2", "0#2#2", "0#3")
    ]


@pytest.mark.parametrize(
    "given",
    [
        [],
        iter([]),
        {},
        nn.Linear(2, 2, rng=None),
        Tensor(np.ones(3), requires_grad=True),
        np.ones(3),
        None,
        3,
        [np.ones(3)],
        [("name", np.ones(3))],
        [{"params": []}],
        ["weight"],
        [Tensor(np.ones(3))],
        [Tensor(np.arange(3))],
        [Tensor(np.ones(3), requires_grad=True) * 2.0],
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_trained_is_refused(
    kind: type[Optimizer], given: object
) -> None:
    with pytest.raises((ValueError, TypeError), match=kind.__name__):
        kind(given, lr=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_updates_in_place_and_leaves_gradients_as_they_are(
    kind: type[Optimizer], options: dict[str, object]
) -> None:
    ours = parameters("float32")
    arrays = [p.data for p in ours]
    give_gradients(ours, 1)
    copies = [None if p.grad is None else p.grad.copy() for p in ours]
    for p in ours:
        if p.grad is not None:
            p.grad.flags.writeable = False
    optimizer = kind(ours, lr=0.1, **options)
    optimizer.step()
    for p, array, copy in zip(ours, arrays, copies, strict=True):
        assert p.data is array
        if copy is not None:
            np.testing.assert_array_equal(p.grad, copy)


def test_transposed_gradients_and_parameters() -> None:
    rng = np.random.default_rng(0)
    data, g = rng.normal(size=(400, 300)), rng.normal(size=(300, 400))
    straight = Tensor(data.copy(), requires_grad=True)
    turned = Tensor(np.asfortranarray(data), requires_grad=True)
    straight.node.grad, turned.node.grad = np.ascontiguousarray(g.T), g.T
    for p in (straight, turned):
        Adam([p], weight_decay=0.1).step()
    np.testing.assert_array_equal(straight.data, turned.data)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_step_takes_no_big_temporaries(
    kind: type[Optimizer], options: dict[str, object]
) -> None:
    p = Tensor(np.ones((1000, 1000), np.float32), requires_grad=True)  # 4 MB
    p.node.grad = np.ones((1000, 1000), np.float32)
    optimizer = kind([p], lr=0.1, **options)
    optimizer.step()
    tracemalloc.start()
    optimizer.step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e5


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        (SGD, {"lr": -1}, "lr"),
        (SGD, {"lr": float("nan")}, "lr"),
        (SGD, {"lr": 1, "momentum": -0.1}, "momentum"),
        (SGD, {"lr": 1, "weight_decay": -0.1}, "weight_decay"),
        (SGD, {"lr": 1, "nesterov": True}, "nesterov"),
        (
            SGD,
            {"lr": 1, "momentum": 0.9, "dampening": 0.1, "nesterov": True},
            "nesterov",
        ),
        (Adam, {"betas": (0.9, 1.0)}, "betas"),
        (Adam, {"betas": (-0.1, 0.9)}, "betas"),
        (AdamW, {"eps": -1}, "eps"),
        (RMSprop, {"alpha": 1.0}, r"alpha must lie in \[0, 1\)"),
        (RMSprop, {"alpha": -0.1}, "alpha"),
        (RMSprop, {"eps": -1}, "eps"),
        (RMSprop, {"momentum": -1}, "momentum"),
        (SGD, {"lr": 1, "no_decay": ["0", "9"]}, "no_decay names '9', which is no"),
    ],
)
def test_wrong_options(
    kind: type[Optimizer], options: dict[str, object], word: str
) -> None:
    with pytest.raises(ValueError, match=word):
        kind(parameters(), **options)


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_gpu_as_cpu(kind: type[Optimizer], options: dict[str, object]) -> None:
    import cupy

    ours = parameters()
    theirs = [Tensor(cupy.asarray(p.data), requires_grad=True) for p in ours]
    pair = kind(ours, lr=0.05, **options), kind(theirs, lr=0.05, **options)
    for step in range(5):
        give_gradients(ours, step)
        for p, q in zip(ours, theirs, strict=True):
            q.node.grad = None if p.grad is None else cupy.asarray(p.grad)
        assert clip_grad_norm(ours, 3.0) == pytest.approx(clip_grad_norm(theirs, 3.0))
        for optimizer in pair:
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, cupy.asnumpy(q.data), 1e-12, 1e-14)
