"""The recorder's streams and memory, on a CuPy of a few lines that keeps account.

A stream knows what is done before whatever is put on it next: its own work, and that of
the events it was told to wait for. Whoever does not know a piece of work may overtake
it. The pool does what CuPy 14's does when the device has no memory left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.fakes.host_gpu import gpu_or_skip
from tests.fakes.strict_array import CUDARuntimeError, OutOfMemoryError
from tinyflow.kernels.cuda import graph


class Stream:
    def __init__(self, cuda: "Cuda") -> None:
        self.cuda, self.known, self.captures = cuda, set(), False

    def put(self, work: str) -> None:
        self.known.add(work)

    def record(self, event: SimpleNamespace) -> SimpleNamespace:
        assert not self.captures
        event.known = set(self.known)
        return event

    def wait_event(self, event: SimpleNamespace) -> None:
        assert not self.captures
        self.known |= event.known

    def begin_capture(self) -> None:
        self.captures = True

    def end_capture(self) -> str:
        assert self.captures
        self.captures = False
        return "graph"

    def __enter__(self) -> None:
        self.cuda.current.append(self)

    def __exit__(self, *exc: object) -> None:
        assert self.cuda.current.pop() is self


class Pool:
    """``cupy.cuda.MemoryPool``: freed blocks are kept, until there is no room."""

    def __init__(self, allocator: Any) -> None:
        self.allocator, self.free, self.total = allocator, [], 0

    def malloc(self, size: int) -> Any:
        self.total += size
        try:
            return self._try(size)
        except BaseException:
            self.total -= size
            raise

    def _try(self, size: int) -> Any:
        try:
            return self.allocator(size)
        except CUDARuntimeError as error:
            if error.status != 2:
                raise
        self.free.clear()
        try:
            return self.allocator(size)
        except CUDARuntimeError:
            raise OutOfMemoryError(size, self.total - size) from None

    def total_bytes(self) -> int:
        return self.total


class Cuda:
    """``cupy.cuda``; `room` is how many bytes the device still has."""

    def __init__(self) -> None:
        self.room = 1000
        self.current = [Stream(self)]
        self.allocators: list[Any] = []
        self.Stream = lambda non_blocking: Stream(self)
        self.Event = lambda disable_timing: SimpleNamespace(known=None)
        self.MemoryPool = Pool
        self.runtime = SimpleNamespace(CUDARuntimeError=CUDARuntimeError)
        self.memory = SimpleNamespace(
            Memory=self._memory,
            MemoryPointer=lambda memory, offset: memory,
            OutOfMemoryError=OutOfMemoryError,
        )

    def _memory(self, size: int) -> int:
        if size > self.room:
            raise CUDARuntimeError(2)
        self.room -= size
        return size

    def get_current_stream(self) -> Stream:
        return self.current[-1]

    @contextmanager
    def using_allocator(self, allocator: Any) -> Iterator[None]:
        self.allocators.append(allocator)
        try:
            yield
        finally:
            self.allocators.pop()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    monkeypatch.setattr(graph, "_cupy", lambda: SimpleNamespace(cuda=made))
    return made


def test_what_runs_on_the_stream_comes_after_and_before_what_is_around_it(
    cuda: Cuda,
) -> None:
    recorder, null = graph.Recorder(), cuda.get_current_stream()
    null.put("weights to the GPU")
    with recorder.running():
        assert cuda.get_current_stream() is recorder.stream
        assert "weights to the GPU" in recorder.stream.known
        recorder.stream.put("step")
        assert "step" not in null.known
    assert cuda.get_current_stream() is null and "step" in null.known
    with pytest.raises(ZeroDivisionError), recorder.running(private=True):
        recorder.stream.put("failed step")
        raise ZeroDivisionError
    assert "failed step" in null.known and not cuda.allocators


def test_inside_itself_there_is_nothing_to_order(cuda: Cuda) -> None:
    recorder, null = graph.Recorder(), cuda.get_current_stream()
    with recorder.running():
        cuda.Event = None  # none may be made
        with recorder.running(private=True):
            assert cuda.allocators == [recorder.pool.malloc]
            recorder.stream.put("step")
        cuda.Event = lambda disable_timing: SimpleNamespace(known=None)
    assert "step" in null.known


def test_a_recording_begins_when_what_came_before_is_done(cuda: Cuda) -> None:
    recorder = graph.Recorder()
    cuda.get_current_stream().put("batch")

    def run() -> str:
        assert recorder.stream.captures and "batch" in recorder.stream.known
        return "answer"

    assert recorder.record(run) == ("graph", "answer")
    assert not recorder.stream.captures


def test_full_memory_while_recording_frees_nothing(cuda: Cuda) -> None:
    """The pool would give back blocks whose addresses have been recorded already."""
    recorder = graph.Recorder()
    pool = recorder.pool

    def run() -> None:
        pool.malloc(600)
        pool.free.append("block that a recorded kernel uses")
        pool.malloc(600)

    told = r"Out of memory allocating 600 bytes \(allocated so far: 600 bytes\)"
    with pytest.raises(MemoryError, match=told):
        recorder.record(run)
    assert pool.free and not recorder.stream.captures
    with pytest.raises(MemoryError):  # nothing has been recorded: all as usual
        pool.malloc(600)
    assert not pool.free


def test_another_failure_of_the_device_is_no_lack_of_memory(cuda: Cuda) -> None:
    recorder = graph.Recorder()

    def broken(size: int) -> int:
        raise CUDARuntimeError(700)

    cuda.memory.Memory = broken
    with pytest.raises(CUDARuntimeError, match="IllegalAddress"):
        recorder.record(lambda: recorder._malloc(1))


def test_a_result_is_copied_in_stream_order_and_waited_for_alone(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    class Array:
        shape, dtype = (4,), np.dtype(np.float32)

        def get(self, stream: Any, out: np.ndarray, blocking: bool) -> None:
            assert stream is recorder.stream and not blocking
            out[:] = [1, 2, 3, 4]
            log.append("copy")

    def event(disable_timing: bool) -> Any:
        return SimpleNamespace(known=None, synchronize=lambda: log.append("wait"))

    cuda.Event = event
    pinned = SimpleNamespace(empty_pinned=np.empty)
    monkeypatch.setitem(__import__("sys").modules, "cupyx", pinned)
    recorder = graph.Recorder()
    fetched = recorder.fetch(Array())  # type: ignore[arg-type]
    assert log == ["copy"]
    assert list(fetched()) == [1, 2, 3, 4] and log == ["copy", "wait"]


@pytest.mark.gpu
def test_gpu_full_memory_while_recording_frees_nothing() -> None:
    gpu_or_skip()
    import cupy

    recorder = graph.Recorder()
    x = cupy.ones(1 << 20, "float32")
    (x + 1).sum()  # compiled before

    def run(size: int) -> Any:
        y = x + 1
        z = y + 1  # and y's block is free again
        del y
        cupy.empty(size, "uint8")
        return z

    with recorder.running(private=True):
        run(1)
    held = recorder.pool.total_bytes()
    with pytest.raises(MemoryError):
        recorder.record(lambda: run(1 << 50))
    assert recorder.pool.total_bytes() == held
    recorded, z = recorder.record(lambda: run(1))
    recorder.launch(recorded)
    assert recorder.fetch(z)()[0] == 3


@pytest.mark.gpu
def test_gpu_fetched_is_what_was_there() -> None:
    """Not what a later launch has made of it."""
    gpu_or_skip()
    import cupy

    recorder = graph.Recorder()
    x = cupy.zeros(4, "float32")
    x += 0
    recorded, _ = recorder.record(lambda: cupy.add(x, 1, out=x))
    found = []
    for _ in range(5):
        recorder.launch(recorded)
        found.append(recorder.fetch(x))
    assert [f().tolist() for f in found] == [[i + 1.0] * 4 for i in range(5)]
    with recorder.running():
        x += 1
    assert x.tolist() == [6.0] * 4  # on the null stream
