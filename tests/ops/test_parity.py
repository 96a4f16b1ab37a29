"""PyTorch's values and gradients, operator by operator, in float64.

Where PyTorch's argument has the same name both are called with the same keywords; calls
without an option compare the defaults. PyTorch is handed C-ordered copies.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from tinyflow import Tape, Tensor, ops
from tinyflow.testing import spaced

torch = pytest.importorskip("torch")
F = torch.nn.functional


def ours(function, inputs):
    """The value, and the gradient of ⟨u, value⟩ for every input."""
    tensors = [Tensor(x, requires_grad=True) for x in inputs]
    with Tape(check=True) as tape:
        y = function(*tensors)
    tape.backward(y, spaced(*y.shape, seed=9))
    return [y.data, *(x.grad for x in tensors)]


def theirs(function, inputs):
    """The same by PyTorch."""
    tensors = [torch.tensor(x.copy(order="C"), requires_grad=True) for x in inputs]
    y = function(*tensors)
    y.backward(torch.from_numpy(spaced(*y.shape, seed=9)))
    return [y.detach().numpy(), *(x.grad.numpy() for x in tensors)]


def compare(our_function, their_function, inputs, rtol=1e-11, atol=1e-12):
    """Every number, relative to the size of the array it belongs to."""
    pairs = zip(ours(our_function, inputs), theirs(their_function, inputs), strict=True)
    for got, expected in pairs:
        assert got.shape == expected.shape
        size = np.abs(expected).max(initial=0.0)
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol * max(size, 1))


class Row(NamedTuple):
    operator: str
    our_function: Callable[..., Any]
    their_function: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]
    options: str


def row(operator: str, their_function: Any, *inputs: np.ndarray, **options: Any) -> Row:
    """Both with the same keywords."""
    function = getattr(ops, operator)

    def call(*tensors: Any) -> Any:
        return function(*tensors, **options)

    def their_call(*tensors: Any) -> Any:
        return their_function(*tensors, **options)

    written = ", ".join(f"{name}={value}" for name, value in options.items())
    return Row(operator, call, their_call, inputs, written)


def away(*shape: int, seed: int = 0) -> np.ndarray:
    return spaced(*shape, seed=seed, low=1.0, high=2.0)


def glued(concat: Callable[..., Any], split: Callable[..., Any], **options: Any) -> Any:
    """Split, weigh the parts differently, put together: one function to compare."""

    def call(x: Any) -> Any:
        parts = split(x, **options)
        return concat([p * (i + 1.0) for i, p in enumerate(parts)], options["dim"])

    return call


def split_row(**options: Any) -> Row:
    mine = glued(ops.concat, ops.split, **options)
    theirs = glued(torch.cat, torch.split, **options)
    return Row("split", mine, theirs, (X,), f"{options}")


def dropout_row(name: str, **options: Any) -> Row:
    """Without chance both are the identity, doubled to have something to record."""
    return Row(
        name,
        lambda x: 2 * getattr(ops, name)(x, **options),
        lambda x: 2 * getattr(F, name)(x, **options),
        (IMAGES,),
        f"{options}",
    )


def item_row(index: Any) -> Row:
    def item(x: Any) -> Any:
        return x[index]

    return Row("getitem", item, item, (X,), f"{index}")


def labels_row(n: int, k: int, **options: Any) -> Row:
    labels = np.random.default_rng(n).integers(0, k, n)
    theirs = torch.from_numpy(labels)
    return Row(
        "cross_entropy",
        lambda x: ops.cross_entropy(x, labels, **options),
        lambda x: F.cross_entropy(x, theirs, **options),
        (3 * spaced(n, k),),
        f"{options}",
    )


BCE = F.binary_cross_entropy_with_logits
X, Y = spaced(2, 3, 4), spaced(3, 1, seed=1)
WIDE = spaced(4, 9, low=-8.0, high=8.1)
IMAGES = spaced(2, 4, 7, 6)
MAP = np.arange(84).reshape(2, 7, 6) % 4
WITHOUT_STATISTICS = {"running_mean": None, "running_var": None, "training": True}
TIES = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])

ROWS = [
    row("add", torch.add, X, Y),
    row("sub", torch.sub, X, Y),
    row("mul", torch.mul, X, Y),
    row("div", torch.div, X, away(3, 1)),
    row("neg", torch.neg, X),
    *(row("pow", torch.pow, away(3, 4), exponent=p) for p in (2, 3, -1, 0.5, -1.5)),
    row("pow", torch.pow, away(3, 4), spaced(4, seed=1)),
    Row("pow", lambda b: 2.5**b, lambda b: 2.5**b, (X,), "number"),
    row("pow", torch.pow, np.zeros(3), np.array([0.0, 1.0, 2.0])),
    *(row("pow", torch.pow, np.zeros(2), exponent=p) for p in (0, 1, 2)),
    row("exp", torch.exp, X),
    row("log", torch.log, away(3, 4)),
    row("sqrt", torch.sqrt, away(3, 4)),
    row("relu", F.relu, WIDE),
    row("relu", F.relu, np.zeros(2)),
    row("relu6", F.relu6, WIDE),
    row("relu6", F.relu6, np.array([0.0, 6.0])),
    row("sigmoid", torch.sigmoid, WIDE),
    row("tanh", torch.tanh, WIDE),
    row("silu", F.silu, WIDE),
    row("hardswish", F.hardswish, WIDE),
    row("abs", torch.abs, WIDE),
    row("abs", torch.abs, TIES - 2),
    *(
        row(name, getattr(torch, name), *pair)
        for name in ("maximum", "minimum")
        for pair in ((X, Y), (TIES, TIES[:1]), (TIES, TIES[:, ::-1].copy()))
    ),
    *(
        row("clamp", torch.clamp, TIES, **limits)
        for limits in (
            {"min": 2},
            {"max": 2.0},
            {"min": 2, "max": 2.5},
            {"min": 3, "max": 2},
        )
    ),
    Row(
        "where",
        lambda x, y: ops.where(x.data > 0, x, y),
        lambda x, y: torch.where(x > 0, x, y),
        (X, Y),
        "x > 0",
    ),
    *(
        row(name, getattr(F, name), WIDE, **options)
        for name, options in (
            ("leaky_relu", {}),
            ("leaky_relu", {"negative_slope": -0.3}),
            ("elu", {}),
            ("elu", {"alpha": 1.7}),
            ("gelu", {}),
            ("gelu", {"approximate": "tanh"}),
            ("softplus", {}),
            ("softplus", {"beta": 3.5}),
            ("softplus", {"beta": 0.5, "threshold": 2}),
        )
    ),
    *(
        row(name, getattr(F, name), np.array([0.0, -3.0, 3.0]))
        for name in ("leaky_relu", "elu", "gelu", "softplus")
    ),
    *(  # theirs has a slope with the digits of float32
        row("hardsigmoid", lambda x: F.relu6(x + 3) / 6, x)
        for x in (WIDE, np.array([0.0, -3.0, 3.0]))
    ),
    *(
        row(name, getattr(torch, name), X, **options)
        for name in ("sum", "mean", "amax")
        for options in (
            {},
            {"dim": 1},
            {"dim": -1, "keepdim": True},
            {"dim": (0, 2)},
            {"dim": (-1, 0), "keepdim": True},
        )
    ),
    *(
        row("var", torch.var, X, **options)
        for options in (
            {},
            {"dim": 1, "correction": 0},
            {"dim": (-1, 0), "keepdim": True},
        )
    ),
    *(
        row("squeeze", torch.squeeze, spaced(1, 3, 1, 2), **options)
        for options in ({}, {"dim": 0}, {"dim": 1}, {"dim": (0, -2, -1)})
    ),
    *(
        Row(
            "stack",
            lambda *x, d=d: ops.stack(x, d),
            lambda *x, d=d: torch.stack(x, d),
            (X, X + 1, X),
            f"dim={d}",
        )
        for d in (0, 2, -1)
    ),
    row("amax", torch.amax, TIES, dim=1),
    row("amax", torch.amax, TIES),
    row("reshape", torch.reshape, X, shape=(4, -1)),
    row("flatten", torch.flatten, X),
    row("flatten", torch.flatten, X, start_dim=1),
    row("flatten", torch.flatten, X, start_dim=0, end_dim=1),
    row("permute", torch.permute, X, dims=(2, 0, -2)),
    row("transpose", torch.transpose, X, dim0=0, dim1=-1),
    row("pad", F.pad, X, pad=(1, 2)),
    row("pad", F.pad, X, pad=(1, 2, 0, 3), value=-0.5),
    item_row(1),
    item_row((..., slice(1, None, 2))),
    item_row((slice(0, 1), None, -1)),
    Row(
        "concat",
        lambda *x: ops.concat(x, dim=1),
        lambda *x: torch.cat(x, dim=1),
        (X, spaced(2, 1, 4), X),
        "dim=1",
    ),
    *(
        row("channel_shuffle", F.channel_shuffle, x, groups=groups)
        for x, groups in ((IMAGES, 2), (spaced(2, 6, 3, 2), 3), (spaced(1, 6, 5), 6))
    ),
    split_row(split_size_or_sections=2, dim=1),
    split_row(split_size_or_sections=[1, 3], dim=-1),
    row("linear", F.linear, X, spaced(5, 4, seed=1)),
    row("linear", F.linear, X, spaced(5, 4, seed=1), spaced(5, seed=2)),
    row("linear", F.linear, spaced(4), spaced(5, 4, seed=1), spaced(5, seed=2)),
    row("matmul", torch.matmul, X, spaced(4, 5, seed=1)),
    row("matmul", torch.matmul, spaced(3, 1, 2, 4), spaced(5, 4, 3, seed=1)),
    row("matmul", torch.matmul, spaced(4), X[0].T.copy()),
    row("matmul", torch.matmul, X, spaced(4, seed=1)),
    row("matmul", torch.matmul, spaced(3, seed=1), X),
    row("matmul", torch.matmul, spaced(4), spaced(4, seed=1)),
    *(row("softmax", F.softmax, X, dim=d) for d in (0, 1, -1)),
    *(row("log_softmax", F.log_softmax, X, dim=d) for d in (0, 1, -1)),
    *(
        labels_row(n, k, **options)
        for n, k in ((1, 2), (5, 3), (4, 10))
        for options in (
            {},
            {"reduction": "sum"},
            {"reduction": "none"},
            {"label_smoothing": 0.1},
            {"label_smoothing": 1.0, "reduction": "none"},
        )
    ),
    Row(
        "nll_loss",
        lambda x: ops.nll_loss(x, MAP, away(4), 2),
        lambda x: F.nll_loss(
            x, torch.from_numpy(MAP), torch.from_numpy(away(4)), ignore_index=2
        ),
        (IMAGES,),
        "weight, ignore_index",
    ),
    *(
        row("mse_loss", F.mse_loss, X, spaced(2, 3, 4, seed=1), reduction=r)
        for r in ("mean", "sum", "none")
    ),
    row("bce_with_logits", BCE, WIDE, away(4, 9) - 1),
    row("bce_with_logits", BCE, WIDE, np.round(away(4, 9) - 1), reduction="none"),
    row("global_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 1)[..., 0, 0], IMAGES),
    row("conv2d", F.conv2d, IMAGES, spaced(3, 4, 3, 2, seed=1)),
    row("conv2d", F.conv2d, IMAGES[0], spaced(3, 4, 3, 2, seed=1), padding=1),
    row("max_pool2d", F.max_pool2d, IMAGES[0], kernel_size=2),
    row("avg_pool2d", F.avg_pool2d, IMAGES[0], kernel_size=2, padding=1),
    row("adaptive_max_pool2d", F.adaptive_max_pool2d, IMAGES[0], output_size=3),
    row("max_pool2d", F.max_pool2d, IMAGES, kernel_size=2),
    row("max_pool2d", F.max_pool2d, np.ones((1, 1, 4, 4)), kernel_size=2, stride=1),
    row("avg_pool2d", F.avg_pool2d, IMAGES, kernel_size=3),
    row("avg_pool2d", F.avg_pool2d, IMAGES, kernel_size=2, divisor_override=3),
    *(
        row(
            f"adaptive_{kind}_pool2d",
            getattr(F, f"adaptive_{kind}_pool2d"),
            np.round(2 * IMAGES),  # with ties
            output_size=size,
        )
        for kind in ("avg", "max")
        for size in (1, (7, 3), (None, 4), (5, None), 9)
    ),
    *(
        row("local_response_norm", F.local_response_norm, IMAGES, **options)
        for options in (
            {"size": 5},
            {"size": 2, "alpha": 3.0, "beta": 0.5, "k": 2.0},
            {"size": 9, "alpha": 0.3},
        )
    ),
    row("local_response_norm", F.local_response_norm, X, size=3, alpha=2.0),
    row("batch_norm", F.batch_norm, IMAGES, **WITHOUT_STATISTICS),
    row("group_norm", F.group_norm, IMAGES, num_groups=2),
    row("layer_norm", F.layer_norm, IMAGES, normalized_shape=(7, 6)),
    row("batch_norm", F.batch_norm, spaced(5, 3), **WITHOUT_STATISTICS),
    *(dropout_row(name, p=0.0) for name in ("dropout", "dropout2d")),
    *(dropout_row(name, training=False) for name in ("dropout", "dropout2d")),
]


@pytest.mark.parametrize("row", ROWS, ids=[f"{r.operator}({r.options})" for r in ROWS])
def test_values_and_gradients(row):
    compare(row.our_function, row.their_function, row.inputs)


def test_every_operator_is_compared():
    assert {r.operator for r in ROWS} == set(ops.__all__)
