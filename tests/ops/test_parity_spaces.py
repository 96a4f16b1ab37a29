"""PyTorch's values and gradients over the space of arguments, in float64."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.ops.test_parity import away, compare, row
from tinyflow import ops
from tinyflow.testing import spaced

torch = pytest.importorskip("torch")
F = torch.nn.functional


@st.composite
def planes(draw, kernel, padding, dilation):
    """A map that a window fits into: (N, H, W)."""
    size = []
    for k, p, d in zip(kernel, padding, dilation, strict=True):
        least = max(1, d * (k - 1) + 1 - 2 * p)
        size.append(draw(st.integers(least, least + 6)))
    return draw(st.integers(1, 3)), *size


KERNELS = st.sampled_from([(1, 1), (3, 3), (1, 7), (7, 1), (2, 3), (5, 5), (4, 2)])
seeds = st.integers(0, 99)


@given(st.data(), KERNELS, st.booleans(), seeds)
def test_conv2d(data, kernel, with_bias, seed):
    draw = data.draw
    groups, cg, per_group = (draw(st.integers(1, 3)) for _ in range(3))
    cg = 1 if draw(st.booleans()) else cg  # depthwise
    options = {
        "stride": draw(st.integers(1, 3) | st.tuples(*[st.integers(1, 3)] * 2)),
        "padding": draw(st.tuples(*[st.integers(0, 3)] * 2)),
        "dilation": draw(st.tuples(st.integers(1, 3), st.integers(1, 2))),
        "groups": groups,
    }
    n, h, w = draw(planes(kernel, options["padding"], options["dilation"]))
    inputs = [
        spaced(n, groups * cg, h, w, seed=seed),
        spaced(groups * per_group, cg, *kernel, seed=seed + 1),
        spaced(groups * per_group, seed=seed + 2),
    ][: 2 + with_bias]
    compare(
        lambda *t: ops.conv2d(*t, **options), lambda *t: F.conv2d(*t, **options), inputs
    )


@given(KERNELS, st.tuples(*[st.integers(1, 2)] * 2), seeds)
def test_conv2d_same_and_valid(kernel, dilation, seed):
    inputs = spaced(2, 3, 14, 13, seed=seed), spaced(4, 3, *kernel, seed=seed + 1)
    for padding in ("same", "valid"):
        options = {"padding": padding, "dilation": dilation}
        compare(
            lambda *t, o=options: ops.conv2d(*t, **o),
            lambda *t, o=options: same_conv(*t, **o),
            inputs,
        )


def same_conv(x, w, padding, dilation):
    """PyTorch's padding="same", which warns when the border is asymmetric."""
    if padding == "same":
        sides = []
        for k, d in zip(w.shape[:1:-1], dilation[::-1], strict=True):
            sides += [d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2]
        return F.conv2d(F.pad(x, sides), w, dilation=dilation)
    return F.conv2d(x, w, padding=padding, dilation=dilation)


def test_conv2d_same_is_their_same():
    inputs = spaced(2, 3, 6, 7), spaced(4, 3, 3, 5, seed=1)
    row_ = row("conv2d", F.conv2d, *inputs, padding="same", dilation=2)
    compare(row_.our_function, row_.their_function, inputs)


@given(st.data(), st.tuples(st.integers(1, 4), st.integers(1, 5)), seeds)
def test_max_pool2d(data, kernel, seed):
    draw = data.draw
    options = {
        "kernel_size": kernel,
        "stride": draw(st.none() | st.tuples(*[st.integers(1, 4)] * 2)),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "dilation": draw(st.tuples(st.integers(1, 3), st.integers(1, 2))),
        "ceil_mode": draw(st.booleans()),
    }
    sides = options["padding"], options["dilation"]
    n, *size = draw(planes(kernel, *sides))
    for length, k, p, d in zip(size, kernel, *sides, strict=True):
        # Undefined in PyTorch, refused here: a window wholly in the border.
        assume(any(0 <= u * d - p < length for u in range(k)))
    compare(
        lambda x: ops.max_pool2d(x, **options),
        lambda x: F.max_pool2d(x, **options),
        [spaced(n, 2, *size, seed=seed)],
    )


@given(st.data(), st.tuples(st.integers(1, 4), st.integers(1, 5)), seeds)
def test_avg_pool2d(data, kernel, seed):
    draw = data.draw
    options = {
        "kernel_size": kernel,
        "stride": draw(st.none() | st.tuples(*[st.integers(1, 4)] * 2)),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
        "count_include_pad": draw(st.booleans()),
        "divisor_override": draw(st.sampled_from([None, None, 5])),
    }
    n, *size = draw(planes(kernel, options["padding"], (1, 1)))
    compare(
        lambda x: ops.avg_pool2d(x, **options),
        lambda x: F.avg_pool2d(x, **options),
        [spaced(n, 2, *size, seed=seed)],
    )


sides = st.integers(1, 4)


@given(
    shape=st.tuples(sides, sides) | st.tuples(sides, sides, sides, sides),
    scaled=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "training": st.booleans(),
            "momentum": st.sampled_from([0.1, 0.3, 1.0]),
            "eps": st.sampled_from([1e-5, 1e-3]),
        }
    ),
    offset=st.sampled_from([0.0, 50.0]),
    seed=seeds,
)
def test_batch_norm(shape, scaled, options, offset, seed):
    assume(not options["training"] or np.prod(shape) // shape[1] >= 2)
    c = shape[1]
    inputs = [spaced(*shape, seed=seed) + offset]
    if scaled:
        inputs += [away(c, seed=seed + 1), spaced(c, seed=seed + 2)]
    mine = [spaced(c, seed=seed + 3), away(c, seed=seed + 4)]
    their = [torch.tensor(r) for r in mine]

    def our_norm(x, weight=None, bias=None):
        running = [r.copy() for r in mine]
        y = ops.batch_norm(x, *running, weight=weight, bias=bias, **options)
        our_norm.running = running
        return y

    def their_norm(x, weight=None, bias=None):
        return F.batch_norm(x, *their, weight=weight, bias=bias, **options)

    # With two values per channel x̂ = ±1 whatever x is: ∂L/∂x is a small difference of
    # large numbers, in both.
    compare(our_norm, their_norm, inputs, rtol=1e-9, atol=1e-9)
    for got, expected in zip(our_norm.running, their, strict=True):
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12, atol=1e-14)


@given(
    shape=st.lists(sides, min_size=0, max_size=3),
    groups=sides,
    per_group=sides,
    n=sides,
    scaled=st.booleans(),
    eps=st.sampled_from([1e-5, 0.1]),
    seed=seeds,
)
def test_group_and_layer_norm(shape, groups, per_group, n, scaled, eps, seed):
    c = groups * per_group
    assume(n * per_group * np.prod(shape, dtype=int) > 1)  # PyTorch refuses
    x, last = spaced(n, c, *shape, seed=seed), tuple(shape) or (c,)
    inputs = [x, away(c, seed=seed + 1), spaced(c, seed=seed + 2)]
    # Of two values x̂ is ±1, and ∂L/∂x a small difference of large numbers in both.
    compare(
        lambda x, *wb: ops.group_norm(x, groups, *wb, eps=eps),
        lambda x, *wb: F.group_norm(x, groups, *wb, eps=eps),
        inputs if scaled else [x],
        rtol=1e-9,
        atol=1e-10,
    )
    inputs = [x, away(*last, seed=seed + 1), spaced(*last, seed=seed + 2)]
    compare(
        lambda x, *wb: ops.layer_norm(x, last, *wb, eps=eps),
        lambda x, *wb: F.layer_norm(x, last, *wb, eps=eps),
        inputs if scaled else [x],
        rtol=1e-9,
        atol=1e-10,
    )


@given(
    shape=st.lists(sides, min_size=0, max_size=2),
    n=sides,
    k=sides,
    weighted=st.booleans(),
    ignored=st.sampled_from([None, 0, -7]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    seed=seeds,
)
def test_cross_entropy(shape, n, k, weighted, ignored, reduction, smoothing, seed):
    x, w = 3 * spaced(n, k, *shape, seed=seed), away(k, seed=seed + 1)
    t = np.random.default_rng(seed).integers(0, k, (n, *shape))
    if ignored is not None:
        t.flat[::3] = ignored
        assume(reduction != "mean" or (t != ignored).any())  # theirs is not a number
    how = {"reduction": reduction, "label_smoothing": smoothing}
    ours = {"weight": w if weighted else None} | how
    theirs = {"weight": torch.from_numpy(w) if weighted else None} | how
    indices = {"ignore_index": -100 if ignored is None else ignored}
    compare(
        lambda x: ops.cross_entropy(x, t, ignore_index=ignored, **ours),
        lambda x: F.cross_entropy(x, torch.from_numpy(t), **indices, **theirs),
        [x],
    )
    compare(
        lambda x, p: ops.cross_entropy(x, p, **ours),
        lambda x, p: F.cross_entropy(x, p, **theirs),
        [x, away(n, k, *shape, seed=seed + 2)],
    )


@given(
    shape=st.lists(sides, min_size=1, max_size=3),
    weighted=st.sampled_from([None, "weight", "pos_weight"]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    seed=seeds,
)
def test_bce_with_logits(shape, weighted, reduction, seed):
    w = away(*shape[-1:], seed=seed + 1)
    ours = {"reduction": reduction} | ({weighted: w} if weighted else {})
    theirs = ours | ({weighted: torch.from_numpy(w)} if weighted else {})
    compare(
        lambda x, t: ops.bce_with_logits(x, t, **ours),
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, **theirs),
        [9 * spaced(*shape, seed=seed), away(*shape, seed=seed + 2) - 1],
    )


@given(
    st.sampled_from(["avg", "max"]),
    st.tuples(*[st.integers(1, 9)] * 2),
    st.tuples(*[st.none() | st.integers(1, 9)] * 2),
    seeds,
)
def test_adaptive_pooling(kind, size, output_size, seed):
    name = f"adaptive_{kind}_pool2d"
    compare(
        lambda x: getattr(ops, name)(x, output_size),
        lambda x: getattr(F, name)(x, output_size),
        [spaced(2, 3, *size, seed=seed)],
    )


@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(
        st.integers(1, 12),
        st.sampled_from([0.0, 1e-4, 2.0]),
        st.sampled_from([0.0, 0.5, 0.75, 1.0]),
        st.sampled_from([0.5, 2.0]),
    ),
    seeds,
)
def test_local_response_norm(shape, options, seed):
    compare(
        lambda x: ops.local_response_norm(x, *options),
        lambda x: F.local_response_norm(x, *options),
        [spaced(*shape, seed=seed)],
    )
