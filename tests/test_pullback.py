"""Law 5: pullbacks from anywhere, with any cotangent, through or around edges."""

import numpy as np
import pytest

from tests.test_tape import leaf
from tinyflow import Tape, fork, ops


def two_branches(x):
    residual, shortcut = fork(x, "residual", "shortcut")
    return ops.tanh(residual * 2.0) * 3.0 + shortcut


def test_pullback_from_any_tensor_with_any_cotangent():
    x = leaf(4)
    with Tape("tensors") as tape:
        y = ops.exp(two_branches(x))
        loss = ops.sum(y)
    u = np.array([1.0, -2.0, 3.0, 0.5])
    inner = tape["tanh"]
    expected = u * (1 - inner.value**2) * 2.0
    assert np.allclose(tape.pullback(inner, u, to=x), expected)
    assert np.allclose(tape.pullback("tanh", u, to="x"), expected)
    tape.backward(loss)
    before = x.grad
    assert np.array_equal(tape.pullback(loss, to=x), before)
    assert x.grad is before


def test_through_and_around_named_edges_add_up():
    x = leaf(4)
    with Tape("edges") as tape:
        h = two_branches(x)
        loss = ops.sum(h * h)
    tape.backward(loss)
    shortcut, residual = tape.edge(x, "shortcut"), tape.edge(x, "residual")
    g_h = 2 * h.data
    assert np.allclose(tape.pullback(loss, to=x, through=[shortcut]), g_h)
    assert np.allclose(tape.pullback(loss, to=x, around=[residual]), g_h)
    assert np.array_equal(tape.pullback(loss, to=x, through=[residual]), residual.grad)
    assert not tape.pullback(loss, to=x, around=[residual, shortcut]).any()
    assert not tape.pullback(loss, to=x, through=[]).any()
    assert np.array_equal(tape.pullback(loss, to=x, around=[]), x.grad)


def test_scaled_and_cut_edges():
    x = leaf(4)
    with Tape("edges") as tape:
        h = two_branches(x)
        loss = ops.sum(h)
    tape.backward(loss)
    residual = tape.edge(x, "residual")
    halved = tape.pullback(loss, to=x, scale={residual: 0.5})
    assert np.allclose(halved, 1 + residual.grad / 2)
    assert np.array_equal(tape.pullback(loss, to=x, scale={residual: 0.0}), np.ones(4))


@pytest.mark.parametrize("factor", [2, -1, 0.5, 0, 1, -3.25])
def test_a_factor_multiplies_what_crosses_an_edge(factor):
    """Against the derivative of the same sum written out with the factor in it."""
    x = leaf(4)
    with Tape("edges") as tape:
        residual, shortcut = fork(x, "residual", "shortcut")
        h = ops.tanh(residual * 2.0) * 3.0 + shortcut
        again, plain = fork(h, "again", "plain")
        loss = ops.sum(again * again + plain * 5.0)
    r, s, a = tape.edge(x, "residual"), tape.edge(x, "shortcut"), tape.edges(h, "again")
    u, slope = h.data, 6 * (1 - np.tanh(2 * x.data) ** 2)
    full = (2 * u + 5) * (slope + 1)
    for scale, expected in (
        ({r: factor}, (2 * u + 5) * (factor * slope + 1)),
        ({s: factor}, (2 * u + 5) * (slope + factor)),
        ({r: factor, s: 2}, (2 * u + 5) * (factor * slope + 2)),
        ({a[0]: factor}, ((1 + factor) * u + 5) * (slope + 1)),
        ({a[0]: factor, a[1]: factor}, (factor * 2 * u + 5) * (slope + 1)),
        ({a[0]: 3, r: factor}, (4 * u + 5) * (factor * slope + 1)),  # they multiply
    ):
        assert np.allclose(tape.pullback(loss, to=x, scale=scale), expected)
        graded = tape.graded_pullback(
            loss,
            to=x,
            grade=lambda e: (1,) if e.label == "residual" else None,
            scale=scale,
        )
        assert np.allclose(sum(graded.values()), expected)
        through = tape.pullback(loss, to=x, through=[r], scale=scale)
        around = tape.pullback(loss, to=x, around=[r], scale=scale)
        assert np.allclose(through + around, expected)
        if scale.get(s) is None and r in scale:  # only one term carries the factor
            assert np.allclose(graded.get((1,), 0 * u), through)
            assert np.allclose(through, (expected - around))
            assert np.allclose(around * slope * factor, through)
    assert np.allclose(tape.pullback(loss, to=x), full)


def test_graded_pullback_equals_brute_force_over_all_paths():
    x = leaf(5)
    slopes = [0.5, -1.5, 2.0, 0.25]
    with Tape() as tape:
        y = x
        for slope in slopes:
            residual, shortcut = fork(y, "residual", "shortcut")
            y = residual * slope + shortcut
        loss = ops.sum(y)
    found = tape.graded_pullback(
        loss, to=x, grade=lambda e: (1,) if e.label == "residual" else None
    )
    expected = np.polynomial.polynomial.polyfromroots([0])[:1] * 0 + 1.0
    for slope in slopes:
        expected = np.polynomial.polynomial.polymul(expected, [1.0, slope])
    assert [k for (k,) in found] == list(range(5))
    for (k,), g in found.items():
        assert np.allclose(g, expected[k])
    capped = tape.graded_pullback(
        loss, to=x, grade=lambda e: (1,) if e.label == "residual" else None, cap=1
    )
    assert np.allclose(capped[(1,)], sum(expected[1:]))


def test_two_kinds_of_crossing_are_counted_apart():
    x = leaf(3)
    with Tape() as tape:
        a, b, c = fork(x, "a", "b", "c")
        loss = ops.sum(a * 2.0 + b * 3.0 + c)
    grade = {"a": (1, 0), "b": (0, 1)}
    found = tape.graded_pullback(loss, to=x, grade=lambda e: grade.get(e.label))
    assert {k: float(g[0]) for k, g in found.items()} == {
        (0, 0): 1,
        (0, 1): 3,
        (1, 0): 2,
    }
