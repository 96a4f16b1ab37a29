"""Norms over the whole range of their dtype, against exact fractions."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyflow import Tape, Tensor, record
from tinyflow.flow.probe import cosine, dot, norm, relative, share
from tinyflow.lengths import (
    exponent,
    l2_norm,
    largest,
    scaled,
    square,
    trusted,
    unit_of,
)
from tinyflow.optim import clip_grad_norm, grad_norm
from tinyflow.testing import check_vjp

RANGES = {"float16": (-7, 4), "float32": (-45, 38), "float64": (-323, 308)}
RANGES["bfloat16"] = RANGES["float32"]
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in RANGES}
LIMIT = {"float32": 1e-6, "float64": 1e-14, "float16": 1e-14, "bfloat16": 1e-14}
LEAST, MOST = 5e-324, np.finfo(float).max


def root(square: Fraction) -> float:
    """√square as a float64, whatever its size; infinite beyond."""
    if not square:
        return 0.0
    k = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    found = Fraction(math.sqrt(square / Fraction(4) ** k)) * Fraction(2) ** k
    return math.inf if found > MOST else float(found)


def fractions(array: np.ndarray) -> list[Fraction]:
    """The entries, exactly."""
    return [Fraction(float(x)) for x in array.ravel()]


def product(a: np.ndarray, b: np.ndarray) -> Fraction:
    pairs = zip(fractions(a), fractions(b), strict=True)
    return sum((x * y for x, y in pairs), Fraction(0))


def exact(*arrays: np.ndarray) -> float:
    """The norm of all entries."""
    return root(sum((product(a, a) for a in arrays), Fraction(0)))


def agree(found: float, right: float, limit: float) -> bool:
    """Up to `limit`, or to the last digit of a subnormal; an infinity is one."""
    if math.isinf(right) or math.isinf(found):
        return found == right or max(abs(found), abs(right)) > MOST * (1 - limit)
    return abs(found - right) <= limit * abs(right) + LEAST


@st.composite
def arrays(
    draw: st.DrawFn, names: tuple[str, ...] = tuple(RANGES), ndim: int | None = None
) -> np.ndarray:
    """Any dtype, magnitude, spread of magnitudes, shape and layout; some entries 0."""
    name = draw(st.sampled_from(names))
    low, high = RANGES[name]
    shape = draw(
        st.lists(st.integers(0, 5), min_size=ndim or 0, max_size=ndim or 4).map(tuple)
    )
    top = draw(st.integers(low, high))
    spread = draw(st.sampled_from([0, 1, 20, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    powers = np.maximum(top - spread * rng.random(shape), low)
    with np.errstate(all="ignore"):
        x = rng.uniform(0.1, 0.99, shape) * 10.0**powers * rng.choice([-1, 1], shape)
        x = np.asarray(x * rng.choice([0, 1], shape, p=[0.1, 0.9])).astype(DTYPES[name])
    match draw(st.sampled_from("CFSRT")):
        case "F":
            return np.asfortranarray(x)
        case "S":  # every other entry of a wider array
            wide = np.full((*shape[:-1], 2 * shape[-1]) if shape else (), 7, x.dtype)
            part = wide[..., ::2] if shape else wide
            part[...] = x
            return part
        case "R":
            return x[::-1] if shape else x
        case "T":
            return np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0) if shape else x
    return x


@given(arrays())
def test_a_norm_is_what_it_says(x: np.ndarray) -> None:
    right = exact(x)
    assert agree(l2_norm(x), right, LIMIT[x.dtype.name])
    if x.dtype.name != "bfloat16":  # that of the instrument: always in float64
        assert agree(norm(x), right, 1e-14)


@given(arrays(("float32", "float64")), st.integers(-1000, 1000))
def test_a_power_of_two_changes_no_digit(x: np.ndarray, k: int) -> None:
    """Where both keep their digits, in every path through the code."""
    sizes, kind = np.abs(x[x != 0]), np.finfo(x.dtype)
    with np.errstate(all="ignore"):
        other = np.ldexp(x, k)
        again = np.ldexp(other, -k)
    if not (again == x).all() or (sizes.size and sizes.min() < kind.tiny):
        return
    for take in (l2_norm, norm):
        one, two = take(x), take(other)
        if 0 < one < math.inf and 1e-300 < two < math.inf:
            # Squares that only one of them rounds to zero are below the last digit.
            assert two / math.ldexp(1.0, k) == pytest.approx(one, rel=LIMIT["float32"])
            if sizes.max() < 1e3 * sizes.min():
                assert agree(math.ldexp(two, -k), one, 2**-52)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 100, 8192, 30_000])
def test_norms_in_the_safe_range_are_blas_products_bit_for_bit(
    dtype: str, size: int
) -> None:
    for scale in (1e-10, 1.0, 1e15):
        g = (np.random.default_rng(size).standard_normal(size) * scale).astype(dtype)
        assert l2_norm(g) == math.sqrt(float(square(g)))
        p, q = (Tensor(g, requires_grad=True) for _ in range(2))
        p.grad = q.grad = g
        assert grad_norm([p, q]) == math.sqrt(2 * float(square(g)))


@pytest.mark.parametrize("take", [l2_norm, norm])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_zero_stays_zero_and_what_is_no_number_stays_so(take, dtype) -> None:
    def of(*entries: float) -> float:
        return take(np.array(entries, dtype).reshape(1, 1, 1, -1))

    assert of() == of(0.0) == of(-0.0, 0.0) == 0
    assert math.copysign(1, of(-0.0)) == 1
    assert of(1, -np.inf) == of(np.inf, np.inf) == np.inf
    for entries in ([1, np.nan], [np.nan, np.inf], [-np.inf, np.nan], [np.nan, 1e-8]):
        assert math.isnan(of(*entries))


@pytest.mark.parametrize("size", [1e-45, 1e-42, 3e-30, 1e-23, 1e-19, 1e19, 1e37])
@pytest.mark.parametrize("count", [6, 40_000])
def test_long_and_short_gradients_of_one_size(size: float, count: int) -> None:
    g = np.full(count, size, "float32")
    right = float(g[0]) * math.sqrt(count)
    assert l2_norm(g) == pytest.approx(right, rel=1e-5, abs=0)  # of 8192 in float32
    assert norm(g) == pytest.approx(right, rel=1e-12, abs=0)


# --- dot products, cosines and shares -------------------------------------------------

PAIR = st.integers(1, 4).flatmap(
    lambda n: st.tuples(arrays(("float32", "float64"), n), arrays(("float64",), n))
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of one shape and dtype, each of any magnitude."""
    a, b = draw(PAIR)
    low, high = RANGES[a.dtype.name]
    top = draw(st.integers(low + 2, high))
    rng = np.random.default_rng(b.size)
    found = rng.uniform(-0.9, 0.9, a.shape) * 10.0**top + 0 * a.astype("float64")
    return a, found.astype(a.dtype)


@given(pairs())
def test_products_cosines_and_shares(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    right, one, two = product(a, b), product(a, a), product(b, b)
    # Rounding is relative to the sum of sizes, of which little may be left.
    size = sum((abs(x * y) for x, y in zip(fractions(a), fractions(b), strict=True)), 0)
    loss = Fraction(1e-14) * size
    big = Fraction(MOST)
    if abs(right) + loss < big:
        assert abs(Fraction(dot(a, b)) - right) <= loss + Fraction(LEAST)
    if not one or not two:
        assert cosine(a, b) is None
        return
    assert cosine(a, b) == pytest.approx(
        root(right**2 / (one * two)) * (1 if right >= 0 else -1),
        abs=1e-13 * root(size**2 / (one * two)),
    )
    expected = right / one
    if abs(expected) < big / 2:
        found = Fraction(share(b, a))
        assert abs(found - expected) <= loss / one + Fraction(LEAST) + Fraction(
            1e-14
        ) * abs(expected)
    assert share(a, a) == pytest.approx(1, rel=1e-13)


def test_products_of_what_is_not_there_or_no_number() -> None:
    a, zero = np.full((2, 2), 1e-200), np.zeros((2, 2))
    assert dot(None, a) == dot(a, None) == share(None, a) == 0
    assert share(a, zero) == share(zero, a) == dot(a, zero) == 0
    assert cosine(a, zero) is cosine(None, a) is None
    assert dot(a, a) == 0  # 4e-400 is below every float64
    assert share(np.full((2, 2), -1e200), a) == -math.inf
    assert cosine(a, a) == cosine(a, 1e-120 * a) == pytest.approx(1)
    bad = np.array([[np.inf, 1], [1, 1]])
    assert dot(bad, np.ones((2, 2))) == np.inf
    assert math.isnan(dot(bad, zero)) and math.isnan(cosine(bad, a))


# --- where the engine and the optimisers take them ------------------------------------


@pytest.mark.parametrize("retain", ["leaves", "statistics", "tensors", "edges"])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float32", s) for s in (1e-44, 1e-40, 1e-23, 1e-20, 1.0, 1e20, 1e37)]
    + [("float64", s) for s in (1e-320, 1e-300, 1e-162, 1e160, 1e300)],
)
def test_gradients_of_any_size_at_every_level(retain, dtype, size) -> None:
    x = Tensor(np.linspace(0.5, 2, 12, dtype=dtype).reshape(3, 4), requires_grad=True)
    with Tape(retain) as tape:
        doubled = x * 2.0
        y = doubled + doubled * 3.0
    tape.backward(y, np.full((3, 4), size, dtype))
    unit = float(np.array(size, dtype)) * math.sqrt(12)
    limit = {"rel": 1e-6, "abs": 4e-323}
    assert x.node.norm == pytest.approx(8 * unit, **limit)
    assert grad_norm([x]) == pytest.approx(8 * unit, **limit)
    if retain != "leaves":
        (edge,) = tape.uses[x.node]
        assert edge.norm == pytest.approx(8 * unit, **limit)
        assert doubled.node.norm == pytest.approx(4 * unit, **limit)
        sizes = [e.norm for e in tape.uses[doubled.node]]
        assert sizes == pytest.approx([3 * unit, unit], **limit)


@pytest.mark.parametrize("size", [1e-30, 1e-23, 1.0, 1e25])
def test_an_error_of_conservation_is_as_large_at_every_scale(size: float) -> None:
    """A tenth of a contribution is lost: the closure says so, however small it is."""
    x = Tensor(np.ones((3, 4), "float32"), requires_grad=True)
    with Tape("edges") as tape:
        y = x * 2.0 + x * 3.0
    tape.backward(y, np.full((3, 4), size, "float32"))
    assert tape.closure()["leaf"] == 0
    edge = tape.uses[x.node][1]
    edge.grad = edge.grad * np.float32(0.9)
    assert tape.closure()["leaf"] == pytest.approx(0.3 / 5, rel=1e-5)
    assert relative(x.grad - edge.grad, x.grad) == pytest.approx(2.3 / 5, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 1000, 10**9])
def test_what_a_trusted_sum_may_have_lost(dtype: str, size: int) -> None:
    """At worst every square was flushed to zero: less than half a last digit of it."""
    kind = np.finfo(dtype)
    border = size * float(kind.tiny) / (float(kind.eps) / 2)
    for sign in (1, -1):
        assert trusted(sign * 2.1 * border, size, dtype)
        assert not trusted(sign * 0.9 * border, size, dtype)
        assert not trusted(sign * math.inf, size, dtype)
    assert not trusted(math.nan, size, dtype) and not trusted(1.0, size, "float16")


def test_units_are_the_powers_of_two_below() -> None:
    """By shifting bits; of nothing, zeros and what is not finite it is 1."""
    for k in (-1022, -1, 0, 1, 1023):
        for x in (math.ldexp(1.0, k), -math.ldexp(1.75, k)):
            assert exponent(x) == k and unit_of([0.0, x / 2, x]) == math.ldexp(1.0, k)
    assert exponent(LEAST) == -1074
    for x in (0.0, -0.0, math.inf, -math.inf, math.nan):
        assert exponent(x) == 0 and unit_of([x]) == 1
    assert unit_of([]) == 1
    assert largest(np.array([-3.0, 2.0])) == 3 and largest(np.array([1, 2.0])) == 2
    assert largest(np.zeros(0)) == 0 and math.isnan(largest(np.array([1, math.nan])))


def test_a_quotient_below_every_normal_number_is_taken_in_two_factors() -> None:
    for dtype, over, under in (
        ("float32", 1.0, 3.0),
        ("float32", 3e-30, 7e15),
        ("float32", 1e-40, 7.0),
        ("float64", 3e-200, 7e150),
        ("float64", 3e-310, 7.0),
    ):
        x = np.array([0.0, 1.0, -3.0, 2.0**20, 3e37], dtype)
        right = [Fraction(over) * f / Fraction(under) for f in fractions(x)]
        found, least = scaled(x, over, under), np.finfo(dtype).smallest_subnormal
        assert found.dtype == dtype
        for a, b in zip(fractions(found), right, strict=True):
            assert abs(a - b) <= abs(b) * Fraction(1e-6) + Fraction(float(least))


def test_gradients_of_two_dtypes() -> None:
    """Their squares together are in float64's safe range, but not in float32's."""
    p, q = Tensor(np.zeros(9, "f4"), requires_grad=True), Tensor(0.0, True)
    p.grad, q.grad = np.full(9, 1e-21, "f4"), np.float64(4e-21)
    assert grad_norm([p, q]) == pytest.approx(5e-21, rel=1e-6, abs=0)


@given(st.lists(arrays(("float32", "float64")), min_size=1, max_size=4))
def test_the_norm_of_all_gradients(gradients: list[np.ndarray]) -> None:
    found = [Tensor(np.zeros_like(g), requires_grad=True) for g in gradients]
    for p, g in zip(found, gradients, strict=True):
        p.grad = g
    assert agree(grad_norm(found), exact(*gradients), 1e-6)


@pytest.mark.parametrize("most", [1.0, 1e-6, 1e-30])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float32", s) for s in (1e-44, 1e-23, 1e19, 2e38)]
    + [("float64", s) for s in (1e-300, 1e-170, 1e170, 1e306)],
)
def test_clipping_of_any_size(dtype: str, size: float, most: float) -> None:
    direction = np.arange(1.0, 4001.0).reshape(50, 80) / 4000
    p, q = (Tensor(np.zeros((50, 80), dtype), requires_grad=True) for _ in range(2))
    p.grad = (direction * size).astype(dtype)
    q.grad = -p.grad
    whole = exact(p.grad, q.grad)
    before = p.grad
    assert clip_grad_norm([p, q], most) == pytest.approx(whole, rel=1e-6, abs=0)
    if whole <= most - 1e-6:
        assert p.grad is before
        return
    factor = Fraction(most) / (Fraction(whole) + Fraction(1e-6))
    right = [float(factor * x) for x in fractions(before[:, ::9])]
    tiny = float(np.finfo(dtype).smallest_subnormal)
    np.testing.assert_allclose(p.grad[:, ::9].ravel(), right, 1e-6, tiny)
    np.testing.assert_array_equal(q.grad, -p.grad)


def test_a_norm_beyond_float64_is_refused_in_a_sentence() -> None:
    found = [Tensor(np.zeros(2), requires_grad=True) for _ in range(2)]
    for p in found:
        p.grad = np.full(2, 1e308)
    assert grad_norm(found[:1]) == pytest.approx(math.sqrt(2) * 1e308)
    assert grad_norm(found) == math.inf
    with pytest.raises(FloatingPointError, match="no float64 holds it"):
        clip_grad_norm(found, 1.0)


def test_a_gradient_check_sees_an_error_of_a_steep_operator() -> None:
    """Where squares overflow: half of a gradient is missed when it alone is needed."""

    def steep(part: float):
        def f(x, y):
            def pullback(g, need):
                return 1e200 * g * (1 if all(need) else part), 1e200 * g

            return record("steep", 1e200 * (x.data + y.data), (x, y), pullback)

        return f

    x, y = np.linspace(-1, 1, 5), np.linspace(0, 1, 5)
    check_vjp(steep(1.0), x, y)
    with pytest.raises(AssertionError, match="when it alone is needed"):
        check_vjp(steep(0.5), x, y)
