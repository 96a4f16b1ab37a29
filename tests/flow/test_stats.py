"""Intervals and chance, against simulation and hand counts."""

import itertools
import math

import numpy as np
import pytest

from tinyflow.flow.stats import chance, interval, line, rank_correlation, student


def test_the_interval_covers_the_mean_in_95_percent():
    rng = np.random.default_rng(0)
    for n in (2, 3, 8):
        found = [interval(rng.normal(5, 2, n).tolist()) for _ in range(2000)]
        covered = np.mean([i.low <= 5 <= i.high for i in found])
        assert covered == pytest.approx(0.95, abs=0.015)


def test_student_at_known_points():
    assert [student(f) for f in (1, 2, 30)] == [12.706, 4.303, 2.042]
    assert student(31) == pytest.approx(2.0395, abs=0.003)
    assert student(120) == pytest.approx(1.9799, abs=0.003)


def inside(t, freedom):
    """P(|T| ≤ t), Student's, by Simpson's rule over its density."""
    x = np.linspace(0, t, 2001)
    y = (1 + x * x / freedom) ** (-(freedom + 1) / 2)
    whole = (y[0] + 4 * y[1::2].sum() + 2 * y[2:-1:2].sum() + y[-1]) * t / 6000
    gamma = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    return 2 * whole * math.exp(gamma) / math.sqrt(freedom * math.pi)


@pytest.mark.parametrize("freedom", [*range(1, 31), 31, 40, 60, 120, 1000])
def test_student_at_every_point(freedom):
    """95 % lie inside, to the last digit of the table; beyond it to 0.3 %."""
    t = student(freedom)
    step = 0.00051 if freedom <= 30 else 0.003 * t
    assert inside(t - step, freedom) < 0.95 < inside(t + step, freedom)


def test_what_is_not_finite_is_left_out():
    assert interval([1.0, math.nan, 3.0, math.inf]).n == 2
    assert interval([1.0, 0.0, -1.0], factor=True).n == 1
    assert math.isnan(interval([]).middle)


def test_chance_equals_counting_all_deals():
    cases = [(1, 1, 0, 0, 1), (0, 1, 1)]  # outcomes per seed
    met = [(1, 0, 0, 1, 1), (0, 1, 0)]
    reached = sum(
        a * b
        for o, m in zip(cases, met, strict=True)
        for a, b in zip(o, m, strict=True)
    )
    deals = [sorted(set(itertools.permutations(o))) for o in cases]
    # Every distinct deal of a seed is equally likely.
    totals = [
        sum(
            a * b
            for d, m in zip(deal, met, strict=True)
            for a, b in zip(d, m, strict=True)
        )
        for deal in itertools.product(*deals)
    ]
    expected = np.mean([t >= reached for t in totals])
    strata = [
        (len(o), sum(o), sum(m), sum(a * b for a, b in zip(o, m, strict=True)))
        for o, m in zip(cases, met, strict=True)
    ]
    assert chance(strata) == pytest.approx(expected)


def test_line():
    assert line([(0, 1), (1, 3), (2, 5)]) == pytest.approx((2, 1))
    assert all(map(math.isnan, line([(0, 1), (1, 3)])))


def test_rank_correlation():
    rho, p = rank_correlation([1, 2, 3, 4], [9, 5, 3, 1])
    assert rho == pytest.approx(-1) and p == pytest.approx(1 / 24)
    rho, p = rank_correlation([1, 2, 3, 4], [1, 2, 3, 4])
    assert rho == pytest.approx(1) and p == 1
    rho, _ = rank_correlation([1, 1, 2, 3], [4, 4, 2, 1])
    assert rho == pytest.approx(-1)
    many = list(range(12))
    assert rank_correlation(many, many[::-1])[1] < 0.001


@pytest.mark.parametrize("factor", [False, True])
def test_one_value_has_no_interval(factor):
    found = interval([1.5], "growth", factor=factor)
    assert found.middle == pytest.approx(1.5) and found.n == 1
    assert math.isnan(found.low) and math.isnan(found.high)
    assert str(found) == "growth 1.5"
