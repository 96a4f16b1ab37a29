"""The kernels whose work is shared among threads: the same as alone."""

import numpy as np
import pytest
from hypothesis import given, settings

from benchmarks import conv_reference
from tests.kernels.test_windows import all_three, close, convolutions
from tinyflow.kernels.engine import PLAIN
from tinyflow.kernels.geometry import Conv
from tinyflow.kernels.layout import swap
from tinyflow.kernels.plain import conv, helpers, norm, threads, update

pytestmark = [
    pytest.mark.skipif(
        not helpers.AVAILABLE, reason="threads wait awake with glibc only"
    ),
    pytest.mark.usefixtures("three"),
]


@settings(max_examples=150, deadline=None)
@given(convolutions())
def test_shared_convolutions_are_the_same(case):
    x, w, g, how = case
    exact = all_three(conv_reference, x, w, g, how)
    for ours, theirs in zip(all_three(conv, x, w, g, how), exact, strict=True):
        close(ours, theirs, 1e-12)
    both = PLAIN.conv2d_grads(g, x, w, how, (True, True))
    for ours, theirs in zip(both, exact[1:], strict=True):
        close(ours, theirs, 1e-12)


@pytest.mark.parametrize(
    ("c", "k", "size", "kernel"),
    [(16, 16, 32, 3), (32, 48, 9, 3), (300, 8, 4, 3), (8, 64, 1, 1), (3, 32, 16, 7)],
)
def test_shared_convolutions_in_float32(c, k, size, kernel):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, c, size, size))
    w = rng.standard_normal((k, c, kernel, kernel))
    g = rng.standard_normal((4, k, size, size))
    how = Conv((1, 1), (kernel // 2,) * 4, (1, 1), 1)
    exact = all_three(conv_reference, x, w, g, how)
    single = all_three(conv, *(a.astype(np.float32) for a in (x, w, g)), how)
    for ours, theirs in zip(single, exact, strict=True):
        close(ours, theirs, 1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_without_output_channels(kernel):
    x, w = np.ones((2, 3, 4, 4)), np.ones((0, 3, kernel, kernel))
    how = Conv((1, 1), (kernel // 2,) * 4, (1, 1), 1)
    y, dx, dw = all_three(conv, x, w, np.ones((2, 0, 4, 4)), how)
    assert y.shape == (2, 0, 4, 4) and dw.shape == w.shape
    assert np.array_equal(dx, np.zeros_like(x))


@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (2, 300, 3, 2), (1, 5, 1, 1)])
def test_shared_normalisation_is_the_same(shape):
    rng = np.random.default_rng(0)
    n, c, h, w = shape
    wide = swap(rng.standard_normal((h, w, n, c + 2)))
    g, r = (swap(rng.standard_normal((h, w, n, c))) for _ in "gr")
    a, b, m = rng.standard_normal((3, c))

    def all_of_it(x):
        y = norm.normalize(x, a, b, r, True)
        return (
            *norm.moments(x),
            y,
            *norm.gradient_sums(g, x, m, y),
            norm.input_grad(g, x, a, b, m),
            norm.channel_sum(g),
        )

    for x in (wide[:, :c], swap(np.ascontiguousarray(swap(wide[:, :c])))):
        shared = all_of_it(x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threads, "count", lambda: 1)
            alone = all_of_it(x)
        for ours, theirs in zip(shared, alone, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_shared_gates_are_the_same():
    rng = np.random.default_rng(0)
    x, g = (swap(rng.standard_normal((5, 4, 3, 7))) for _ in "xg")
    s = swap(rng.standard_normal((1, 1, 3, 7)))
    assert np.array_equal(PLAIN.gate(x, s), x * s)
    dx, ds, sent = PLAIN.gate_grad(g, x, s, None, (True, True))
    assert sent is g
    assert np.array_equal(dx, g * s)
    exact = (g * x).sum((2, 3), keepdims=True)
    np.testing.assert_allclose(ds, exact, rtol=1e-12, atol=1e-12)
    other = np.ascontiguousarray(x)  # another memory order: the tape adds it up
    assert np.array_equal(PLAIN.gate_grad(g, other, s, None, (True, True))[1], g * x)


def test_shared_products_and_elementwise_work_are_the_same():
    rng = np.random.default_rng(0)
    for m, k, n in ((5, 7, 11), (11, 7, 5), (1, 1, 1), (2, 3, 0)):
        a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
        np.testing.assert_allclose(PLAIN.product(a, b), a @ b, rtol=1e-13)
    x, y = (swap(rng.standard_normal((5, 4, 3, 2))) for _ in "xy")
    assert np.array_equal(PLAIN.relu(x), np.maximum(x, 0))
    assert np.array_equal(PLAIN.relu_grad(x, y), x * (y > 0))
    assert np.array_equal(PLAIN.add(x, y), x + y)
    other = np.ascontiguousarray(y)  # another memory order: not shared out
    assert np.array_equal(PLAIN.add(x, other), x + y)
    special = np.array([np.nan, -np.inf, np.inf, -0.0])
    assert np.array_equal(PLAIN.relu(special), [np.nan, 0, np.inf, 0], equal_nan=True)


def test_shared_updates_are_the_same():
    shapes = [(3,), (50, 7), (4, 3, 3, 3), (1,), (200,)]
    how = {
        "lr": 0.1,
        "decay": 0.01,
        "momentum": 0.9,
        "dampening": 0.0,
        "nesterov": True,
    }

    def entries():
        again = np.random.default_rng(1)
        made = [[again.standard_normal(s) for _ in "pgb"] for s in shapes]
        made[1][1] = np.asfortranarray(made[1][1])  # a gradient in another order
        return [tuple(entry) for entry in made]

    shared, alone = entries(), entries()
    update.divide(shared, update.sgd, [how] * len(shapes))
    for entry in alone:
        update.sgd(*entry, **how)
    for ours, theirs in zip(shared, alone, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13)
