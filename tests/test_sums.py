"""The sum in place that backward takes: what it writes, where, and when it is used."""

import numpy as np
import pytest

from tinyflow import Tape, Tensor, ops
from tinyflow.kernels.engine import PLAIN, engine, forced
from tinyflow.kernels.layout import swap
from tinyflow.kernels.plain import helpers, threads
from tinyflow.kernels.plain.scratch import BLOCK


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("n", [5, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
@pytest.mark.skipif(not helpers.AVAILABLE, reason="threads wait awake with glibc only")
def test_a_sum_written_to_one_of_its_terms(dtype, count, n, monkeypatch):
    """Each entry is read before it is written, once, in every block and thread."""
    monkeypatch.setattr(threads, "count", lambda: count)
    monkeypatch.setattr(threads, "WORTH", 1)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, 1)).astype(dtype) for _ in "ab")
    expected, kept = a + b, b.copy()
    found = engine(a).add(a, b, out=a)
    assert found is a
    assert np.array_equal(a, expected) and np.array_equal(b, kept)


def test_memory_orders_that_differ_and_gaps():
    rng = np.random.default_rng(0)
    for n in (3, 70):
        x, y = (
            swap(rng.standard_normal((33, 32, n, 5))),
            rng.standard_normal((n, 5, 33, 32)),
        )
        wide = rng.standard_normal((n, 10, 33, 32))
        for a, b in ((x, y), (y, x), (wide[:, ::2], y), (wide[:, 5:], x)):
            expected = a + b
            assert PLAIN.add(a, b, out=a) is a and np.array_equal(a, expected)
            assert np.array_equal(PLAIN.add(a, b), expected + b)


def test_backward_adds_in_place_from_the_second_sum_on(monkeypatch):
    """One array for the sum, whatever the number of uses; no message is written to."""
    calls = []
    plain = PLAIN.add

    def add(a, b, out=None):
        calls.append(out is a)
        assert out is None or out is a
        return plain(a, b, out)

    monkeypatch.setattr(PLAIN, "add", add)
    x = Tensor(np.arange(4.0), requires_grad=True)
    with forced(PLAIN), Tape("edges") as tape:
        y = ops.mul(x, 1.0)
        loss = ops.sum(
            sum((ops.mul(y, float(k)) for k in range(2, 7)), ops.mul(y, 1.0))
        )
    calls.clear()
    with forced(PLAIN):
        tape.backward(loss)
    assert calls == [False, True, True, True, True]
    assert [e.grad[0] for e in tape.edges(y)] == [1, 2, 3, 4, 5, 6]
    assert y.grad.tolist() == [21.0] * 4
