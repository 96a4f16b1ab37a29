"""What every operator owes, from one table: gradients, dtype, any memory order.

A new operator fails `test_every_operator_has_a_row` until it has one here.
"""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest

from tinyflow import Tape, Tensor, ops
from tinyflow.backend import asarray
from tinyflow.testing import check_vjp, spaced


class Row(NamedTuple):
    operator: str
    function: Callable[..., Tensor]
    inputs: tuple[np.ndarray, ...]
    options: str = ""


def row(operator: str, *inputs: np.ndarray, **options: Any) -> Row:
    """The operator applied to tensors and fixed options."""
    function = getattr(ops, operator)

    def call(*tensors: Tensor) -> Tensor:
        return function(*tensors, **options)

    call.__name__ = operator
    written = ", ".join(f"{name}={value}" for name, value in options.items())
    return Row(operator, call, inputs, written)


def away(*shape: int, seed: int = 0) -> np.ndarray:
    """Values in [1, 2]: divisors, and arguments of log and sqrt."""
    return spaced(*shape, seed=seed, low=1.0, high=2.0)


X, Y = spaced(2, 3, 4), spaced(3, 1, seed=1)
IMAGES = spaced(2, 4, 5, 6)
LABELS = np.array([2, 0, 1])
MAP = np.arange(60).reshape(2, 5, 6) % 4
CHANNELS = (away(4, seed=1), spaced(4, seed=2))
RUNNING = {"running_mean": spaced(4, seed=3), "running_var": away(4, seed=4)}


def constant(x: Tensor, *values: float) -> Any:
    """An array of the dtype of x, beside it."""
    return asarray(np.array(values, x.dtype), x.device)


def fixed_dropout(x: Tensor) -> Tensor:
    return ops.dropout(x, 0.4, generator=np.random.default_rng(1))


def split_and_multiply(x: Tensor) -> Tensor:
    return ops.split(x, 3, dim=2)[0] * ops.split(x, [3, 1], dim=2)[1]


def norm_without_scale(x: Tensor, bias: Tensor) -> Tensor:
    return ops.batch_norm(x, bias=bias, training=True)


ROWS = [
    row("add", X, Y),
    row("sub", X, Y),
    row("mul", X, Y),
    row("div", X, away(3, 1)),
    Row("add", lambda x: 1.5 + x, (X,), "number"),
    Row("sub", lambda x: 1.5 - x, (X,), "number"),
    Row("mul", lambda x: 1.5 * x, (X,), "number"),
    Row("div", lambda x: 1.5 / x, (away(2, 3),), "number"),
    row("neg", X),
    row("pow", away(2, 3), exponent=2.5),
    row("pow", X, exponent=3),
    row("pow", X, exponent=-1),
    row("pow", away(2, 3), spaced(3, seed=1)),
    Row("pow", lambda b: 1.5**b, (X,), "number"),
    Row("pow", lambda a: a ** constant(a, 2, -1, 0), (X.reshape(8, 3),), "array"),
    row("exp", X),
    row("log", away(2, 3)),
    row("sqrt", away(2, 3)),
    row("relu", X),
    row("relu6", spaced(4, 5, low=-4.0, high=10.0)),
    row("sigmoid", X),
    row("tanh", X),
    row("silu", X),
    row("hardswish", spaced(4, 5, low=-5.1, high=5.0)),
    row("abs", X),
    row("maximum", X, Y),
    row("minimum", X, Y),
    Row("maximum", lambda x: ops.maximum(0.25, x), (X,), "number"),
    row("clamp", X, min=-0.5, max=0.5),
    row("clamp", X, max=0.25),
    Row("where", lambda x, y: ops.where(x > 0, x, y), (X, Y)),
    Row("where", lambda x: ops.where(x > 0, 0.5, x), (X,), "number"),
    row("leaky_relu", X, negative_slope=-0.3),
    row("elu", X, alpha=1.5),
    row("gelu", X),
    row("gelu", X, approximate="tanh"),
    row("softplus", X, beta=2, threshold=0.7),
    row("hardsigmoid", spaced(4, 5, low=-5.1, high=5.0)),
    row("sum", X),
    row("sum", X, dim=1, keepdim=True),
    row("mean", X),
    row("mean", X, dim=(0, -1)),
    row("amax", X),
    row("amax", X, dim=(0, -1)),
    row("var", X),
    row("var", X, dim=(0, -1), correction=0, keepdim=True),
    row("squeeze", X[:1]),
    row("squeeze", X[:1, :1], dim=-3),
    Row("stack", lambda *x: ops.stack(x, dim=1), (X, X[::-1].copy())),
    row("reshape", X, shape=(4, -1)),
    row("flatten", X, start_dim=1),
    row("permute", X, dims=(2, 0, 1)),
    row("transpose", X, dim0=0, dim1=-1),
    row("pad", X, pad=(1, 2, 0, 3), value=0.5),
    row("getitem", X, index=(..., slice(None, None, -2))),
    row("getitem", X, index=(1, None, slice(1, 3), 0)),
    row("channel_shuffle", spaced(2, 6, 3), groups=2),
    row("channel_shuffle", spaced(2, 6, 2, 3), groups=3),
    row("channel_shuffle", spaced(3, 4), groups=4),
    Row("concat", lambda *x: ops.concat(x, dim=1), (X, spaced(2, 1, 4), X)),
    Row("split", split_and_multiply, (X,)),
    row("linear", X, spaced(5, 4, seed=1)),
    row("linear", X, spaced(5, 4, seed=1), spaced(5, seed=2)),
    row("matmul", X, spaced(4, 5, seed=1)),
    row("matmul", spaced(3, 1, 2, 4), spaced(5, 4, 3, seed=1)),
    row("matmul", spaced(4), spaced(4, 5, seed=1)),
    row("matmul", X, spaced(4, seed=1)),
    row("matmul", spaced(3), X),
    row("matmul", spaced(4), spaced(4, seed=1)),
    row("softmax", X, dim=1),
    row("log_softmax", X, dim=-1),
    row("cross_entropy", spaced(3, 4), target=LABELS),
    row("cross_entropy", spaced(3, 4), target=LABELS, label_smoothing=0.1),
    row("cross_entropy", spaced(3, 4), target=LABELS, reduction="none"),
    row("cross_entropy", spaced(3, 4), target=LABELS, ignore_index=0),
    row("cross_entropy", IMAGES, target=MAP, label_smoothing=0.1, ignore_index=3),
    Row(
        "cross_entropy",
        lambda x: ops.cross_entropy(
            x, MAP, constant(x, 1, 0, 2, 0.5), reduction="none", label_smoothing=0.3
        ),
        (IMAGES,),
        "weight",
    ),
    row("cross_entropy", spaced(3, 4), away(3, 4, seed=1), label_smoothing=0.1),
    Row(
        "cross_entropy",
        lambda x, p: ops.cross_entropy(
            x, p, constant(x, 1, 0, 2, 0.5), reduction="none"
        ),
        (IMAGES, away(2, 4, 5, 6, seed=1)),
        "probabilities, weight",
    ),
    row("nll_loss", IMAGES, target=MAP, ignore_index=3),
    Row(
        "nll_loss",
        lambda x: ops.nll_loss(x, LABELS, constant(x, 1, 0, 2, 0.5)),
        (spaced(3, 4),),
        "weight",
    ),
    *(row("mse_loss", X, X[::-1].copy(), reduction=r) for r in ("mean", "sum", "none")),
    row("bce_with_logits", 3 * X, away(2, 3, 4) - 1),
    Row(
        "bce_with_logits",
        lambda x, t: ops.bce_with_logits(
            x, t, constant(x, 1, 0, 2, 0.5), "none", constant(x, 3, 2, 0, 1)
        ),
        (3 * X, away(2, 3, 4) - 1),
        "weights",
    ),
    row("batch_norm", IMAGES, training=True),
    Row("batch_norm", norm_without_scale, (IMAGES, CHANNELS[1]), "no scale"),
    Row(
        "batch_norm",
        lambda x, w, b: ops.batch_norm(x, None, None, w, b, True),
        (IMAGES, *CHANNELS),
        "training",
    ),
    Row(
        "batch_norm",
        lambda x, w, b: ops.batch_norm(x, **RUNNING, weight=w, bias=b),
        (IMAGES, *CHANNELS),
        "evaluation",
    ),
    row("group_norm", IMAGES, num_groups=2),
    Row("group_norm", lambda *x: ops.group_norm(x[0], 2, *x[1:]), (IMAGES, *CHANNELS)),
    row("layer_norm", X, normalized_shape=(3, 4)),
    Row(
        "layer_norm",
        lambda *x: ops.layer_norm(x[0], 4, *x[1:]),
        (spaced(2, 3, 4), *CHANNELS),
    ),
    Row("dropout", fixed_dropout, (IMAGES,)),
    Row(
        "dropout2d",
        lambda x: ops.dropout2d(x, 0.4, generator=np.random.default_rng(1)),
        (IMAGES,),
    ),
    row("conv2d", IMAGES, spaced(2, 4, 3, 3), CHANNELS[0][:2]),
    row("conv2d", IMAGES, spaced(6, 2, 1, 3), stride=(1, 2), padding=1, groups=2),
    row("conv2d", IMAGES, spaced(4, 1, 3, 2), padding="same", dilation=2, groups=4),
    row("conv2d", IMAGES[0], spaced(2, 4, 3, 3), CHANNELS[0][:2]),
    row("max_pool2d", IMAGES[0], kernel_size=3, stride=2, padding=1),
    row("avg_pool2d", IMAGES[0], kernel_size=2),
    row("global_avg_pool2d", IMAGES[0]),
    row("adaptive_avg_pool2d", IMAGES[0], output_size=(3, 4)),
    row("max_pool2d", IMAGES, kernel_size=3, stride=2, padding=1),
    row("max_pool2d", IMAGES, kernel_size=2, ceil_mode=True),
    row("avg_pool2d", IMAGES, kernel_size=3, stride=2, padding=1),
    row("avg_pool2d", IMAGES, kernel_size=(2, 3), padding=1, count_include_pad=False),
    row("global_avg_pool2d", IMAGES),
    *(
        row(f"adaptive_{kind}_pool2d", IMAGES, output_size=size)
        for kind in ("avg", "max")
        for size in ((3, 4), (5, 2), (None, 8))
    ),
    row("local_response_norm", IMAGES, size=3, alpha=2.0, k=0.5),
    row("local_response_norm", IMAGES, size=10, alpha=2.0, beta=1),
]

every_row = pytest.mark.parametrize(
    "row", ROWS, ids=[f"{r.operator}({r.options})" for r in ROWS]
)


def test_every_operator_has_a_row():
    assert {r.operator for r in ROWS} == set(ops.__all__)


@every_row
def test_gradients_in_float64_and_float32(row):
    check_vjp(row.function, *row.inputs, float32=True)


@every_row
def test_dtype_and_gradient_dtype(row):
    for dtype in ("float32", "float64"):
        inputs = [Tensor(x.astype(dtype), requires_grad=True) for x in row.inputs]
        with Tape(check=True) as tape:
            y = row.function(*inputs)
            loss = ops.sum(y * y)
        tape.backward(loss)
        assert isinstance(y.data, np.ndarray)  # also of a 0-d result
        found = {y.dtype, loss.dtype, *(x.grad.dtype for x in inputs)}
        assert found == {np.dtype(dtype)}


def orders(x):
    """The same values, lying differently in memory."""
    yield np.ascontiguousarray(x)
    yield np.asfortranarray(x)
    yield x[::-1].copy()[::-1]  # a negative stride
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]))
    wide[..., ::2] = x
    yield wide[..., ::2]  # gaps between entries
    if x.ndim == 4:
        yield np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        yield np.ascontiguousarray(x.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1)


def values_and_gradients(function, inputs, cotangent=None, fuse=False):
    tensors = [Tensor(x, requires_grad=True) for x in inputs]
    with Tape(check=True, fuse=fuse) as tape:
        y = function(*tensors)
    u = spaced(*y.shape) if cotangent is None else cotangent
    tape.backward(y, u)
    return [y.data, *(x.grad for x in tensors)]


@every_row
def test_memory_order_does_not_matter(row):
    expected = values_and_gradients(row.function, row.inputs)
    choices = [list(orders(x)) for x in row.inputs]
    cotangents = (
        list(orders(spaced(*expected[0].shape))) if expected[0].ndim else [None]
    )
    for turn, u in product(range(max(map(len, choices))), cotangents):
        inputs = [c[(turn + i) % len(c)] for i, c in enumerate(choices)]
        got = values_and_gradients(row.function, inputs, u)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)


@every_row
def test_without_a_tape_the_value_is_the_same(row):
    """The operator does not read the tape, and without one keeps nothing."""
    expected = values_and_gradients(row.function, row.inputs)[0]
    y = row.function(*(Tensor(x, requires_grad=True) for x in row.inputs))
    np.testing.assert_array_equal(y.data, expected)
    assert y.node.edges == () and not y.requires_grad
