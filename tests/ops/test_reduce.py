"""Sums, means and maxima over any axes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyflow import Tape, Tensor, ops
from tinyflow.testing import check_vjp, spaced

REDUCTIONS = {
    "sum": (ops.sum, np.sum),
    "mean": (ops.mean, np.mean),
    "amax": (ops.amax, np.max),
}


@st.composite
def shape_and_dim(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    dims = tuple(a - len(shape) if draw(st.booleans()) else a for a in axes)
    return shape, draw(st.sampled_from([None, dims, dims[0]]))


@pytest.mark.parametrize("name", REDUCTIONS)
@given(shape_and_dim(), st.booleans(), st.integers(0, 99))
def test_over_any_axes(name, shape_and_dim, keepdim, seed):
    ours, numpys = REDUCTIONS[name]
    shape, dim = shape_and_dim
    x = spaced(*shape, seed=seed)
    y = ours(Tensor(x), dim=dim, keepdim=keepdim)
    expected = numpys(x, axis=dim, keepdims=keepdim)
    assert y.shape == np.shape(expected)
    np.testing.assert_allclose(y.data, expected, rtol=1e-13, atol=1e-14)
    check_vjp(lambda t: ours(t, dim=dim, keepdim=keepdim), x, directions=1)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_of_a_single_number(name):
    check_vjp(REDUCTIONS[name][0], np.array(1.5), float32=True)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("dim", [2, -3, (0, 2)])
def test_unknown_axes_are_refused(name, dim):
    with pytest.raises(ValueError, match="out of range"):
        REDUCTIONS[name][0](Tensor(np.ones((2, 3))), dim=dim)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_repeated_axes_are_refused(name):
    with pytest.raises(ValueError):
        REDUCTIONS[name][0](Tensor(np.ones((2, 3))), dim=(0, -2))


def test_amax_shares_the_gradient_among_equal_maxima():
    x = Tensor(np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), requires_grad=True)
    with Tape() as tape:
        y = ops.amax(x, dim=1)
    tape.backward(y, np.array([1.0, 6.0]))
    np.testing.assert_array_equal(x.grad, [[0, 0.5, 0.5], [2, 2, 2]])


def test_float32_mean_of_many_entries_is_accurate():
    x = np.full((100_000,), 0.1, "float32")
    assert ops.mean(Tensor(x)).item() == pytest.approx(0.1, rel=1e-6)
