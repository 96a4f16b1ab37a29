"""Arithmetic and activations: broadcasting, dtypes, kinks, saturation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from tinyflow import Tape, Tensor, ops
from tinyflow.testing import check_vjp, spaced

BINARY = {
    "add": (ops.add, np.add),
    "sub": (ops.sub, np.subtract),
    "mul": (ops.mul, np.multiply),
    "div": (ops.div, np.divide),
}
ACTIVATIONS = {
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hardswish": lambda x: 0.0 if x <= -3 else x if x >= 3 else x * (x + 3) / 6,
    "exp": np.exp,
    "neg": lambda x: -x,
}
shapes = mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4)


@pytest.mark.parametrize("name", BINARY)
@given(shapes=shapes, seed=st.integers(0, 99))
def test_binary_operators_broadcast(name, shapes, seed):
    ours, numpys = BINARY[name]
    a = spaced(*shapes.input_shapes[0], seed=seed)
    b = spaced(*shapes.input_shapes[1], low=1.0, high=3.0, seed=seed + 1)
    y = ours(Tensor(a), Tensor(b))
    assert y.shape == shapes.result_shape
    np.testing.assert_array_equal(y.data, numpys(a, b))
    check_vjp(ours, a, b, directions=1)


@pytest.mark.parametrize("name", BINARY)
def test_arrays_and_numbers_on_either_side(name):
    ours, numpys = BINARY[name]
    x = spaced(2, 3).astype("float32")
    array = np.array([1, 2, 3], "float32")
    for other in (2, 2.5, np.float64(2.5), np.float32(2.5), np.int64(2), array):
        for y, expected in (
            (ours(Tensor(x), other), numpys(x, np.float32(other))),
            (ours(other, Tensor(x)), numpys(np.float32(other), x)),
        ):
            assert y.dtype == np.float32
            np.testing.assert_array_equal(y.data, expected)


def test_python_operators():
    a, b = spaced(2, 3), spaced(3, seed=1)
    x, y = Tensor(a), Tensor(b)
    for got, expected in [
        (x + y, a + b),
        (x + 2, a + 2),
        (2 + x, 2 + a),
        (b + x, b + a),  # an array on the left: ours to answer
        (x - y, a - b),
        (2 - x, 2 - a),
        (b - x, b - a),
        (x * y, a * b),
        (b * x, b * a),
        (x / y, a / b),
        (2 / x, 2 / a),
        (b / x, b / a),
        (-x, -a),
        (x**2, a**2),
        (x**-1, 1 / a),
    ]:
        assert isinstance(got, Tensor)
        np.testing.assert_allclose(got.data, expected, rtol=1e-15)


@pytest.mark.parametrize("name", BINARY)
def test_mixed_dtypes_are_refused(name):
    with pytest.raises(TypeError, match=f"{name} got float32 and float64"):
        BINARY[name][0](Tensor(np.ones(2, "float32")), Tensor(np.ones(2)))
    with pytest.raises(TypeError, match="never mixed"):
        BINARY[name][0](np.ones((), "float32"), Tensor(np.ones(2)))


@pytest.mark.parametrize("name", BINARY)
def test_shapes_that_do_not_broadcast_are_refused(name):
    with pytest.raises(ValueError, match="broadcast"):
        BINARY[name][0](Tensor(np.ones(2)), Tensor(np.ones(3)))


@pytest.mark.parametrize("name", BINARY)
def test_one_tensor_in_both_slots(name):
    x = spaced(2, 3, low=1.0, high=2.0)
    check_vjp(lambda t: BINARY[name][0](t, t), x)


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(seed=st.integers(0, 99), n=st.integers(1, 40))
def test_activations(name, seed, n):
    function = getattr(ops, name)
    x = spaced(n, low=-8.0, high=8.1, seed=seed)
    expected = [ACTIVATIONS[name](v) for v in x]
    np.testing.assert_allclose(
        function(Tensor(x)).data, expected, rtol=1e-13, atol=1e-15
    )
    x = x[abs(abs(x) - 3) > 1e-3]  # the kinks of hardswish
    x = x[abs(x - 6) > 1e-3]  # and of relu6
    check_vjp(function, x, directions=1, tolerance=1e-5)


@pytest.mark.parametrize("exponent", [0, 0.5, 1, 2, 3, -1, -2.5, np.float64(2.0)])
def test_pow(exponent):
    x = spaced(2, 3, low=0.5, high=2.0)
    np.testing.assert_array_equal(ops.pow(Tensor(x), exponent).data, x**exponent)
    check_vjp(lambda t: ops.pow(t, exponent), x, float32=True)


def gradient(function, x):
    leaf = Tensor(np.array(x), requires_grad=True)
    with Tape() as tape:
        y = function(leaf)
    tape.backward(y, np.ones_like(y.data))
    return leaf.grad


@pytest.mark.parametrize(("exponent", "slope"), [(0, 0.0), (1, 1.0), (2, 0.0)])
def test_pow_at_zero(exponent, slope):
    assert gradient(lambda t: ops.pow(t, exponent), [0.0]) == [slope]


def test_the_documented_choice_at_kinks():
    np.testing.assert_array_equal(
        gradient(ops.relu, [-1.0, 0.0, -0.0, 1.0]), [0, 0, 0, 1]
    )
    np.testing.assert_array_equal(
        gradient(ops.relu6, [0.0, 3.0, 6.0, 7.0]), [0, 1, 0, 0]
    )
    np.testing.assert_array_equal(gradient(ops.hardswish, [-3.0, 3.0]), [0, 1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "silu", "hardswish", "relu6"])
def test_saturation_is_finite_and_silent(name, dtype):
    """Nothing overflows: a warning here is an error."""
    x = np.array([-1e30, -1e4, -100.0, 100.0, 1e4, 1e30], dtype)
    function = getattr(ops, name)
    limits = {"sigmoid": (0, 1), "tanh": (-1, 1), "relu6": (0, 6)}
    low, high = limits.get(name, (0, x[-3:]))
    y = function(Tensor(x)).data
    np.testing.assert_allclose(y[:3], low, atol=1e-40)
    np.testing.assert_allclose(y[3:], high, rtol=1e-6)
    slope = [0] * 3 + [0 if name in limits else 1] * 3
    np.testing.assert_allclose(gradient(function, x), slope, atol=1e-30)
