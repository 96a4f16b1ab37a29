"""Digits: tails, long sums and variances against extended and double precision.

Sums keep their digits however many numbers they are of, and so do variances, whatever
those numbers are; on every engine.
"""

import math
from collections.abc import Iterator

import numpy as np
import pytest

# ruff: noqa: F401, F811
from tests.kernels.engines import case, small
from tests.kernels.native.built import native
from tinyflow import Tape, Tensor, ops
from tinyflow.kernels.layout import swap
from tinyflow.lengths import square
from tinyflow.optim import grad_norm

SMOOTH = ("sigmoid", "tanh", "silu")


# -- last digits -------------------------------------------------------------------


def exact(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and slope in extended precision."""
    x = x.astype(np.longdouble)
    e = np.exp(-abs(x))
    s, ds = np.where(x < 0, e, 1) / (1 + e), e / (1 + e) ** 2
    if name == "sigmoid":
        return s, ds
    if name == "silu":
        return x * s, s + x * ds
    return np.tanh(x), 4 * e**2 / (1 + e**2) ** 2


@pytest.mark.parametrize("name", SMOOTH)
def test_tails_keep_their_digits(case, name):
    far = 80 if case.dtype == np.float32 else 600
    x = np.concatenate([np.linspace(-far, far, 4001), [-20, 20, -1e-3, 1e-30]])
    x = (x[abs(x) < far / 2] if name == "tanh" else x).astype(case.dtype)
    t = Tensor(x, requires_grad=True)
    with Tape() as tape:
        y = getattr(ops, name)(t)
    tape.backward(y, np.ones_like(x))
    value, slope = exact(name, x)
    eps = np.finfo(case.dtype).eps
    np.testing.assert_allclose(y.data, value, rtol=8 * eps)
    # Where the slope changes its sign its digits are those of its terms.
    noise = 8 * eps if name == "silu" else 0
    far_off = abs(x) > 3
    np.testing.assert_allclose(t.grad, slope, rtol=64 * eps, atol=noise)
    left = far_off & (x < 0)
    np.testing.assert_allclose(t.grad[left], slope[left], rtol=64 * eps)


def test_tails_of_gelu_and_softplus_keep_their_digits(case):
    """x Φ(x) by the error function of the C library, ln(1 + eˣ) in extended."""
    x = np.linspace(-5, 8, 2001).astype(case.dtype)
    t = Tensor(x, requires_grad=True)
    with Tape() as tape:
        y, z = ops.gelu(t), ops.softplus(t, threshold=100)
    tape.backward(y, np.ones_like(x))
    part = np.array([math.erfc(-v / math.sqrt(2)) / 2 for v in x.tolist()])
    bell = np.exp(-(np.float64(x) ** 2) / 2) / math.sqrt(2 * math.pi)
    eps = np.finfo(case.dtype).eps
    np.testing.assert_allclose(y.data, x * part, rtol=32 * eps)
    np.testing.assert_allclose(t.grad, part + x * bell, rtol=64 * eps, atol=4 * eps)
    right = np.logaddexp(0, x.astype(np.longdouble))
    np.testing.assert_allclose(z.data, right, rtol=8 * eps)


def test_the_logarithm_of_a_sigmoid(case):
    x = Tensor(np.linspace(-80, 30, 111).astype(case.dtype), requires_grad=True)
    with Tape() as tape:
        y = ops.log(ops.sigmoid(x))
    tape.backward(y, np.ones_like(y.data))
    right = -np.logaddexp(0, -x.data.astype(np.longdouble))
    tolerance = 16 * np.finfo(case.dtype).eps
    np.testing.assert_allclose(y.data, right, rtol=tolerance, atol=tolerance)
    slope = exact("sigmoid", -x.data)[0]
    np.testing.assert_allclose(x.grad, slope, rtol=4 * tolerance)


def test_gates_keep_their_digits(small):
    z = np.linspace(-80, 80, 320).astype("f4").reshape(10, 32)
    value, slope = exact("sigmoid", z)
    np.testing.assert_allclose(small("sigmoid", z), value, rtol=1e-6)
    np.testing.assert_allclose(small("sigmoid_grad", z), slope, rtol=2e-6)


def test_softmax_keeps_the_digits_of_what_is_small(case):
    x = np.array([[0.0, -30.0, -60.0, -80.0, 5.0]], case.dtype)
    e = np.exp(x.astype(np.longdouble))
    y = ops.softmax(Tensor(x), dim=1).data
    np.testing.assert_allclose(y, e / e.sum(), rtol=8 * np.finfo(case.dtype).eps)


# -- long sums ---------------------------------------------------------------------

MANY = 1 << 18
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((MANY, 3), (0,)),
    ((3, MANY), (1,)),
    ((MANY // 64, 2, 64), (0, 2)),
    ((4, 2, 224, 224), (0, 2, 3)),
    ((2, 3, 224, 224), (2, 3)),
    ((1, 3, 224, 224), (1, 2, 3)),
    ((MANY,), (0,)),
]


def orders(x: np.ndarray) -> Iterator[np.ndarray]:
    """The same values, lying differently in memory."""
    yield x
    yield np.asfortranarray(x)
    yield x[::-1]
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    yield wide[..., ::2]
    if x.ndim == 4:
        yield swap(np.ascontiguousarray(swap(x)))
        yield np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(("shape", "axes"), SHAPES, ids=str)
def test_long_sums_and_means(shape, axes):
    """Of equal signs, in any memory order, with and without the axes kept."""
    x = (np.random.default_rng(0).random(shape) + 0.1).astype("f4")
    for z in orders(x):
        right = z.sum(axis=axes, keepdims=True, dtype="f8")
        for keepdim in (True, False):
            expected = right if keepdim else right.squeeze(axes)
            total = ops.sum(Tensor(z), axes, keepdim).data
            mean = ops.mean(Tensor(z), axes, keepdim).data
            assert total.dtype == mean.dtype == np.float32
            np.testing.assert_allclose(total, expected, rtol=3e-7)
            np.testing.assert_allclose(mean * (x.size / right.size), total, rtol=3e-7)


def test_messages_to_what_was_broadcast(case):
    """Biases, scales and gates: Σ g over many, in whatever order it comes."""
    g = (np.random.default_rng(1).random((MANY, 3)) + 0.1).astype(case.dtype)
    for function in (ops.add, ops.sub, ops.mul, ops.div):
        b = Tensor(np.ones(3, case.dtype), requires_grad=True)
        with Tape() as tape:
            y = function(Tensor(np.ones_like(g)), b)
        tape.backward(y, g)
        np.testing.assert_allclose(abs(b.grad), g.sum(0, dtype="f8"), rtol=3e-7)


def test_gradients_of_biases_and_gates(case):
    rng = np.random.default_rng(2)
    rows = (rng.random((MANY, 3)) + 0.1).astype(case.dtype)
    maps = swap((rng.random((224, 224, 2, 3)) + 0.1).astype(case.dtype))
    ones = np.ones_like(maps)
    bias, shift, gates, kernel = (
        Tensor(np.ones(s, case.dtype), requires_grad=True)
        for s in ((3,), (3,), (2, 3, 1, 1), (3, 1, 1, 1))
    )
    weight = Tensor(np.ones((3, 1), case.dtype))
    with Tape() as tape:
        y = ops.linear(Tensor(rows[:, :1]), weight, bias)
    tape.backward(y, rows)
    np.testing.assert_allclose(bias.grad, rows.sum(0, dtype="f8"), rtol=5e-7)
    with Tape() as tape:
        y = ops.mul(Tensor(ones), gates)
    tape.backward(y, maps)
    right = maps.sum((2, 3), dtype="f8", keepdims=True)
    np.testing.assert_allclose(gates.grad, right, rtol=5e-7)
    right = maps.sum((0, 2, 3), dtype="f8")
    with Tape() as tape:
        y = ops.conv2d(Tensor(ones), kernel, shift, groups=3)
    tape.backward(y, maps)
    np.testing.assert_allclose(shift.grad, right, rtol=5e-7)
    np.testing.assert_allclose(kernel.grad.reshape(3), right, rtol=1e-6)
    with Tape() as tape:
        y = ops.batch_norm(Tensor(ones), bias=shift, training=True)
    tape.backward(y, maps)
    np.testing.assert_allclose(shift.grad, right, rtol=5e-7)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_long_sums_of_kernels(small, reduce):
    x = (np.random.default_rng(3).random((50_000, 5)) + 0.1).astype("f4")
    right = getattr(x.astype("f8"), reduce)(axis=0)
    np.testing.assert_allclose(small(reduce, x), right, rtol=1e-6)


def test_large_windows(case):
    x = (np.random.default_rng(4).random((1, 2, 224, 224)) + 0.1).astype(case.dtype)
    for window, stride in ((224, 1), (112, 112)):
        t = Tensor(x, requires_grad=True)
        with Tape() as tape:
            y = ops.avg_pool2d(t, window, stride)
        tape.backward(y, np.ones_like(y.data))
        parts = x.astype("f8").reshape(1, 2, 224 // window, window, 224 // window, -1)
        np.testing.assert_allclose(y.data, parts.mean((3, 5)), rtol=1e-6)
    peak = np.zeros((1, 1, 63, 63), case.dtype)
    peak[0, 0, 31, 31] = 1
    g = (np.random.default_rng(5).random((1, 1, 32, 32)) + 0.1).astype(case.dtype)
    for pool in (ops.max_pool2d, ops.avg_pool2d):
        t = Tensor(peak, requires_grad=True)
        with Tape() as tape:
            y = pool(t, 32, 1)
        tape.backward(y, g)
        right = g.sum(dtype="f8") / (1024 if pool is ops.avg_pool2d else 1)
        np.testing.assert_allclose(t.grad[0, 0, 31, 31], right, rtol=1e-6)


def test_long_softmax(case):
    x = np.random.default_rng(6).random((MANY, 2)).astype(case.dtype)
    e = np.exp(x.astype("f8"))
    y = ops.log_softmax(Tensor(x), dim=0).data
    np.testing.assert_allclose(y, np.log(e / e.sum(0)), rtol=1e-6)


def test_norms_of_long_gradients():
    g = np.full(3_000_001, 0.1, "f4")
    right = g.size * float(g[0]) ** 2
    np.testing.assert_allclose(square(g), right, rtol=1e-6)
    p = Tensor(g, requires_grad=True)
    p.node.grad = g
    np.testing.assert_allclose(grad_norm([p]), np.sqrt(right), rtol=1e-6)
    assert square(g).dtype == g.dtype


# -- variance ----------------------------------------------------------------------


def spread(kind: str, z: float, rows: int, columns: int) -> np.ndarray:
    """Deviations of about 1 and something far: z."""
    x = np.random.default_rng(7).normal(size=(rows, columns))
    if kind.startswith("relu"):
        x = x.clip(0)
    if kind.endswith("first"):
        x[0] = z
    elif kind.endswith("sample"):
        x[: rows // 100 + 1] = z
    elif kind.endswith("outlier"):
        x[rows // 2 + 1] = z
    elif kind.endswith("eighth"):
        x[::8] += z
    elif kind.endswith("mean"):
        x += z
    return x.astype("f4")


@pytest.mark.parametrize("shape", [(50, 7), (20_000, 5), (1000, 300), (65_536, 16)])
@pytest.mark.parametrize("z", [0, 5, 30, 100, 1000])
@pytest.mark.parametrize(
    "kind", ["first", "relu first", "relu sample", "outlier", "eighth", "mean"]
)
def test_variance(small, kind, z, shape):
    x = spread(kind, z, *shape)
    mean, var = small("moments", x)
    right = x.astype("f8").var(axis=0)
    np.testing.assert_allclose(var, right, rtol=2e-6)
    error = abs(mean - x.mean(axis=0, dtype="f8"))
    assert (error <= 1e-6 * np.sqrt(right) + 1e-7 * abs(mean)).all()


@pytest.mark.parametrize("value", [0, 0.1, -3e4, 1e30])
def test_what_does_not_vary_has_no_variance(case, value):
    x = np.full((3, 5, 7, 9), value, case.dtype)
    mean, var = case.engine.moments(x)
    assert (mean == case.dtype(value)).all() and (var == 0).all()


def test_variance_of_images_in_batches(case):
    """Several samples, slices of wider maps, and the stack of a dense block."""
    rng = np.random.default_rng(8)
    for shape in ((4, 3, 9, 7), (64, 16, 8, 8), (2, 300, 5, 5)):
        n, c, h, w = shape
        wide = rng.normal(size=(h, w, n, c + 9)).clip(0).astype(case.dtype)
        wide[0, 0, 0] = 100
        x = swap(wide)[:, 4 : 4 + c]
        for z in (x, np.ascontiguousarray(x)):
            mean, var = case.engine.moments(z)
            right = z.astype("f8")
            np.testing.assert_allclose(var, right.var((0, 2, 3)), rtol=2e-6)
            error = abs(mean - right.mean((0, 2, 3)))
            assert (error <= 1e-6 * np.sqrt(var)).all()
