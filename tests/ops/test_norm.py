"""Batch normalisation and dropout, in training and in evaluation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyflow import Tape, Tensor, ops
from tinyflow.testing import check_vjp, spaced

sizes = st.integers(1, 4)
shapes = st.tuples(sizes, sizes) | st.tuples(sizes, sizes, sizes, sizes)
trainable = shapes.filter(lambda s: math.prod(s) // s[1] >= 2)


def per_channel(x):
    """(C, M): every value of each channel."""
    return np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)


def spread(v, ndim):
    return v.reshape(1, -1, *(1,) * (ndim - 2))


def parameters(c, *wanted):
    """Scale and shift, each None unless wanted."""
    both = spaced(c, low=0.5, high=1.5, seed=1), spaced(c, seed=2)
    return [p for p, w in zip(both, wanted, strict=True) if w]


def normalise(x, wanted, given, **options):
    """batch_norm with those of weight and bias that are wanted."""
    rest = iter(given)
    weight, bias = (next(rest) if w else None for w in wanted)
    return ops.batch_norm(x, weight=weight, bias=bias, **options)


def expected_norm(x, mean, var, wanted, given, eps):
    rest = iter(given)
    y = (x - spread(mean, x.ndim)) / np.sqrt(spread(var, x.ndim) + eps)
    y = y * spread(next(rest), x.ndim) if wanted[0] else y
    return y + spread(next(rest), x.ndim) if wanted[1] else y


@given(trainable, st.tuples(st.booleans(), st.booleans()), st.sampled_from([1e-5, 0.1]))
def test_training(shape, wanted, eps):
    x, given = spaced(*shape) + 3.0, parameters(shape[1], *wanted)
    mean, var = per_channel(x).mean(1), per_channel(x).var(1)

    def function(t, *given):
        return normalise(t, wanted, given, training=True, eps=eps)

    y = function(Tensor(x), *map(Tensor, given))
    expected = expected_norm(x, mean, var, wanted, given, eps)
    np.testing.assert_allclose(y.data, expected, rtol=1e-9, atol=1e-11)
    check_vjp(function, x, *given, directions=1, tolerance=1e-5)


@given(shapes, st.tuples(st.booleans(), st.booleans()))
def test_evaluation(shape, wanted):
    x, given = spaced(*shape), parameters(shape[1], *wanted)
    mean, var = spaced(shape[1], seed=5), spaced(shape[1], low=0.5, high=2.0, seed=6)
    kept = mean.copy(), var.copy()

    def function(t, *given):
        return normalise(t, wanted, given, running_mean=mean, running_var=var)

    y = function(Tensor(x), *map(Tensor, given))
    expected = expected_norm(x, mean, var, wanted, given, 1e-5)
    np.testing.assert_allclose(y.data, expected, rtol=1e-12, atol=1e-13)
    check_vjp(function, x, *given, directions=1, float32=True)
    np.testing.assert_array_equal((mean, var), kept)


@given(trainable, st.sampled_from([0.1, 0.5, 1.0, 0.0]))
def test_running_statistics(shape, momentum):
    x = spaced(*shape)
    mean, var = np.full(shape[1], 0.5), np.full(shape[1], 2.0)
    ops.batch_norm(Tensor(x), mean, var, training=True, momentum=momentum)
    rows = per_channel(x)
    expected = (1 - momentum) * 0.5 + momentum * rows.mean(1)
    np.testing.assert_allclose(mean, expected, rtol=1e-12, atol=1e-14)
    expected = (1 - momentum) * 2.0 + momentum * rows.var(1, ddof=1)  # unbiased
    np.testing.assert_allclose(var, expected, rtol=1e-12)


def test_running_statistics_stay_float32_and_each_is_optional():
    x = Tensor(spaced(4, 3).astype("float32"))
    mean, var = np.zeros(3, "float32"), np.ones(3, "float32")
    both = ops.batch_norm(x, mean, var, training=True)
    assert mean.dtype == var.dtype == both.dtype == np.float32
    again = np.zeros(3, "float32")
    ops.batch_norm(x, running_mean=again, training=True)
    np.testing.assert_array_equal(again, mean)
    np.testing.assert_array_equal(both.data, ops.batch_norm(x, training=True).data)


def test_only_forward_touches_the_running_statistics():
    mean, var = np.zeros(3), np.ones(3)
    x = Tensor(spaced(4, 3), requires_grad=True)
    with Tape() as tape:
        y = ops.batch_norm(x, mean, var, training=True)
    kept = mean.copy(), var.copy()
    tape.backward(y, np.ones(y.shape))
    np.testing.assert_array_equal((mean, var), kept)


def test_float32_far_from_zero_keeps_its_digits():
    """The variance is computed from deviations: E[x²] - E[x]² would lose them all."""
    deviations = np.random.default_rng(0).standard_normal((64, 2, 4, 4))
    x = (1000 + deviations).astype("float32")
    y = ops.batch_norm(Tensor(x), training=True).data
    exact = x.astype("float64")
    centred = exact - exact.mean((0, 2, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((0, 2, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=2e-3)


def ones(*shape):
    return Tensor(np.ones(shape))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.batch_norm(ones(3)), "input must be"),
        (lambda: ops.batch_norm(ones(2, 3, 4)), "input must be"),
        (lambda: ops.batch_norm(ones(1, 3, 1, 1), training=True), "one value"),
        (lambda: ops.batch_norm(ones(1, 3), training=True), "one value"),
        (lambda: ops.batch_norm(ones(2, 3)), "running statistics"),
        (lambda: ops.batch_norm(ones(2, 3), np.ones(3)), "running statistics"),
        (lambda: ops.batch_norm(ones(2, 3), np.ones(2), np.ones(3)), "running_mean"),
        (lambda: ops.batch_norm(ones(2, 3), np.ones(3), np.ones(1)), "running_var"),
        (lambda: ops.batch_norm(ones(2, 3), weight=ones(2), training=True), "weight"),
        (lambda: ops.batch_norm(ones(2, 3), bias=ones(3, 1), training=True), "bias"),
    ],
)
def test_batch_norm_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- dropout


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_keeps_the_mean(p, dtype):
    x = np.ones(200_000, dtype)
    y = ops.dropout(Tensor(x), p, generator=rng()).data
    assert y.dtype == dtype
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - p)], rtol=1e-6)
    assert y.mean() == pytest.approx(1, abs=5 * math.sqrt(p / (1 - p) / x.size))


def test_dropout_is_decided_by_its_generator():
    x = Tensor(spaced(5, 7))
    first, second, third = (
        ops.dropout(x, 0.5, generator=rng(s)).data for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != third).any()
    generator = rng(1)
    ops.dropout(x, 0.5, generator=generator)
    assert (ops.dropout(x, 0.5, generator=generator).data != first).any()


def test_dropout_sends_the_gradient_through_the_same_mask():
    x = Tensor(np.ones((5, 7)), requires_grad=True)
    with Tape() as tape:
        y = ops.dropout(x, 0.4, generator=rng())
    tape.backward(y, np.ones(y.shape))
    np.testing.assert_array_equal(x.grad, y.data)


@given(st.lists(sizes, max_size=4), st.floats(0.01, 1.0), st.integers(0, 99))
def test_dropout_gradient(shape, p, seed):
    check_vjp(lambda t: ops.dropout(t, p, generator=rng(seed)), spaced(*shape))


def test_dropout_of_everything_and_of_nothing():
    x = Tensor(spaced(3, 4))
    np.testing.assert_array_equal(ops.dropout(x, 1.0, generator=rng()).data, 0)
    np.testing.assert_array_equal(ops.dropout(x, 0.0).data, x.data)
    np.testing.assert_array_equal(ops.dropout(x, 0.9, training=False).data, x.data)


def test_dropout_does_not_draw_when_it_drops_nothing():
    generator = rng()
    ops.dropout(Tensor(spaced(3)), 0.5, training=False, generator=generator)
    ops.dropout(Tensor(spaced(3)), 0.0, generator=generator)
    assert generator.random() == rng().random()


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, math.inf])
def test_dropout_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match="p must be"):
        ops.dropout(Tensor(spaced(3)), p, generator=rng())


def test_dropout_demands_a_generator():
    with pytest.raises(ValueError, match="generator"):
        ops.dropout(Tensor(spaced(3)), 0.5)
