"""Convolution and pooling kernels against slow oracles, adjoints and PyTorch."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from benchmarks import conv_reference
from tests.ops.windows import window
from tinyflow.kernels.geometry import Conv
from tinyflow.kernels.layout import from_rows, swap, to_rows
from tinyflow.kernels.plain import (
    conv,
    conv_depthwise,
    conv_rows,
    conv_stack,
    pool,
    scratch,
)

ORDERS = {"NCHW": (0, 1, 2, 3), "NHWC": (0, 2, 3, 1), "HWNC": (2, 3, 0, 1)}
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
orders = st.sampled_from(sorted(ORDERS))
seeds = st.integers(0, 2**32 - 1)
FIXTURE = [HealthCheck.function_scoped_fixture]  # constant over a test's examples


def stored(x, order):
    """An equal array whose memory runs in `order`."""
    axes = ORDERS[order]
    return np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))


def out_size(size, kernel, stride, dilation, before, after):
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def fits(x_shape, w_shape, how):
    stride, padding, dilation = how[:3]
    return all(
        out_size(
            x_shape[2 + a],
            w_shape[2 + a],
            stride[a],
            dilation[a],
            *padding[2 * a : 2 * a + 2],
        )
        >= 1
        for a in (0, 1)
    )


@st.composite
def convolutions(draw):
    """(x, w, g, how): small, uneven, in any memory order."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    c, k = (groups * draw(st.integers(1, 3)) for _ in "ck")
    n, h, w = draw(st.integers(1, 3)), draw(st.integers(1, 7)), draw(st.integers(1, 7))
    kernel = draw(
        st.sampled_from(
            [(1, 1), (3, 3), (1, 7), (7, 1), (2, 2), (5, 3), (4, 1), (2, 3)]
        )
    )
    padding = draw(st.tuples(*[st.integers(0, 5)] * 4))
    how = Conv(draw(pairs), padding, draw(pairs), groups)
    x_shape, w_shape = (n, c, h, w), (k, c // groups, *kernel)
    assume(fits(x_shape, w_shape, how))
    rng = np.random.default_rng(draw(seeds))
    x = stored(rng.standard_normal(x_shape), draw(orders))
    weight = stored(rng.standard_normal(w_shape), draw(orders))
    out = conv_reference.conv2d_forward(x, weight, how).shape
    return x, weight, stored(rng.standard_normal(out), draw(orders)), how


def all_three(module, x, w, g, how):
    return (
        module.conv2d_forward(x, w, how),
        module.conv2d_input_grad(g, w, x.shape, how),
        module.conv2d_weight_grad(g, x, w.shape, how),
    )


def close(ours, theirs, tolerance):
    """Largest difference, as a fraction of the largest entry."""
    assert ours.shape == theirs.shape
    scale = max(1.0, np.abs(theirs).max(initial=0))
    assert np.abs(ours - theirs).max(initial=0) <= tolerance * scale


def is_hwnc(x):
    return swap(x).flags.c_contiguous


def naive(x, w, stride, padding, dilation, groups):
    """The definition, one product at a time."""
    n, _, h, width = x.shape
    k, cg, kh, kw = w.shape
    oh, ow = (
        out_size(s, f, stride[a], dilation[a], *padding[2 * a : 2 * a + 2])
        for a, (s, f) in enumerate(((h, kh), (width, kw)))
    )
    y = np.zeros((n, k, oh, ow))
    for m, o, i, j in np.ndindex(y.shape):
        first = o // (k // groups) * cg
        for c, u, v in np.ndindex(cg, kh, kw):
            r = i * stride[0] + u * dilation[0] - padding[0]
            q = j * stride[1] + v * dilation[1] - padding[2]
            if 0 <= r < h and 0 <= q < width:
                y[m, o, i, j] += w[o, c, u, v] * x[m, first + c, r, q]
    return y


# -- convolution ---------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(convolutions())
def test_the_reference_is_the_definition(case):
    x, w, g, how = case
    assume(g.size * w[0].size < 4000)
    close(conv_reference.conv2d_forward(x, w, how), naive(x, w, *how), 1e-12)


@settings(max_examples=200, deadline=None)
@given(convolutions())
def test_fast_equals_reference(case):
    x, w, g, how = case
    before = [a.copy() for a in (x, w, g)]
    fast = all_three(conv, x, w, g, how)
    for ours, theirs in zip(fast, all_three(conv_reference, x, w, g, how), strict=True):
        close(ours, theirs, 1e-12)
        assert is_hwnc(ours)
    for array, copy in zip((x, w, g), before, strict=True):
        assert np.array_equal(array, copy)
        assert not any(np.shares_memory(array, ours) for ours in fast)


@settings(max_examples=100, deadline=None)
@given(convolutions())
def test_gradients_are_adjoints(case):
    x, w, g, how = case
    y, dx, dw = all_three(conv, x, w, g, how)
    product = np.vdot(g, y)
    scale = 1 + np.linalg.norm(g) * np.linalg.norm(y)
    assert abs(np.vdot(dx, x) - product) <= 1e-12 * scale
    assert abs(np.vdot(dw, w) - product) <= 1e-12 * scale


@settings(max_examples=150, deadline=None)
@given(convolutions(), st.sampled_from([0, 5, 99]), st.booleans(), st.booleans())
def test_every_method_and_the_smallest_blocks(case, stack_length, by_taps, thin):
    """The selection rule and the block sizes change the time and nothing else."""
    x, w, g, how = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "STACK_LENGTH", stack_length)
        patch.setattr(conv, "TAP_WIDTH", 99 if by_taps else 0)
        patch.setattr(conv_rows, "THIN", 99 if thin else 0)
        patch.setattr(conv_rows, "WEIGHT_BLOCK_ROWS", 1)
        for module in (conv_depthwise, conv_rows, conv_stack):
            patch.setattr(module, "BLOCK_BYTES", 1)
        fast = all_three(conv, x, w, g, how)
    exact = all_three(conv_reference, x, w, g, how)
    for ours, theirs in zip(fast, exact, strict=True):
        close(ours, theirs, 1e-12)


@pytest.mark.parametrize(
    ("c", "k", "size", "kernel", "stride"),
    [
        (16, 16, 32, 3, 1),
        (64, 64, 32, 3, 1),
        (256, 32, 8, 3, 1),
        (512, 64, 2, 3, 1),
        (512, 64, 1, 3, 1),
        (256, 64, 8, 1, 2),
        (64, 128, 8, 3, 2),
        (3, 64, 32, 7, 2),
    ],
)
def test_float32_is_near_float64_at_network_sizes(c, k, size, kernel, stride):
    """Also the sizes at which the kernels work block by block."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, c, size, size))
    w = rng.standard_normal((k, c, kernel, kernel))
    how = Conv((stride, stride), (kernel // 2,) * 4, (1, 1), 1)
    g = rng.standard_normal(conv.conv2d_forward(x, w, how).shape)
    exact = all_three(conv_reference, x, w, g, how)
    single = all_three(conv, *(a.astype(np.float32) for a in (x, w, g)), how)
    for ours, theirs in zip(single, exact, strict=True):
        assert ours.dtype == np.float32
        close(ours, theirs, 1e-5)
    for ours, theirs in zip(all_three(conv, x, w, g, how), exact, strict=True):
        assert ours.dtype == np.float64
        close(ours, theirs, 1e-12)


def test_depthwise_in_blocks():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((4, 96, 32, 32)), rng.standard_normal((96, 1, 3, 3))
    how = Conv((1, 1), (1, 1, 1, 1), (1, 1), 96)
    g = rng.standard_normal(x.shape)
    for ours, theirs in zip(
        all_three(conv, x, w, g, how),
        all_three(conv_reference, x, w, g, how),
        strict=True,
    ):
        close(ours, theirs, 1e-12)


def test_results_survive_later_calls_and_other_threads():
    """Scratch memory is per thread and never handed out as a result."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, 8, 3, 3))
    maps = [rng.standard_normal((4, 8, 9, 9)) for _ in range(4)]
    how = Conv((1, 1), (1, 1, 1, 1), (1, 1), 1)
    expected = [all_three(conv_reference, x, w, x, how) for x in maps]
    kept = [[] for _ in maps]

    def work(x, into):
        for _ in range(20):
            into.append(all_three(conv, x, w, x, how))

    threads = [
        threading.Thread(target=work, args=pair)
        for pair in zip(maps, kept, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, exact in zip(kept, expected, strict=True):
        assert len(results) == 20
        for result in results:
            for ours, theirs in zip(result, exact, strict=True):
                close(ours, theirs, 1e-12)


def test_scratch_keeps_small_buffers_only():
    like = np.empty(0, np.float32)
    small = scratch.scratch("test", (10, 10), like)
    assert np.shares_memory(small, scratch.scratch("test", (5,), like))
    assert not np.shares_memory(small, scratch.scratch("other", (5,), like))
    shape = (scratch.KEEP_BYTES // 4 + 1,)
    large = scratch.scratch("test", shape, like)
    assert not np.shares_memory(large, scratch.scratch("test", shape, like))


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_parity_of_convolution_with_pytorch(case):
    torch = pytest.importorskip("torch")
    x, w, g, geometry = case
    stride, padding, dilation, groups = geometry
    top, bottom, left, right = padding
    tx, tw, tg = (torch.from_numpy(a.copy(order="C")) for a in (x, w, g))
    tx.requires_grad_()
    tw.requires_grad_()
    padded = torch.nn.functional.pad(tx, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, tw, None, stride, 0, dilation, groups)
    y.backward(tg)
    ours = all_three(conv, x, w, g, geometry)
    for a, b in zip(ours, (y.detach(), tx.grad, tw.grad), strict=True):
        close(a, b.numpy(), 1e-12)


# -- pooling -------------------------------------------------------------------------


@st.composite
def poolings(draw, dilated):
    """(x, kernel, stride, padding, dilation, ceil_mode), no window all in padding."""
    shape = draw(st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 9)] * 2))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    dilation = draw(pairs) if dilated else (1, 1)
    for size, k, p, d in zip(shape[2:], kernel, padding, dilation, strict=True):
        assume(size + 2 * p >= d * (k - 1) + 1)
        assume(d == 1 or any(0 <= u * d - p < size for u in range(k)))
    rng = np.random.default_rng(draw(seeds))
    x = rng.integers(-3, 4, shape).astype(np.float64)  # many ties
    for special in draw(st.sets(st.sampled_from([np.nan, -np.inf]))):
        x[rng.random(shape) < 0.1] = special
    return (
        stored(x, draw(orders)),
        kernel,
        stride,
        padding,
        dilation,
        draw(st.booleans()),
    )


@pytest.fixture(params=[1, pool.BLOCK_BYTES])
def block_bytes(request, monkeypatch):
    monkeypatch.setattr(pool, "BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("block_bytes")
@settings(max_examples=80, deadline=None, suppress_health_check=FIXTURE)
@given(poolings(dilated=True), seeds)
def test_parity_of_max_pool_with_pytorch(case, seed):
    """Values, the winners among ties and NaN, and the gradient."""
    torch = pytest.importorskip("torch")
    x, *how = case
    before = x.copy()
    y, argmax = pool.max_pool2d_forward(x, window(*how))
    tx = torch.from_numpy(x.copy(order="C")).requires_grad_()
    ty = torch.nn.functional.max_pool2d(tx, *how)
    assert np.array_equal(y, ty.detach().numpy(), equal_nan=True)
    g = np.random.default_rng(seed).standard_normal(y.shape)
    ty.backward(torch.from_numpy(g))
    dx = pool.max_pool2d_input_grad(g, argmax, x.shape, window(*how))
    close(dx, tx.grad.numpy(), 1e-12)
    assert is_hwnc(y) and is_hwnc(dx) and argmax.dtype == np.uint8
    assert np.array_equal(x, before, equal_nan=True)


@pytest.mark.usefixtures("block_bytes")
@settings(max_examples=80, deadline=None, suppress_health_check=FIXTURE)
@given(poolings(dilated=False), st.booleans(), st.sampled_from([None, 3]), seeds)
def test_parity_of_avg_pool_with_pytorch(case, include_pad, divisor, seed):
    torch = pytest.importorskip("torch")
    x, kernel, stride, padding, _, ceil_mode = case
    x = np.nan_to_num(x, neginf=-1)
    how = (kernel, stride, padding, ceil_mode, include_pad, divisor)
    at = window(kernel, stride, padding, ceil_mode=ceil_mode)
    y = pool.avg_pool2d_forward(x, at, include_pad, divisor)
    tx = torch.from_numpy(x.copy(order="C")).requires_grad_()
    ty = torch.nn.functional.avg_pool2d(tx, *how)
    close(y, ty.detach().numpy(), 1e-12)
    g = np.random.default_rng(seed).standard_normal(y.shape)
    ty.backward(torch.from_numpy(g))
    dx = pool.avg_pool2d_input_grad(g, x.shape, at, include_pad, divisor)
    close(dx, tx.grad.numpy(), 1e-12)
    assert abs(np.vdot(g, y) - np.vdot(dx, x)) < 1e-10 * (1 + np.abs(x).sum())


def test_max_pool_by_hand():
    """Overlapping windows: ties go to the first, gradients add up."""
    x = np.array([[[[1.0, 5, 2], [5, 0, 3], [4, 4, 4]]]])
    how = window((2, 2), (1, 1))
    y, argmax = pool.max_pool2d_forward(x, how)
    assert y.tolist() == [[[[5, 5], [5, 4]]]]
    assert argmax.tolist() == [[[[1, 0], [0, 2]]]]
    dx = pool.max_pool2d_input_grad(np.ones_like(y), argmax, x.shape, how)
    assert dx.tolist() == [[[[0, 2, 0], [1, 0, 0], [0, 1, 0]]]]


def test_max_pool_of_more_taps_than_a_byte_counts():
    x = np.zeros((1, 1, 17, 17))
    x[0, 0, 16, 16] = 1
    how = window((17, 17), (1, 1))
    y, argmax = pool.max_pool2d_forward(x, how)
    assert (y.item(), argmax.item()) == (1, 17 * 17 - 1)
    dx = pool.max_pool2d_input_grad(y, argmax, x.shape, how)
    assert np.array_equal(dx, x)


def test_max_pool_gradient_of_infinity_stays_in_its_place():
    x = np.array([[[[1.0, 2], [3, 4]]]])
    how = window((2, 2), (1, 1))
    _, argmax = pool.max_pool2d_forward(x, how)
    dx = pool.max_pool2d_input_grad(np.full((1, 1, 1, 1), np.inf), argmax, x.shape, how)
    assert dx.tolist() == [[[[0, 0], [0, np.inf]]]]


def test_uneven_padding_of_a_pool():
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    even = (np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 2))), window((2, 2), (1, 1)))
    uneven = (x, window((2, 2), (1, 1), (1, 0, 0, 2)))
    tail = (True, None)
    assert np.array_equal(
        pool.avg_pool2d_forward(*even, *tail), pool.avg_pool2d_forward(*uneven, *tail)
    )


# -- memory order --------------------------------------------------------------------


def test_layout_round_trips_without_copies():
    x = swap(np.arange(120.0).reshape(4, 5, 2, 3))  # (N, C, H, W) = (2, 3, 4, 5)
    assert x.shape == (2, 3, 4, 5)
    rows = to_rows(x)
    assert rows.shape == (40, 3)
    assert np.shares_memory(rows, x)
    assert np.array_equal(from_rows(rows, x.shape), x)
    for order in ORDERS:
        assert np.array_equal(to_rows(stored(x, order)), rows)


def test_rows_are_pixels_of_the_batch():
    x = np.arange(24.0).reshape(2, 3, 2, 2)
    rows = iter(to_rows(x))
    for h, w, n in itertools.product(range(2), range(2), range(2)):
        assert np.array_equal(next(rows), x[n, :, h, w])
