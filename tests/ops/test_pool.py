"""Pooling against nested loops, over windows, borders, holes and rounding."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tinyflow import Tape, Tensor, ops
from tinyflow.testing import check_vjp, spaced


def out_size(size, k, s, p, d, ceil_mode):
    """Windows that start inside the map or its left border."""
    room = (size + 2 * p - d * (k - 1) - 1) / s
    n = (math.ceil(room) if ceil_mode else math.floor(room)) + 1
    return n - 1 if ceil_mode and (n - 1) * s >= size + p else n


def max_loops(x, kernel, stride, padding, dilation, ceil_mode):
    h, w = x.shape[2:]
    out = [
        out_size(*a, ceil_mode)
        for a in zip((h, w), kernel, stride, padding, dilation, strict=True)
    ]
    y = np.full((*x.shape[:2], *out), -np.inf)
    for i, j, u, v in product(*map(range, (*out, *kernel))):
        r = i * stride[0] + u * dilation[0] - padding[0]
        q = j * stride[1] + v * dilation[1] - padding[1]
        if 0 <= r < h and 0 <= q < w:
            y[:, :, i, j] = np.maximum(y[:, :, i, j], x[:, :, r, q])
    return y


def avg_loops(
    x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override
):
    h, w = x.shape[2:]
    out = [
        out_size(*a, ceil_mode)
        for a in zip((h, w), kernel, stride, padding, (1, 1), strict=True)
    ]
    y = np.zeros((*x.shape[:2], *out))
    for i, j in product(*map(range, out)):
        counted = 0
        for u, v in product(*map(range, kernel)):
            r, q = i * stride[0] + u - padding[0], j * stride[1] + v - padding[1]
            inside = 0 <= r < h and 0 <= q < w
            if inside:
                y[:, :, i, j] += x[:, :, r, q]
            on_border = r < h + padding[0] and q < w + padding[1]
            counted += inside or (count_include_pad and on_border)
        y[:, :, i, j] /= divisor_override or counted
    return y


@st.composite
def problems(draw, dilated):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 7)))
    options = {
        "stride": draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
    }
    holes = draw(st.tuples(st.integers(1, 3), st.integers(1, 2))) if dilated else (1, 1)
    size = []
    steps, borders = options["stride"], options["padding"]
    for k, s, p, d in zip(kernel, steps, borders, holes, strict=True):
        over = s - 1 if options["ceil_mode"] else 0
        least = max(1, d * (k - 1) + 1 - 2 * p - over)
        size.append(draw(st.integers(least, least + 6)))
        # A dilated window may step over a tiny map: refused, and tested below.
        assume(d == 1 or any(0 <= u * d - p < size[-1] for u in range(k)))
    if dilated:
        options["dilation"] = holes
    else:
        options["count_include_pad"] = draw(st.booleans())
        options["divisor_override"] = draw(st.sampled_from([None, None, 3]))
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return spaced(*shape, *size, seed=draw(st.integers(0, 99))), kernel, options


@given(problems(dilated=True))
def test_any_max_pooling(problem):
    x, kernel, options = problem
    y = ops.max_pool2d(Tensor(x), kernel, **options).data
    np.testing.assert_array_equal(y, max_loops(x, kernel, **options))
    check_vjp(
        lambda t: ops.max_pool2d(t, kernel, **options), x, directions=1, float32=True
    )


@given(problems(dilated=False))
def test_any_average_pooling(problem):
    x, kernel, options = problem
    y = ops.avg_pool2d(Tensor(x), kernel, **options).data
    expected = avg_loops(x, kernel, **options)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13)
    check_vjp(
        lambda t: ops.avg_pool2d(t, kernel, **options), x, directions=1, float32=True
    )


@pytest.mark.parametrize("operator", [ops.max_pool2d, ops.avg_pool2d])
def test_the_stride_is_the_kernel_by_default(operator):
    x = Tensor(spaced(2, 3, 6, 8))
    y = operator(x, (2, 3))
    assert y.shape == (2, 3, 3, 2)
    np.testing.assert_array_equal(y.data, operator(x, (2, 3), stride=(2, 3)).data)
    np.testing.assert_array_equal(operator(x, 2).data, operator(x, (2, 2), (2, 2)).data)


def gradient(function, x):
    leaf = Tensor(x, requires_grad=True)
    with Tape() as tape:
        y = function(leaf)
    tape.backward(y, np.ones(y.shape))
    return y.data, leaf.grad


def test_the_first_of_equal_maxima_takes_the_gradient():
    y, dx = gradient(lambda t: ops.max_pool2d(t, 2), np.ones((1, 1, 4, 4)))
    np.testing.assert_array_equal(y, 1)
    np.testing.assert_array_equal(dx[0, 0, 0], [1, 0, 1, 0])
    np.testing.assert_array_equal(dx[0, 0, 1], 0)
    assert dx.sum() == 4


def test_overlapping_windows_add_up():
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, 1, 1] = 1.0
    _, dx = gradient(lambda t: ops.max_pool2d(t, 2, stride=1), x)
    np.testing.assert_array_equal(dx, 4 * x)


def test_the_border_never_wins():
    x = np.full((1, 2, 3, 3), -5.0)
    y, dx = gradient(lambda t: ops.max_pool2d(t, 3, stride=1, padding=1), x)
    np.testing.assert_array_equal(y, -5)
    assert dx.sum() == y.size


def test_minus_infinity_in_the_map_sends_its_gradient_into_the_map():
    x = np.full((1, 1, 2, 2), -np.inf)
    y, dx = gradient(lambda t: ops.max_pool2d(t, 3, stride=1, padding=1), x)
    assert (y == -np.inf).all() and dx.sum() == y.size


def test_a_nan_is_not_hidden():
    x = spaced(1, 1, 4, 4)
    x[0, 0, 1, 2] = np.nan
    y = ops.max_pool2d(Tensor(x), 2).data
    np.testing.assert_array_equal(np.isnan(y[0, 0]), [[False, True], [False, False]])


def test_large_windows_have_room_for_their_tap_numbers():
    x = spaced(1, 2, 20, 20)
    check_vjp(lambda t: ops.max_pool2d(t, 20), x)
    check_vjp(lambda t: ops.max_pool2d(t, 17, stride=3), x)


def test_global_average():
    x = spaced(2, 3, 4, 5)
    y = ops.global_avg_pool2d(Tensor(x))
    np.testing.assert_allclose(y.data, x.mean(axis=(2, 3)), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("operator", [ops.max_pool2d, ops.avg_pool2d])
def test_an_empty_batch(operator):
    x = np.ones((0, 3, 4, 4))
    assert operator(Tensor(x), 2).shape == (0, 3, 2, 2)
    check_vjp(lambda t: operator(t, 2), x)


X = Tensor(np.ones((2, 3, 4, 4)))


@pytest.mark.parametrize("operator", [ops.max_pool2d, ops.avg_pool2d])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": (2, 2, 2)}, "kernel_size"),
        ({"kernel_size": 2, "stride": 0}, "stride"),
        ({"kernel_size": 2, "padding": -1}, "padding"),
        ({"kernel_size": 3, "padding": 2}, "exceeds half"),
        ({"kernel_size": 5}, "does not fit"),
    ],
)
def test_impossible_windows_are_refused(operator, arguments, message):
    with pytest.raises(ValueError, match=message):
        operator(X, **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.max_pool2d(Tensor(np.ones((4, 4))), 2), "input must be"),
        (lambda: ops.avg_pool2d(Tensor(np.ones((4, 4))), 2), "input must be"),
        (lambda: ops.max_pool2d(X, 2, dilation=0), "dilation"),
        (lambda: ops.max_pool2d(X, 3, dilation=2), "does not fit"),
        (lambda: ops.avg_pool2d(X, 2, divisor_override=0), "divisor_override"),
        (lambda: ops.global_avg_pool2d(Tensor(np.ones((2, 3)))), "input must be"),
    ],
)
def test_impossible_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_window_wholly_in_the_border_is_refused():
    with pytest.raises(ValueError, match="wholly in the border"):
        ops.max_pool2d(Tensor(np.ones((1, 1, 1, 1))), 2, padding=1, dilation=2)
