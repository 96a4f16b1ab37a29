"""Work shared among threads: whole, in order, and undisturbed by what goes wrong."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tinyflow.kernels.engine import PLAIN
from tinyflow.kernels.geometry import Conv
from tinyflow.kernels.plain import blas, helpers, threads

pytestmark = [
    pytest.mark.skipif(
        not helpers.AVAILABLE, reason="threads wait awake with glibc only"
    ),
    pytest.mark.usefixtures("three"),
]
X = np.zeros(1)


def test_parts_cover_everything_in_order():
    for total in (3, 4, 100):
        parts = threads.divide(X, total, 1, lambda lo, hi: (lo, hi))
        assert len(parts) == 3
        assert [lo for lo, _ in parts] == [0, *(hi for _, hi in parts[:-1])]
        assert parts[-1][1] == total
        sizes = [hi - lo for lo, hi in parts]
        assert max(sizes) - min(sizes) <= 1


def test_parts_are_done_at_the_same_time_by_different_threads():
    meeting = threading.Barrier(3, timeout=30)

    def part(lo, hi):
        meeting.wait()
        return threading.get_ident()

    assert len(set(threads.divide(X, 3, 1, part))) == 3


@pytest.mark.parametrize(("total", "least", "parts"), [(5, 3, 1), (6, 3, 2), (0, 1, 1)])
def test_small_work_stays_together(total, least, parts):
    assert len(threads.divide(X, total, least, lambda lo, hi: (lo, hi))) == parts


def test_a_few_samples_are_left_to_blas():
    controller = pytest.importorskip("threadpoolctl").ThreadpoolController()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "FEW", 4)
        assert len(threads.divide(X, 100, 1, lambda lo, hi: lo, 4)) == 1
        assert len(threads.divide(X, 100, 1, lambda lo, hi: lo, 5)) == 3
        before = controller.info()
        during = threads.divide(X, 100, 1, lambda lo, hi: controller.info(), 4)
        assert during == [before]


def test_nested_work_stays_whole():
    def part(lo, hi):
        return threads.divide(X, 100, 1, lambda lo, hi: (lo, hi))

    assert threads.divide(X, 3, 1, part) == [[(0, 100)]] * 3
    assert len(threads.divide(X, 3, 1, lambda lo, hi: lo)) == 3


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_an_error_in_any_part_is_raised_after_all_have_ended(wrong):
    ended = []

    def part(lo, hi):
        if lo == wrong:
            raise KeyError(lo)
        time.sleep(0.02)
        ended.append(lo)

    with pytest.raises(KeyError, match=str(wrong)):
        threads.divide(X, 3, 1, part)
    assert sorted(ended) == [n for n in range(3) if n != wrong]
    assert threads.divide(X, 3, 1, lambda lo, hi: lo) == [0, 1, 2]


def test_numpys_error_state_holds_in_every_part():
    def part(lo, hi):
        return np.ones(1) / np.array([lo - 2.0])

    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        threads.divide(X, 3, 1, part)
    with np.errstate(divide="ignore"):
        assert np.isinf(threads.divide(X, 3, 1, part)[2])


def crew():
    """The threads of the pool, whoever they are."""
    return [t for t in threading.enumerate() if t.name.startswith("tinyflow")]


def idle_seconds():
    """Processor time that goes by in 0.2 s in which nothing is asked for."""
    time.sleep(5 * helpers.IDLE)
    before = time.process_time()
    time.sleep(0.2)
    return time.process_time() - before


def test_helpers_go_to_sleep_and_wake():
    for _ in range(3):
        assert threads.divide(X, 3, 1, lambda lo, hi: lo) == [0, 1, 2]
        assert idle_seconds() < 0.1
        assert len(crew()) == 3  # two helpers, and the one who sends them to sleep


def test_many_callers_take_turns():
    wrong = []

    def caller(n):
        for _ in range(50):
            if threads.divide(X, 3, 1, lambda lo, hi: n + lo) != [n, n + 1, n + 2]:
                wrong.append(n)

    callers = [threading.Thread(target=caller, args=(10 * n,)) for n in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert not wrong


def blas_numbers():
    controller = pytest.importorskip("threadpoolctl").ThreadpoolController()
    return [one["num_threads"] for one in controller.select(user_api="blas").info()]


def in_a_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=120)


@pytest.mark.parametrize("where", ["main", "thread", "coroutine"])
def test_blas_has_one_thread_meanwhile_and_gets_the_others_back(where):
    def once():
        before = blas_numbers()
        for pieces in (3, 1):  # shared, and left in one piece
            during = threads.divide(X, pieces, 1, lambda lo, hi: blas_numbers())
            assert all(set(numbers) <= {1} for numbers in during)
            assert blas_numbers() == before
        with pytest.raises(KeyError):
            threads.divide(X, 3, 1, lambda lo, hi: {}[lo])
        assert blas_numbers() == before

    threads.divide(X, 3, 1, lambda lo, hi: lo)  # whoever came first has no privilege
    if where == "coroutine":
        asyncio.run(asyncio.to_thread(once))
    else:
        once() if where == "main" else in_a_thread(once)


def test_blas_keeps_to_one_thread_whoever_asks():
    """What it says is not all: other threads' time would show up in the process's."""
    a = np.ones((1200, 1200), np.float32)

    def alone():
        time.sleep(0.1)  # OpenBLAS's own threads spin for a while
        all_, own = time.process_time(), time.thread_time()
        threads.divide(X, 1, 1, lambda lo, hi: a @ a)
        return (time.process_time() - all_) - (time.thread_time() - own), own

    a @ a
    threads.divide(X, 3, 1, lambda lo, hi: lo)
    time.sleep(5 * helpers.IDLE)
    for others, _ in (alone(), in_a_thread(alone)):
        assert others < 0.02


def step():
    """The bits that a little of everything comes to."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 3, 16, 16)).astype(np.float32)
    w = rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
    how = Conv((1, 1), (1, 1, 1, 1), (1, 1), 1)
    y = PLAIN.conv2d(x, w, how)
    grads = PLAIN.conv2d_grads(y, x, w, how, (True, True))
    mean, var = PLAIN.moments(y)
    dense = PLAIN.product(y.reshape(8, -1), y.reshape(8, -1).T)
    return b"".join(np.asarray(a).tobytes() for a in (y, *grads, mean, var, dense))


def test_bits_and_time_do_not_depend_on_the_thread():
    def timed():
        start = time.perf_counter()
        found = {step() for _ in range(10)}
        return found, time.perf_counter() - start

    step()
    here, seconds = timed()
    there, elsewhere = in_a_thread(timed)
    assert here == there and len(here) == 1
    assert elsewhere < 4 * seconds + 1  # it was thirty times
    with ThreadPoolExecutor(3) as pool:  # several at once are right as well
        for found, _ in pool.map(lambda _: timed(), range(3)):
            assert found == here


def test_where_blas_keeps_its_threads_nothing_is_shared(monkeypatch):
    stubborn = blas._Library(lambda: 4, lambda number: None)
    monkeypatch.setattr(blas, "_libraries", lambda: [stubborn])
    assert threads.divide(X, 100, 1, lambda lo, hi: (lo, hi)) == [(0, 100)]
    numbers = threading.local()  # each thread has its own, as with OpenMP

    def get():
        return getattr(numbers, "own", 4)

    apart = blas._Library(get, lambda number: setattr(numbers, "own", number))
    monkeypatch.setattr(blas, "_libraries", lambda: [apart])
    blas._seen_by_others.cache_clear()
    assert threads.divide(X, 100, 1, lambda lo, hi: (lo, hi)) == [(0, 100)]
    assert get() == 4
    monkeypatch.setattr(blas, "_libraries", lambda: None)
    assert threads.divide(X, 100, 1, lambda lo, hi: (lo, hi)) == [(0, 100)]
    blas._seen_by_others.cache_clear()
