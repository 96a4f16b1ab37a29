"""Activations in float32, on every engine of the CPU, to the last digits."""

import numpy as np
import pytest

# ruff: noqa: F401, F811
from tests.kernels.engines import case
from tests.kernels.native.built import native


def exact(name, x, g):
    """With more digits, without cancellation, and what its error is measured by."""
    x, g = x.astype(np.longdouble), g.astype(np.longdouble)
    s, rest = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))
    answers = {
        "sigmoid": (s, s),
        "sigmoid_grad": (g * s * rest, g * s * rest),
        "silu": (x * s, x * s),
        "silu_grad": (g * s * (1 + x * rest), g * s * (1 + abs(x) * rest)),
    }
    return answers[name]


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid_grad", "silu", "silu_grad"])
@pytest.mark.parametrize("size", [1, 5, 100003])
def test_they_are_right_to_the_last_digits(case, name, size):
    rng = np.random.default_rng(0)
    x = np.concatenate([np.linspace(-85, 85, size), rng.standard_normal(size) / 9])
    x, g = x.astype(case.dtype), rng.standard_normal(2 * size).astype(case.dtype)
    inputs = (g, x) if name.endswith("grad") else (x,)
    wanted, scale = exact(name, x, g)
    error = abs(getattr(case.engine, name)(*inputs) - wanted)
    about = np.finfo(case.dtype)
    assert (error <= 4 * about.eps * abs(scale) + about.tiny).all()


@pytest.mark.parametrize("name", ["relu6", "silu", "sigmoid"])
def test_gaps_and_other_orders_do_not_matter(case, name):
    """Arrays that do not lie alike take another way to the same numbers."""
    rng = np.random.default_rng(1)
    x, g = (3 * rng.standard_normal((2, 6, 8, 10, 12))).astype(case.dtype)
    every, back = (getattr(case.engine, n) for n in (name, f"{name}_grad"))
    part = (slice(1, 5), slice(None, None, 2), slice(3, 4))
    np.testing.assert_allclose(every(x[part]), every(x)[part], 5e-7, 1e-6)
    turned = np.asfortranarray(g)
    np.testing.assert_allclose(back(turned, x), back(g, x), 5e-7, 1e-6)
    np.testing.assert_allclose(back(g[part], x[part]), back(g, x)[part], 5e-7, 1e-6)
