"""The pool of threads after interrupts, deaths, forks and refusals: as before."""

import ctypes
import os
import subprocess
import sys
import threading
import time

import pytest

from tests.kernels.plain.test_threads import X, crew, idle_seconds, step
from tinyflow.kernels import cores
from tinyflow.kernels.native import library
from tinyflow.kernels.plain import helpers, threads

pytestmark = [
    pytest.mark.skipif(
        not helpers.AVAILABLE, reason="threads wait awake with glibc only"
    ),
    pytest.mark.usefixtures("three"),
]


@pytest.mark.parametrize("victim", ["tinyflow", "tinyflow-idle"])
def test_a_thread_of_the_pool_that_is_ended_is_replaced(victim):
    threads.divide(X, 3, 1, lambda lo, hi: lo)
    for thread in crew():
        if thread.name == victim:
            throw(thread.ident, SystemExit)
    try:
        threads.divide(X, 3, 1, lambda lo, hi: lo)
    except SystemExit:
        pass  # raised where its result was waited for
    time.sleep(5 * helpers.IDLE)
    for _ in range(3):
        assert threads.divide(X, 3, 1, lambda lo, hi: lo) == [0, 1, 2]
    assert idle_seconds() < 0.1
    assert len(crew()) == 3


def throw(ident, error):
    """Raise an error in another thread, as those do who want to stop one."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident), ctypes.py_object(error)
    )


@pytest.mark.parametrize("error", [MemoryError, SystemExit, GeneratorExit])
def test_after_any_error_the_pool_works(error):
    def part(lo, hi):
        raise error

    for _ in range(20):
        with pytest.raises(error):
            threads.divide(X, 3, 1, part)
        assert threads.divide(X, 3, 1, lambda lo, hi: lo) == [0, 1, 2]
    assert idle_seconds() < 0.1
    assert len(crew()) == 3


def test_who_cannot_have_threads_works_alone(monkeypatch):
    exact = step()

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(helpers, "_team", None)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert step() == exact
    assert threads.divide(X, 3, 1, lambda lo, hi: lo) == [0, 1, 2]


def test_a_sandbox_may_forbid_to_choose_cores(monkeypatch):
    def refuse(thread, cores):
        raise PermissionError

    monkeypatch.setattr(helpers, "mine", lambda: set(range(99)))
    monkeypatch.setattr(helpers, "_core", iter(range(9)).__next__)
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    assert threads.divide(X, 3, 1, lambda lo, hi: lo) == [0, 1, 2]


def script(code, *arguments, **environment):
    """Run it with two threads, in a process that may hang."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "TINYFLOW_NUM_THREADS": "2", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(cores.available() < 2, reason="needs two cores")
@pytest.mark.parametrize("how", ["signal", "thrown", "thrown elsewhere"])
@pytest.mark.parametrize("engine", ["numpy", "native"])
def test_after_an_interrupt_at_any_instant_all_is_as_before(
    how, engine, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if engine == "native":
        try:
            library.build()
        except library.NativeError as error:
            pytest.skip(str(error))
    done = script(INTERRUPTED, how, TINYFLOW_ENGINE=engine)
    assert done.returncode == 0, done.stderr


INTERRUPTED = """
import ctypes, random, signal, sys, threading, time
import numpy as np
from tinyflow.kernels.plain import blas, helpers, threads
from tinyflow.kernels.engine import engine

how, rng, chance = sys.argv[1], np.random.default_rng(0), random.Random(0)
threads.PRODUCTS = 1
a, b = (rng.standard_normal(s).astype("float32") for s in ((60, 40), (40, 30)))
product = engine(a).product
exact, ended = product(a, b), []
numbers = lambda: [library.get() for library in blas._libraries()]
before = numbers()

def interrupt(*_):
    raise KeyboardInterrupt

def throw(ident, delay):
    time.sleep(delay)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt))

def body():
    interrupts = 0
    for _ in range(200):
        delay, other = chance.uniform(1e-5, 5e-4), None
        try:
            if how == "signal":
                signal.setitimer(signal.ITIMER_REAL, delay)
            else:
                about = threading.get_ident(), delay
                other = threading.Thread(target=throw, args=about)
                other.start()
            for _ in range(10_000):
                product(a, b)
        except KeyboardInterrupt:
            interrupts += 1
        if other is not None:
            other.join()
        assert numbers() == before and not blas._inside and not helpers.inside()
        assert (product(a, b) == exact).all()
    assert interrupts == 200
    ended.append(1)

signal.signal(signal.SIGALRM, interrupt)
if how == "thrown elsewhere":
    other = threading.Thread(target=body)
    other.start()
    other.join()
else:
    body()
time.sleep(0.2)
assert sum(t.name.startswith("tinyflow") for t in threading.enumerate()) <= 2
used = time.process_time()
time.sleep(0.3)
assert time.process_time() - used < 0.1
sys.exit(not ended)
"""


@pytest.mark.skipif(cores.available() < 2, reason="needs two cores")
def test_what_a_signal_calls_may_compute_as_well():
    done = script(REENTERED)
    assert done.returncode == 0, done.stderr


REENTERED = """
import signal
import numpy as np
from tinyflow.kernels.plain import threads
from tinyflow.kernels.plain.product import product

threads.PRODUCTS = 1
a, found = np.ones((60, 60)), []
signal.signal(signal.SIGALRM, lambda *_: found.append(product(a, a, 64)))
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-3)
while len(found) < 50:
    product(a, a, 64)
signal.setitimer(signal.ITIMER_REAL, 0)
assert all((y == 60).all() for y in found)
"""


@pytest.mark.skipif(cores.available() < 2, reason="needs two cores")
def test_forked_children_have_helpers_of_their_own():
    """Even of a process whose threads are at work meanwhile."""
    done = script(FORK, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr


FORK = """
import os, sys, threading
import numpy as np
from tinyflow.kernels.plain import blas, threads
from tinyflow.kernels.plain.product import product

threads.PRODUCTS = 1
a = np.ones((60, 60))
product(a, a, 64)
before, over = [library.get() for library in blas._libraries()], []

def work():
    while not over:
        product(a, a, 64)

other = threading.Thread(target=work)
other.start()
failed = 0
for _ in range(10):
    child = os.fork()
    if child == 0:
        right = [library.get() for library in blas._libraries()] == before
        right &= (product(a, a, 64) == 60).all()
        right &= [library.get() for library in blas._libraries()] == before
        os._exit(0 if right else 1)
    failed |= os.waitpid(child, 0)[1]
over.append(1)
other.join()
sys.exit(failed)
"""


@pytest.mark.skipif(cores.available() < 2, reason="needs two cores")
def test_the_process_can_end_while_helpers_wait():
    done = script(END)
    assert done.returncode == 0 and done.stdout == "60", done.stderr


END = """
import os
import numpy as np
from tinyflow.kernels.plain import threads
from tinyflow.kernels.plain.product import product

threads.PRODUCTS = 1
a = np.ones((60, 60))

class Last:
    def __del__(self, product=product, a=a, write=os.write):
        write(1, b"%d" % product(a, a, 64)[0, 0])

last = Last()
product(a, a, 64)
"""
