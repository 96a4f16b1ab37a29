"""What the convolution engines and captured steps ask of the GPU itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tinyflow.backend import Array, _cupy


class Gpu:
    """The current CUDA device through CuPy."""

    def __init__(self) -> None:
        self.cupy: Any = _cupy()

    def number(self) -> int:
        """Of the current device."""
        return int(self.cupy.cuda.runtime.getDevice())

    def stream(self) -> int:
        """The current stream's address."""
        return int(self.cupy.cuda.get_current_stream().ptr)

    def capturing(self) -> bool:
        """Whether the current stream is being captured into a graph."""
        stream = self.cupy.cuda.get_current_stream()
        return bool(stream.ptr) and bool(stream.is_capturing())

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Beside a capture: on a stream of its own, which is waited for.

        A copy from the host would otherwise become part of the graph, and be repeated
        from memory that is no longer there.
        """
        if not self.capturing():
            yield
            return
        stream = self.cupy.cuda.Stream(non_blocking=True)
        with stream:
            yield
        stream.synchronize()

    def bytes(self, size: int) -> Array:
        """New device memory from CuPy's pool."""
        memory: Array = self.cupy.empty(size, "uint8")
        return memory

    def empty(self, shape: tuple[int, ...], like: Array) -> Array:
        """A new C-ordered array of `like`'s dtype."""
        new: Array = self.cupy.empty(shape, like.dtype)
        return new

    def address(self, array: Array) -> int:
        """Where an array begins."""
        return int(array.data.ptr)  # type: ignore[attr-defined]

    def milliseconds(self, run: Callable[[], None]) -> float:
        """Device time of what `run` puts on the current stream; waits for it."""
        cuda = self.cupy.cuda
        start, stop = cuda.Event(), cuda.Event()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return float(cuda.get_elapsed_time(start, stop))
