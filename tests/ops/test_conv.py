"""Convolution against seven nested loops, over shapes, borders, holes and groups."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyflow import Tape, Tensor, ops
from tinyflow.testing import check_vjp, spaced

KERNELS = [(1, 1), (3, 3), (1, 7), (7, 1), (2, 3), (4, 2), (5, 5)]


def loops(x, w, stride, border, dilation, groups):
    """The definition; `border` is (top, bottom, left, right)."""
    n, _, h, width = x.shape
    k, cg, kh, kw = w.shape
    top, bottom, left, right = border
    ho = (h + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    wo = (width + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n, k, ho, wo))
    for o, i, j in product(range(k), range(ho), range(wo)):
        first = o // (k // groups) * cg
        for u, v in product(range(kh), range(kw)):
            r = i * stride[0] + u * dilation[0] - top
            q = j * stride[1] + v * dilation[1] - left
            if 0 <= r < h and 0 <= q < width:
                y[:, o, i, j] += x[:, first : first + cg, r, q] @ w[o, :, u, v]
    return y


@st.composite
def problems(draw):
    """x, w, b and options of a convolution that fits, with a four-sided border."""
    groups, cg, per_group = (draw(st.integers(1, 3)) for _ in range(3))
    if draw(st.booleans()):  # depthwise, perhaps with a multiplier
        groups, cg = draw(st.integers(2, 5)), 1
    kernel = draw(st.sampled_from(KERNELS))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    sides, size = [], []
    for k, d in zip(kernel, dilation, strict=True):
        before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        least = max(1, d * (k - 1) + 1 - before - after)
        size.append(draw(st.integers(least, least + 5)))
        sides.append((before, after))
    n = draw(st.integers(1, 3))
    x = spaced(n, groups * cg, *size, seed=draw(st.integers(0, 99)))
    w = spaced(groups * per_group, cg, *kernel, seed=1)
    b = spaced(groups * per_group, seed=2) if draw(st.booleans()) else None
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    return x, w, b, sides, options


@given(problems())
def test_any_convolution(problem):
    x, w, b, sides, options = problem
    expected = loops(x, w, border=(*sides[0], *sides[1]), **options)
    if b is not None:
        expected += b[:, None, None]
    y = ops.conv2d(
        Tensor(x), Tensor(w), None if b is None else Tensor(b), padding=sides, **options
    )
    np.testing.assert_allclose(y.data, expected, rtol=1e-11, atol=1e-11)

    def function(*tensors):
        return ops.conv2d(*tensors, padding=sides, **options)

    inputs = (x, w) if b is None else (x, w, b)
    check_vjp(function, *inputs, directions=1, float32=True)


@pytest.mark.parametrize("channels", [3, 16, 300])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (8, 8), (5, 33)])
@pytest.mark.parametrize("stride", [1, 2])
def test_wide_and_narrow_maps(channels, size, stride):
    """Shapes on either side of every switch between ways to compute it."""
    x = spaced(2, channels, *size) / channels
    w = spaced(4, channels, 3, 3, seed=1)
    y = ops.conv2d(Tensor(x), Tensor(w), stride=stride, padding=1)
    expected = loops(x, w, (stride, stride), (1, 1, 1, 1), (1, 1), 1)
    np.testing.assert_allclose(y.data, expected, rtol=1e-10, atol=1e-10)
    check_vjp(
        lambda x, w: ops.conv2d(x, w, stride=stride, padding=1),
        x,
        w,
        directions=1,
        float32=True,
    )


def conv(padding, kernel=(3, 3), **options):
    w = Tensor(spaced(2, 3, *kernel, seed=1))
    return ops.conv2d(Tensor(spaced(2, 3, 6, 7)), w, padding=padding, **options).data


def test_ways_to_write_the_padding():
    np.testing.assert_array_equal(conv("valid"), conv(0))
    np.testing.assert_array_equal(conv(2), conv((2, 2)))
    np.testing.assert_array_equal(conv((1, 2)), conv(((1, 1), (2, 2))))
    np.testing.assert_array_equal(conv([1, (2, 0)]), conv(((1, 1), (2, 0))))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dilation", [1, 2, (2, 1)])
def test_same_keeps_the_size_and_puts_the_odd_pixel_last(kernel, dilation):
    y = conv("same", kernel, dilation=dilation)
    assert y.shape == (2, 2, 6, 7)
    d = (dilation, dilation) if isinstance(dilation, int) else dilation
    reach = [step * (k - 1) for step, k in zip(d, kernel, strict=True)]
    sides = [(r // 2, r - r // 2) for r in reach]
    np.testing.assert_array_equal(y, conv(sides, kernel, dilation=dilation))


def test_a_group_sees_only_its_own_channels():
    x, w = spaced(1, 4, 5, 5), spaced(2, 2, 3, 3, seed=1)
    leaf = Tensor(x, requires_grad=True)
    with Tape() as tape:
        y = ops.conv2d(leaf, Tensor(w), groups=2)[:, 0]
    tape.backward(y, np.ones(y.shape))
    assert (leaf.grad[:, :2] != 0).any() and (leaf.grad[:, 2:] == 0).all()


def test_an_empty_batch():
    x, w = np.ones((0, 3, 5, 5)), np.ones((2, 3, 3, 3))
    assert ops.conv2d(Tensor(x), Tensor(w)).shape == (0, 2, 3, 3)
    check_vjp(ops.conv2d, x, w, np.ones(2))


def test_the_weight_alone_may_need_a_gradient():
    """The first layer: nothing is sent to the images."""
    x, w = Tensor(spaced(2, 3, 5, 5)), Tensor(spaced(4, 3, 3, 3), requires_grad=True)
    with Tape(retain="edges") as tape:
        y = ops.conv2d(x, w)
    tape.backward(y, np.ones(y.shape))
    assert x.grad is None and w.grad.shape == w.shape
    assert tape.edges(x) == []


def ones(*shape, dtype="float64"):
    return Tensor(np.ones(shape, dtype))


X, W = ones(2, 4, 5, 5), ones(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.conv2d(ones(5, 5), W), "input must be"),
        (lambda: ops.conv2d(X, ones(6, 4, 3)), "weight"),
        (lambda: ops.conv2d(X, ones(6, 3, 3, 3)), "fit together"),
        (lambda: ops.conv2d(X, W, groups=2), "fit together"),
        (lambda: ops.conv2d(X, W, groups=0), "groups"),
        (lambda: ops.conv2d(X, ones(5, 2, 3, 3), groups=2), "fit together"),
        (lambda: ops.conv2d(X, W, ones(5)), "bias"),
        (lambda: ops.conv2d(X, W, ones(6, 1)), "bias"),
        (lambda: ops.conv2d(X, W, stride=0), "stride"),
        (lambda: ops.conv2d(X, W, stride=(1, 1, 1)), "stride"),
        (lambda: ops.conv2d(X, W, dilation=0), "dilation"),
        (lambda: ops.conv2d(X, W, padding=-1), "padding"),
        (lambda: ops.conv2d(X, W, padding=(1, 1, 1)), "padding"),
        (lambda: ops.conv2d(X, W, padding=((1, 1), (0, -1))), "padding"),
        (lambda: ops.conv2d(X, W, padding=((1, 1),)), "padding"),
        (lambda: ops.conv2d(X, W, padding=((1, 1), (1, 1), (2, 2))), "padding"),
        (lambda: ops.conv2d(X, W, padding="full"), "full"),
        (lambda: ops.conv2d(X, W, padding="same", stride=2), "stride 1"),
        (lambda: ops.conv2d(X, W, dilation=3), "does not fit"),
        (lambda: ops.conv2d(X, ones(6, 4, 3, 6)), "does not fit"),
    ],
)
def test_impossible_requests_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_mixed_dtypes_are_refused():
    with pytest.raises(TypeError, match="conv2d got float32 and float64"):
        ops.conv2d(ones(2, 4, 5, 5, dtype="float32"), W)
