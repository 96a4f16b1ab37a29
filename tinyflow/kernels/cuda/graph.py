"""Recording work on the GPU as a CUDA graph, and replaying it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from tinyflow.backend import Array, _cupy

T = TypeVar("T")

NO_MEMORY = 2
"""cudaErrorMemoryAllocation."""


class Recorder:
    """A stream, and memory that belongs to what is recorded on it.

    A graph replays addresses. What a step allocates while it is recorded comes from a
    pool of its own, which nothing else uses afterwards, so that an address the graph
    knows is never given to anybody else, whether its array still lives or not.
    """

    def __init__(self) -> None:
        self.cupy: Any = _cupy()
        self.stream = self.cupy.cuda.Stream(non_blocking=True)
        self.pool = self.cupy.cuda.MemoryPool(self._malloc)
        self._recording = False

    @contextmanager
    def running(self, private: bool = False) -> Iterator[None]:
        """Put what happens inside on this stream; `private`: into its memory too.

        It begins when all is done that was put on the current stream before, and what
        is put there afterwards begins when it is done: both may use the same memory.
        """
        outer = self.cupy.cuda.get_current_stream()
        with ExitStack() as stack:
            if outer != self.stream:
                self._in_order(outer, self.stream)
                stack.callback(self._in_order, self.stream, outer)
            if private:
                stack.enter_context(self.cupy.cuda.using_allocator(self.pool.malloc))
            stack.enter_context(self.stream)
            yield

    def _in_order(self, first: Any, then: Any) -> None:
        """What is put on stream `then` from now on begins when `first` is done."""
        then.wait_event(first.record(self.cupy.cuda.Event(disable_timing=True)))

    def record(self, run: Callable[[], T]) -> tuple[Any, T]:
        """The graph of what `run` puts on the stream, not yet executed; its answer.

        `run` should have run before, :meth:`running` privately, so that every kernel is
        compiled and every plan made. It must not wait for the device.

        Raises:
            MemoryError: the GPU's memory is full. What `run` raises passes through.
        """
        with self.running(private=True):
            self.stream.begin_capture()
            self._recording = True
            try:
                answer = run()
            except BaseException:
                self._abandon()
                raise
            finally:
                self._recording = False
            return self.stream.end_capture(), answer

    def _malloc(self, size: int) -> Any:
        """New memory for the pool.

        Where there is none the pool would free what it holds and ask again: while a
        step is recorded that is memory which the graph will use, and so it stays.
        """
        memory = self.cupy.cuda.memory
        try:
            return memory.MemoryPointer(memory.Memory(size), 0)
        except self.cupy.cuda.runtime.CUDARuntimeError as error:
            if error.status != NO_MEMORY or not self._recording:
                raise
            held = self.pool.total_bytes() - size  # the pool has counted it already
            raise memory.OutOfMemoryError(size, held) from None

    def _abandon(self) -> None:
        """End a capture that failed; the stream can be used again."""
        try:
            self.stream.end_capture()
        except Exception:  # the failure itself has often ended it already
            pass

    def launch(self, graph: Any) -> None:
        """Execute a graph once, in stream order; the host does not wait."""
        graph.launch(stream=self.stream)

    def fetch(self, array: Array) -> Callable[[], Array]:
        """Start copying to the host what `array` holds now, in stream order.

        Returns:
            A function that waits for the copy, and for nothing put on the stream later,
            and gives it.
        """
        import cupyx

        copy: Array = cupyx.empty_pinned(array.shape, array.dtype)
        array.get(stream=self.stream, out=copy, blocking=False)  # type: ignore[attr-defined]
        event = self.stream.record(self.cupy.cuda.Event(disable_timing=True))

        def wait() -> Array:
            event.synchronize()
            return copy

        return wait
