"""Operators that only move entries about: exact values, exact gradients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyflow import Tape, Tensor, ops
from tinyflow.testing import check_vjp, spaced

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 99)


@given(shapes, st.data())
def test_reshape(shape, data):
    x = spaced(*shape)
    order = data.draw(st.permutations(shape))
    target = tuple(order) if data.draw(st.booleans()) else (*order[1:], -1)
    np.testing.assert_array_equal(
        ops.reshape(Tensor(x), target).data, x.reshape(target)
    )
    check_vjp(lambda t: ops.reshape(t, target), x, directions=1)


@given(shapes, st.data())
def test_flatten(shape, data):
    x = spaced(*shape)
    first = data.draw(st.integers(0, len(shape) - 1))
    last = data.draw(st.integers(first, len(shape) - 1))
    y = ops.flatten(Tensor(x), first, last - len(shape))
    assert y.shape == (
        *shape[:first],
        np.prod(shape[first : last + 1]),
        *shape[last + 1 :],
    )
    np.testing.assert_array_equal(y.data.ravel(), x.ravel())
    check_vjp(lambda t: ops.flatten(t, first, last), x, directions=1)


def test_flatten_by_default_takes_every_axis():
    assert ops.flatten(Tensor(np.ones((2, 3, 4)))).shape == (24,)


@given(shapes, st.data())
def test_permute_and_transpose(shape, data):
    x = spaced(*shape)
    dims = data.draw(st.permutations(range(len(shape))))
    dims = [d - len(shape) if data.draw(st.booleans()) else d for d in dims]
    np.testing.assert_array_equal(ops.permute(Tensor(x), dims).data, x.transpose(dims))
    check_vjp(lambda t: ops.permute(t, dims), x, directions=1)
    a, b = dims[0], dims[-1]
    y = ops.transpose(Tensor(x), a, b)
    np.testing.assert_array_equal(y.data, x.swapaxes(a, b))
    check_vjp(lambda t: ops.transpose(t, a, b), x, directions=1)


@given(shapes, st.data(), st.sampled_from([0.0, -1.5]))
def test_pad(shape, data, value):
    x = spaced(*shape)
    axes = data.draw(st.integers(0, len(shape)))
    pad = data.draw(st.lists(st.integers(0, 3), min_size=2 * axes, max_size=2 * axes))
    widths = [(0, 0)] * len(shape)
    for i in range(axes):
        widths[-1 - i] = (pad[2 * i], pad[2 * i + 1])
    y = ops.pad(Tensor(x), pad, value=value)
    np.testing.assert_array_equal(y.data, np.pad(x, widths, constant_values=value))
    check_vjp(lambda t: ops.pad(t, pad, value=value), x, directions=1)


def slices(n):
    bound = st.none() | st.integers(-n - 1, n + 1)
    step = st.sampled_from([None, 1, 2, -1, -2])
    return st.builds(slice, bound, bound, step) | st.integers(-n, n - 1)


@given(shapes, st.data())
def test_getitem(shape, data):
    x = spaced(*shape)
    given_axes = data.draw(st.integers(0, len(shape)))
    index = [data.draw(slices(n)) for n in shape[:given_axes]]
    if data.draw(st.booleans()):
        index.insert(data.draw(st.integers(0, len(index))), None)
    index = (*index, ...)
    np.testing.assert_array_equal(Tensor(x)[index].data, x[index])
    check_vjp(lambda t: t[index], x, directions=1)


def test_getitem_with_one_index():
    x = spaced(3, 4)
    for index in (0, -1, slice(1, None), None, ..., np.int64(2)):
        np.testing.assert_array_equal(Tensor(x)[index].data, x[index])
    entry = Tensor(x)[1, 2]
    assert isinstance(entry.data, np.ndarray) and entry.shape == ()


@given(shapes, st.data())
def test_concat(shape, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    lengths = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    xs = []
    for seed, n in enumerate(lengths):
        one = list(shape)
        one[axis] = n
        xs.append(spaced(*one, seed=seed))
    y = ops.concat([Tensor(x) for x in xs], dim=axis)
    np.testing.assert_array_equal(y.data, np.concatenate(xs, axis))
    check_vjp(lambda *ts: ops.concat(ts, dim=axis), *xs, directions=1)


def test_concat_of_one_tensor_twice_has_two_edges():
    x = Tensor(spaced(2, 3), requires_grad=True)
    with Tape(retain="edges") as tape:
        y = ops.concat([x, x], dim=1)
    u = spaced(2, 6)
    tape.backward(y, u)
    first, second = tape.edges(x)
    np.testing.assert_array_equal(first.grad, u[:, :3])
    np.testing.assert_array_equal(second.grad, u[:, 3:])
    np.testing.assert_array_equal(x.grad, u[:, :3] + u[:, 3:])


@given(shapes, st.data())
def test_split(shape, data):
    x = spaced(*shape)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    n = shape[axis]
    cut = data.draw(st.integers(0, n))
    sizes = data.draw(st.sampled_from([1, 2, n, n + 1, (cut, n - cut), [n]]))
    ends = (
        np.cumsum(sizes)[:-1] if not isinstance(sizes, int) else range(sizes, n, sizes)
    )
    expected = np.split(x, ends, axis)
    parts = ops.split(Tensor(x), sizes, dim=axis)
    assert isinstance(parts, tuple) and len(parts) == len(expected)
    for part, piece in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part.data, piece)

    def weighted(t):
        parts = ops.split(t, sizes, dim=axis)
        return ops.concat([p * float(i + 1) for i, p in enumerate(parts)], dim=axis)

    check_vjp(weighted, x, directions=1)


def test_split_undoes_concat():
    x = spaced(2, 5, 3)
    y = ops.concat(ops.split(Tensor(x), 2, dim=1), dim=1)
    np.testing.assert_array_equal(y.data, x)


X = Tensor(np.ones((2, 3)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.reshape(X, (4, 2)),
        lambda: ops.flatten(X, 2),
        lambda: ops.flatten(X, 1, 0),
        lambda: ops.permute(X, (0, 0)),
        lambda: ops.permute(X, (0,)),
        lambda: ops.permute(X, (0, 2)),
        lambda: ops.transpose(X, 0, 2),
        lambda: ops.pad(X, (1,)),
        lambda: ops.pad(X, (1, -1)),
        lambda: ops.pad(X, (1, 1, 1, 1, 1, 1)),
        lambda: ops.concat([]),
        lambda: ops.concat([X, Tensor(np.ones((2, 4)))]),
        lambda: ops.concat([X], dim=2),
        lambda: ops.split(X, 0),
        lambda: ops.split(X, [1, 2]),
        lambda: ops.split(X, [3, -1]),
        lambda: ops.split(X, 1, dim=2),
    ],
)
def test_impossible_requests_are_refused(call):
    with pytest.raises(ValueError):
        call()


@pytest.mark.parametrize("index", [np.array([0, 1]), [0], "a", 1.0, (0, [1]), True])
def test_getitem_refuses_what_is_not_a_slice(index):
    with pytest.raises(TypeError, match="integers, slices"):
        X[index]


def test_getitem_out_of_range():
    with pytest.raises(IndexError):
        X[2]


def test_concat_refuses_mixed_dtypes():
    with pytest.raises(TypeError, match="float64 and float32"):
        ops.concat([X, Tensor(np.ones((2, 3), "float32"))])
