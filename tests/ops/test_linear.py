"""Matrix products."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from tinyflow import Tensor, ops
from tinyflow.testing import check_vjp, spaced

sizes = st.integers(1, 4)


@given(st.lists(sizes, max_size=3), sizes, sizes, st.booleans())
def test_linear(lead, inside, outside, with_bias):
    x, w = spaced(*lead, inside), spaced(outside, inside, seed=1)
    parameters = (w, spaced(outside, seed=2))[: 1 + with_bias]
    y = ops.linear(Tensor(x), *map(Tensor, parameters))
    expected = np.einsum("...i,oi->...o", x, w) + (parameters[1] if with_bias else 0)
    np.testing.assert_allclose(y.data, expected, rtol=1e-12, atol=1e-13)
    check_vjp(ops.linear, x, *parameters, directions=1)


leads = mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3)


@given(leads, sizes, sizes, sizes)
def test_matmul_broadcasts_leading_axes(lead, n, m, k):
    a = spaced(*lead.input_shapes[0], n, m)
    b = spaced(*lead.input_shapes[1], m, k, seed=1)
    y = ops.matmul(Tensor(a), Tensor(b))
    assert y.shape == (*lead.result_shape, n, k)
    expected = np.einsum("...nm,...mk->...nk", a, b)
    np.testing.assert_allclose(y.data, expected, rtol=1e-12, atol=1e-13)
    check_vjp(ops.matmul, a, b, directions=1)


def test_the_at_sign_and_array_operands():
    a, b = spaced(2, 3), spaced(3, 4, seed=1)
    np.testing.assert_allclose((Tensor(a) @ Tensor(b)).data, a @ b)
    check_vjp(lambda t: t @ b, a)
    check_vjp(lambda t: ops.matmul(a, t), b)
    check_vjp(lambda t: t @ t, spaced(3, 3))


def test_an_empty_batch():
    y = ops.linear(Tensor(np.ones((0, 3))), Tensor(np.ones((4, 3))))
    assert y.shape == (0, 4)
    check_vjp(ops.linear, np.ones((0, 3)), np.ones((4, 3)), np.ones(4))


def ones(*shape, dtype="float64"):
    return Tensor(np.ones(shape, dtype))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.linear(ones(2, 3), ones(4, 2)), "needs 2 features"),
        (lambda: ops.linear(ones(2, 3), ones(3)), "weight"),
        (lambda: ops.linear(ones(), ones(1, 1)), "features"),
        (lambda: ops.linear(ones(2, 3), ones(4, 3), ones(3)), "bias"),
        (lambda: ops.linear(ones(2, 3), ones(4, 3), ones(2, 4)), "bias"),
        (lambda: ops.matmul(ones(), ones(3, 2)), "must be a vector"),
        (lambda: ops.matmul(ones(3, 2), ones(3)), "matmul: input .* must be as many"),
        (lambda: ops.matmul(ones(2, 3), ones(2, 3)), "matmul"),
    ],
)
def test_shapes_that_do_not_meet_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("operator", [ops.linear, ops.matmul])
def test_mixed_dtypes_are_refused(operator):
    with pytest.raises(TypeError, match="float32 and float64"):
        operator(ones(3, 3, dtype="float32"), ones(3, 3))
