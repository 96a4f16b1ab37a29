"""From where on work is shared among threads: each border, from both sides."""

import threading
from collections import Counter

import numpy as np
import pytest

from tinyflow.kernels.plain import blas, helpers, product, threads

glibc = pytest.mark.skipif(
    not helpers.AVAILABLE, reason="threads wait awake with glibc only"
)


@pytest.fixture
def hired(monkeypatch):
    """Says how many threads there are."""
    return lambda number: monkeypatch.setattr(threads, "count", lambda: number)


def parts(*shape):
    """How many entries of an array each thread works on that has any."""
    met = Counter()

    def work(part):
        met[threading.get_ident()] += part.size

    threads.pointwise(work, np.zeros(shape, "float32"))
    return list(met.values())


@glibc
@pytest.mark.parametrize(
    ("columns", "number"), [(2**15 + 1, 2), (3 * 2**14 - 1, 2), (3 * 2**14, 3)]
)
def test_a_thread_gets_131072_entries_or_none(hired, columns, number):
    hired(3)
    found = parts(8, columns)
    assert len(found) == number and sum(found) == 8 * columns


@glibc
@pytest.mark.parametrize(("samples", "shared"), [(4, False), (5, True)])
def test_four_samples_are_left_to_blas(hired, samples, shared):
    hired(2)
    assert (len(parts(samples, 2**17)) == 2) == shared
    assert len(threads.divide(np.zeros(1), 2, 1, lambda lo, hi: lo)) == 2  # who says 5


@pytest.mark.parametrize(
    ("rows", "depth", "shared"),
    [(14, 1142857, 1), (14, 1142858, 2), (16, 1_000_000, 2), (15, 1_000_000, 1)],
)
def test_a_thread_gets_8_million_multiplications_or_none(
    monkeypatch, rows, depth, shared
):
    """Of rows or of columns; 14 · 1142857 lacks two of twice that."""
    asked = []

    def share(like, total, least, work, samples):
        asked.append((total, total // least))

    monkeypatch.setattr(threads, "divide", share)
    thin, one = np.broadcast_to(1.0, (rows, depth)), np.broadcast_to(1.0, (depth, 1))
    product.product(thin, one, 9)
    product.product(one.T, thin.T, 9)
    assert asked == [(rows, shared)] * 2


def test_threads_are_as_many_as_wanted_where_they_can_wait_awake(monkeypatch):
    monkeypatch.setattr(threads, "wanted", lambda: 7)
    for available, number in ((True, 7), (False, 1)):
        monkeypatch.setattr(helpers, "AVAILABLE", available)
        assert threads.count.__wrapped__() == number


@glibc
def test_work_without_a_least_is_shared_and_the_whole_is_said_from_its_start(hired):
    def ends(total, least):
        return threads.divide(np.zeros(1), total, least, lambda lo, hi: (lo, hi))

    hired(2)
    assert ends(2, 0) == [(0, 1), (1, 2)]
    assert ends(1, 1) == [(0, 1)] and ends(9, 5) == [(0, 9)]
    assert threads.divide(np.zeros(1), 9, 1, lambda *at: at, samples=4) == [(0, 9)]
    hired(1)
    assert ends(9, 1) == [(0, 9)]


@glibc
def test_two_things_are_done_at_the_same_time_by_two_threads(hired):
    for number in (2, 3):
        hired(number)
        meeting = threading.Barrier(2, timeout=30)

        def task(meeting=meeting):
            meeting.wait()
            return threading.get_ident()

        found = threads.both(np.zeros(1), 5, task, task)
        assert len(found) == len(set(found)) == 2
    order = threads.both(np.zeros(1), 4, lambda: "first", lambda: "second")
    assert order == ["first", "second"]


@glibc
def test_an_interrupt_while_blas_is_given_back_keeps_nothing(hired, monkeypatch):
    """Of the two calls that give it back the first is disturbed."""
    hired(2)
    give, calls = blas.give, []

    def disturbed():
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        give()

    def numbers():
        return [library.get() for library in blas._libraries()]

    before = numbers()
    monkeypatch.setattr(blas, "give", disturbed)
    with pytest.raises(KeyboardInterrupt):
        threads.divide(np.zeros(1), 2, 1, lambda lo, hi: lo)
    assert not blas._inside and not helpers.inside() and numbers() == before


@glibc
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("columns", [2**15, 2**15 + 1, 2**17 + 3])
def test_each_entry_is_met_once_in_blocks_of_262144(hired, number, columns):
    hired(number)
    x, seen = np.zeros((8, columns), "float32"), []

    def work(part):
        np.add(part, 1, out=part)
        seen.append(part)

    threads.pointwise(work, x)
    assert (x == 1).all()
    assert max(p.size for p in seen) == min(2**18, x.size // number) or len(seen) == 1
    # What fits into a block is handed over as it is.
    assert (len(seen) == 1 and seen[0] is x) == (columns == 2**15)


def test_arrays_that_lie_differently_are_handed_over_as_they_are():
    a = np.zeros((1024, 1024), "float32")
    for other in (a.T, a[:1], np.zeros(())):
        seen = []
        threads.pointwise(lambda *arrays, seen=seen: seen.append(arrays), a, other)
        (found,) = seen
        assert found[0] is a and found[1] is other
