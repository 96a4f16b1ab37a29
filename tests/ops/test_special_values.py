"""Zeros, denormal and huge numbers, infinities and NaN: PyTorch's answer, every engine.

As inputs and as cotangents. What a mask stops is stopped, whatever it is.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest

# ruff: noqa: F401, F811
from tests.kernels.engines import case, small
from tests.kernels.native.built import native
from tinyflow import Tape, Tensor, nn, ops

INF, NAN = np.inf, np.nan


# -- special values against PyTorch ------------------------------------------------


def specials(dtype: Any) -> np.ndarray:
    """Zeros, the smallest, borders of operators and of exp, the largest, ±∞, NaN."""
    about = np.finfo(dtype)
    numbers = [0, about.smallest_subnormal, about.tiny, about.eps, 1e-3, 0.5, 1, 2, 3]
    numbers += [3 - 4 * about.eps, 6, 6.5, 10, 17, 20, 50, 87, 104, 700, 1e10]
    numbers += [np.sqrt(float(about.max)), about.max, INF, NAN]
    return np.array([*numbers, *(-x for x in numbers)], dtype)


def both(function: Any, theirs: Any, inputs: list[np.ndarray], u: np.ndarray) -> Any:
    """Value and gradients here, and in PyTorch."""
    torch = pytest.importorskip("torch")
    ours = [Tensor(x.copy(), requires_grad=True) for x in inputs]
    with Tape(fuse=True) as tape:
        y = function(*ours)
    tape.backward(y, u.copy())
    other = [torch.tensor(x.copy(), requires_grad=True) for x in inputs]
    z = theirs(*other)
    z.backward(torch.from_numpy(u.copy()))
    return zip(
        [y.data, *(x.grad for x in ours)],
        [z.detach().numpy(), *(x.grad.numpy() for x in other)],
        strict=True,
    )


def alike(ours: np.ndarray, theirs: np.ndarray, noise: np.ndarray | float = 0) -> None:
    """Equal, NaN included, up to rounding; `noise` is what PyTorch's rounding loses."""
    about = np.finfo(theirs.dtype)
    with np.errstate(all="ignore"):
        near = abs(ours - theirs) <= 64 * about.eps * abs(theirs) + noise + about.tiny
    same = near | (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    if not same.all():
        wrong = np.argwhere(~same)[:5]
        pytest.fail("\n".join(f"{w}: {ours[*w]} {theirs[*w]}" for w in wrong))


def torch_function(name: str) -> Any:
    torch = pytest.importorskip("torch")
    if name == "hardsigmoid":  # whose slope has the digits of float32
        return lambda x: torch.nn.functional.relu6(x + 3) / 6
    return getattr(torch, name, None) or getattr(torch.nn.functional, name)


UNARY = (
    "neg exp log sqrt relu relu6 sigmoid tanh silu hardswish abs leaky_relu elu gelu "
    "softplus hardsigmoid"
).split()
SMOOTH = ("sigmoid", "tanh", "silu", "gelu", "softplus")
"""Whose slope PyTorch takes of the rounded value: it loses what 1 - y cancels."""

PRODUCTS = ("silu", "gelu")


@pytest.mark.parametrize("name", UNARY)
def test_special_values(case, name):
    values = specials(case.dtype)
    x, u = np.meshgrid(values, values, indexing="ij")
    if name in (*PRODUCTS, "hardswish"):  # they have -inf · 0
        x[np.isinf(x)] = 0
    if name == "abs":  # they have g · 0
        u[(x == 0) | np.isnan(x)] = 1
    value, grad = both(getattr(ops, name), torch_function(name), [x], u)
    eps = np.finfo(case.dtype).eps
    alike(*value, noise=2 * eps * np.minimum(abs(x), 9) if name == "gelu" else 0)
    ours, theirs = grad
    if name in SMOOTH:
        # An infinite cotangent times a slope they round to 0, the largest there is
        # times one they round to 1.
        held = abs(u) < np.finfo(case.dtype).max
        alike(
            ours[held], theirs[held], 8 * eps * abs(u[held]) * (1 + (name in PRODUCTS))
        )
    else:
        alike(ours, theirs)


@pytest.mark.parametrize("p", [0, 1, 2, 3, -1, -2, 0.5, -0.5, 2.5, INF])
def test_special_values_of_powers(case, p):
    values = specials(case.dtype)
    x, u = np.meshgrid(values, values, indexing="ij")
    torch_pow = torch_function("pow")
    for pair in both(lambda x: x**p, lambda x: torch_pow(x, p), [x], u):
        alike(*pair)


def test_special_values_of_tensor_powers(case):
    values = specials(case.dtype)
    values = values[np.isnan(values) | (abs(values) < 1e5) | np.isinf(values)]
    a, b = np.meshgrid(values, values, indexing="ij")
    eps = np.finfo(case.dtype).eps
    value, *grads = both(ops.pow, torch_function("pow"), [a, b], np.ones_like(a))
    alike(*value, noise=64 * eps * abs(value[1]))
    for ours, theirs in grads:  # a difference in the last digits of y shows here, too
        alike(ours, theirs, noise=64 * eps * abs(theirs))


@pytest.mark.parametrize(
    "function",
    [ops.silu, ops.hardswish, ops.gelu, partial(ops.gelu, approximate="tanh")],
    ids=["silu", "hardswish", "gelu", "gelu tanh"],
)
def test_products_are_their_limits_at_infinity(case, function):
    x = Tensor(np.array([-INF, INF, -1e30, 1e30], case.dtype), requires_grad=True)
    with Tape() as tape:
        y = function(x)
    tape.backward(y, np.ones_like(x.data))
    np.testing.assert_allclose(y.data, [0, INF, 0, x.data[3]], 2e-7, 0)
    np.testing.assert_array_equal(x.grad, [0, 1, 0, 1])


@pytest.mark.parametrize("limits", [(-1, 3), (None, 3), (-1, None), (3, 1)])
def test_special_values_of_clamp(case, limits):
    values = specials(case.dtype)
    x, u = np.meshgrid(values, values, indexing="ij")
    torch_clamp = torch_function("clamp")
    for pair in both(
        lambda x: ops.clamp(x, *limits), lambda x: torch_clamp(x, *limits), [x], u
    ):
        alike(*pair)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "maximum", "minimum"])
@pytest.mark.parametrize("u", [1.0, 0.0, INF, NAN, -2.0])
def test_special_values_of_two(case, name, u):
    a, b = np.meshgrid(*[specials(case.dtype)] * 2, indexing="ij")
    cotangent = np.full(a.shape, u, case.dtype)
    for pair in both(getattr(ops, name), torch_function(name), [a, b], cotangent):
        alike(*pair)


ROWS = [
    [1, 2, 3, 4], [INF, 1, 2, 3], [-INF, 1, 2, 3], [-INF] * 4, [INF] * 4,
    [INF, -INF, 0, 1], [NAN, 1, 2, 3], [1, 2, 3, NAN], [3, 3, 1, 0],
    [1e38, 1e38, -1e38, 0], [100, 0, -100, -50], [0, -0.0, 0, -0.0], [NAN, INF, NAN, 0],
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_special_values_in_rows(case, row):
    torch = pytest.importorskip("torch")
    x, functional = np.array([row], case.dtype), torch.nn.functional
    for name in ("sum", "mean", "var", "amax", "softmax", "log_softmax"):
        ours = getattr(ops, name)
        theirs = getattr(torch, name, None) or getattr(functional, name)
        for first in (1.0, 0.0) if name == "amax" else (1.0, INF, NAN):
            u = np.ones(ours(Tensor(x), dim=1).shape, case.dtype)
            u.flat[0] = first
            call = (lambda t, f=ours: f(t, dim=1)), (lambda t, f=theirs: f(t, dim=1))
            for pair in both(*call, [x], u):
                alike(*pair, noise=4 * np.finfo(case.dtype).eps)
    for smoothing in (0.0, 0.1, 1.0):
        for target in (0, 1):
            how = {"label_smoothing": smoothing}
            label = np.array([target])
            call = (
                lambda t, y=label, how=how: ops.cross_entropy(t, y, **how),
                lambda t, y=label, how=how: functional.cross_entropy(
                    t, torch.from_numpy(y), **how
                ),
            )
            for pair in both(*call, [x], np.ones((), case.dtype)):
                alike(*pair, noise=4 * np.finfo(case.dtype).eps)


def test_special_values_of_losses(case):
    """Of logits x and targets t; a term whose factor is 0 is 0, where theirs is NaN."""
    functional = pytest.importorskip("torch").nn.functional
    x, t = np.meshgrid(specials(case.dtype), [0.0, 0.25, 1.0], indexing="ij")
    x, t = x.astype(case.dtype), t.astype(case.dtype)
    for ours, theirs, held in (
        (ops.mse_loss, functional.mse_loss, x == x),
        (
            ops.bce_with_logits,
            functional.binary_cross_entropy_with_logits,
            np.isfinite(x),
        ),
    ):
        inputs = [x[held], t[held]]
        for pair in both(
            lambda x, t, f=ours: f(x, t, reduction="none"),
            lambda x, t, f=theirs: f(x, t, reduction="none"),
            inputs,
            np.ones_like(x[held]),
        ):
            far = np.minimum(abs(x[held]), 99)
            alike(*pair, noise=4 * np.finfo(case.dtype).eps * far)
    x = Tensor(np.array([INF, -INF, INF, -INF], case.dtype), requires_grad=True)
    with Tape() as tape:
        y = ops.bce_with_logits(x, np.array([1, 0, 0, 1], case.dtype), reduction="none")
    tape.backward(y, np.ones_like(x.data))
    np.testing.assert_array_equal(y.data, [0, 0, INF, INF])
    np.testing.assert_array_equal(x.grad, [0, 0, 1, -1])


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_special_values_in_rows_of_weighted_classes(case, row):
    torch = pytest.importorskip("torch")
    x, w = np.array([row], case.dtype), np.array([1, 2, 0.5, 3], case.dtype)
    for target in (0, 1):
        t = np.array([target])
        calls = [
            (
                lambda z, t=t: ops.nll_loss(z, t, w),
                lambda z, t=t: torch.nn.functional.nll_loss(
                    z, torch.from_numpy(t), torch.from_numpy(w)
                ),
            ),
            (
                lambda z, t=t: ops.cross_entropy(z, t, w),
                lambda z, t=t: torch.nn.functional.cross_entropy(
                    z, torch.from_numpy(t), torch.from_numpy(w)
                ),
            ),
        ]
        for call in calls:
            for pair in both(*call, [x], np.ones((), case.dtype)):
                alike(*pair, noise=4 * np.finfo(case.dtype).eps)


def test_a_class_that_cannot_be_and_is_not_expected_costs_nothing(case):
    x = Tensor(np.array([[0.0, -INF, 0.0]], case.dtype), requires_grad=True)
    with Tape() as tape:
        y = ops.cross_entropy(x, np.array([[0.5, 0, 0.5]], case.dtype))
    tape.backward(y)
    np.testing.assert_allclose(y.data, np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(x.grad, 0)


@pytest.mark.parametrize("special", [INF, -INF, NAN])
@pytest.mark.parametrize("u", [1.0, INF, NAN])
def test_special_values_in_maps(case, special, u):
    functional = pytest.importorskip("torch").nn.functional
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(case.dtype)
    x[0, 1, 2, 3] = x[1, 0, 0, 0] = special
    windows = [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}]
    ways = [(f"{kind}_pool2d", how) for kind in ("max", "avg") for how in windows]
    for size in (1, (3, 4)):
        ways += [
            (f"adaptive_{k}_pool2d", {"output_size": size}) for k in ("max", "avg")
        ]
    ways += [("local_response_norm", {"size": 3, "alpha": 0.1})]
    for name, how in ways:
        call = (
            lambda t, n=name, how=how: getattr(ops, n)(t, **how),
            lambda t, n=name, how=how: getattr(functional, n)(t, **how),
        )
        cotangent = np.ones(call[0](Tensor(x)).shape, case.dtype)
        cotangent[0, 1, -1, -1] = cotangent[1, 2, 0, 0] = u
        for pair in both(*call, [x], cotangent):
            alike(*pair, noise=1e-6)


@pytest.mark.parametrize("special", [INF, -INF, NAN])
@pytest.mark.parametrize("relu", [False, True])
def test_a_special_value_shows_in_normalisation(case, special, relu):
    """In its channel, statistics included, and in no other."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(case.dtype)
    x[0, 1, 2, 3] = special
    running = [np.zeros(3, case.dtype), np.ones(3, case.dtype)]
    theirs = [torch.from_numpy(r.copy()) for r in running]

    def norm(t):
        y = functional.batch_norm(t, *theirs, training=True)
        return functional.relu(y) if relu else y

    class Net(nn.Module):
        def forward(self, t):
            y = ops.batch_norm(t, *running, training=True)
            return ops.relu(y) if relu else y

    u = np.random.default_rng(1).normal(size=x.shape).astype(case.dtype)
    for pair in both(Net(), norm, [x], u):
        alike(*pair, noise=1e-5)
    for r, t in zip(running, theirs, strict=True):
        alike(r, t.numpy(), noise=1e-6)


# -- masks select ------------------------------------------------------------------


@pytest.mark.parametrize("bad", [INF, -INF, NAN])
def test_what_a_mask_stops_is_stopped(case, bad):
    """An infinite or undefined number is not multiplied with 0."""
    x = np.array([-7.0, -1.0, 2.0, 8.0], case.dtype)
    passed = {
        "relu": (ops.relu, [0, 0, 1, 1]),
        "relu6": (ops.relu6, [0, 0, 1, 0]),
        "abs": (ops.abs, [1, 1, 1, 1]),
        "clamp": (lambda t: ops.clamp(t, -2, 7), [0, 1, 1, 0]),
        "where": (lambda t: ops.where(t > 0, t, 0.5), [0, 0, 1, 1]),
        "maximum": (lambda t: ops.maximum(t, 2.5), [0, 0, 0, 1]),
        "minimum": (lambda t: ops.minimum(2.5, t), [1, 1, 1, 0]),
        "hardsigmoid": (ops.hardsigmoid, [0, 1, 1, 0]),
        "hardswish": (ops.hardswish, [0, 1, 1, 1]),
        "amax": (lambda t: ops.amax(t, 0, keepdim=True), [0, 0, 0, 1]),
    }
    for name, (function, kept) in passed.items():
        t = Tensor(x, requires_grad=True)
        with Tape() as tape:
            y = function(t)
        tape.backward(y, np.full(y.shape, bad, case.dtype))
        assert (np.isfinite(t.grad) == (np.array(kept) == 0)).all(), name
        assert (t.grad[np.array(kept) == 0] == 0).all(), name


def test_relu_before_a_root(case):
    x = Tensor(np.array([-1.0, 4.0], case.dtype), requires_grad=True)
    with Tape() as tape:
        y = ops.sum(ops.sqrt(ops.relu(x)))
    tape.backward(y)
    np.testing.assert_array_equal(x.grad, [0, 0.25])


@pytest.mark.parametrize("bad", [INF, NAN])
def test_dropout_drops_what_is_not_a_number(case, bad):
    x = Tensor(np.full((50, 50), bad, case.dtype), requires_grad=True)
    with Tape() as tape:
        y = ops.dropout(x, 0.5, generator=np.random.default_rng(0))
    tape.backward(y, np.full(x.shape, bad, case.dtype))
    dropped = y.data == 0
    assert 0.4 < dropped.mean() < 0.6 and not np.isfinite(y.data[~dropped]).any()
    np.testing.assert_array_equal(x.grad == 0, dropped)


@pytest.mark.parametrize("bad", [INF, NAN])
def test_dropout2d_drops_whole_maps_whatever_they_hold(case, bad):
    x = np.random.default_rng(0).normal(size=(20, 30, 2, 3)).astype(case.dtype)
    x[0], x[1, :, 0, 0] = bad, bad
    t = Tensor(x, requires_grad=True)
    with Tape() as tape:
        y = ops.dropout2d(t, 0.25, generator=np.random.default_rng(0))
    tape.backward(y, x)
    dropped = (y.data == 0).all((2, 3))
    assert 0.2 < dropped.mean() < 0.3 and 0 < dropped[:2].mean() < 1
    right = np.where(dropped[..., None, None], 0, x / case.dtype(0.75))
    np.testing.assert_allclose(y.data, right, rtol=1e-6)
    np.testing.assert_array_equal(t.grad, y.data)
    y = ops.dropout2d(t, 1.0, generator=np.random.default_rng(0))
    np.testing.assert_array_equal(y.data, 0)


@pytest.mark.parametrize("kernel", ["relu_grad", "masked"])
def test_masks_of_kernels(small, kernel):
    """0 where the ReLU's output is 0, whatever arrives; else that, at a NaN too."""
    y, g = np.meshgrid([0.0, 1e-40, 2.0, INF, NAN], [1.0, -2.0, INF, -INF, NAN])
    y, g = (np.tile(a.astype("f4"), (8, 4)) for a in (y, g))
    with np.errstate(invalid="ignore"):
        got = small(kernel, g, y)
    np.testing.assert_array_equal(got, np.where(y == 0, 0, g))
