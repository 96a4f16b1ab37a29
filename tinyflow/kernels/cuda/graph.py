"""Recording work on the GPU as a CUDA graph, and replaying it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from tinyflow.backend import _cupy

T = TypeVar("T")


class Recorder:
    """A stream, and memory that belongs to what is recorded on it.

    A graph replays addresses. What a step allocates while it is recorded comes from a
    pool of its own, which nothing else uses afterwards, so that an address the graph
    knows is never given to anybody else, whether its array still lives or not.
    """

    def __init__(self) -> None:
        self.cupy: Any = _cupy()
        self.cupy.cuda.runtime.deviceSynchronize()  # what the null stream still does
        self.stream = self.cupy.cuda.Stream(non_blocking=True)
        self.pool = self.cupy.cuda.MemoryPool()

    @contextmanager
    def running(self, private: bool = False) -> Iterator[None]:
        """Put what happens inside on this stream; `private`: into its memory too."""
        with ExitStack() as stack:
            if private:
                stack.enter_context(self.cupy.cuda.using_allocator(self.pool.malloc))
            stack.enter_context(self.stream)
            yield

    def record(self, run: Callable[[], T]) -> tuple[Any, T]:
        """The graph of what `run` puts on the stream, not yet executed; its answer.

        `run` should have run before, :meth:`running` privately, so that every kernel is
        compiled and every plan made. It must not wait for the device.
        """
        with self.running(private=True):
            self.stream.begin_capture()
            try:
                answer = run()
            except BaseException:
                self._abandon()
                raise
            return self.stream.end_capture(), answer

    def _abandon(self) -> None:
        """End a capture that failed; the stream can be used again."""
        try:
            self.stream.end_capture()
        except Exception:  # the failure itself has often ended it already
            pass

    def launch(self, graph: Any) -> None:
        """Execute a graph once, in stream order; the host does not wait."""
        graph.launch(stream=self.stream)
