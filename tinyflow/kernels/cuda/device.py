"""What the convolution engines and captured steps ask of the GPU itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from tinyflow.backend import Array, _cupy
from tinyflow.kernels.cuda.graph import Recorder


class Gpu:
    """The current CUDA device through CuPy."""

    def __init__(self) -> None:
        self.cupy: Any = _cupy()
        self._trials: Recorder | None = None
        self._second: Any = None

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

    @contextmanager
    def aside(self) -> Iterator[None]:
        """On a second stream, after what the current one has been given so far."""
        if self._second is None:
            self._second = self.cupy.cuda.Stream(non_blocking=True)
        self._second.wait_event(self.mark())
        with self._second:
            yield

    def mark(self) -> Any:
        """This moment of the current stream."""
        event = self.cupy.cuda.Event(disable_timing=True)
        event.record()
        return event

    def wait(self, moment: Any) -> None:
        """What the current stream is given next begins after that moment."""
        self.cupy.cuda.get_current_stream().wait_event(moment)

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

    def replayed(self, run: Callable[[Array], None], workspace: int) -> float:
        """Device milliseconds of one `run` among several in a replayed graph.

        Called one by one, short kernels would wait for the host, and that would be
        timed. `run` is given that many bytes, which are freed when all is over.
        """
        recorder = self._trials = self._trials or Recorder()
        self.check()  # what other streams still write may be read here
        try:
            return self._trial(recorder, run, workspace)
        finally:
            recorder.stream.synchronize()
            recorder.pool.free_all_blocks()

    def _trial(
        self, recorder: Recorder, run: Callable[[Array], None], workspace: int
    ) -> float:
        with recorder.running(private=True):
            room = self.bytes(max(workspace, 1))
            run(room)
            once = self._milliseconds(partial(run, room))
        times = max(2, min(20, round(2 / max(once, 1e-3))))

        def several() -> None:
            for _ in range(times):
                run(room)

        graph, _ = recorder.record(several)
        with recorder.running():
            launch = partial(recorder.launch, graph)
            launch()
            return min(self._milliseconds(launch) for _ in range(3)) / times

    def check(self) -> None:
        """Wait for the device; an error if it can no longer be used."""
        self.cupy.cuda.runtime.deviceSynchronize()

    def _milliseconds(self, run: Callable[[], None]) -> float:
        """Device time of what `run` puts on the current stream; waits for it."""
        cuda = self.cupy.cuda
        start, stop = cuda.Event(), cuda.Event()
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return float(cuda.get_elapsed_time(start, stop))
