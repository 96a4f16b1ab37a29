"""Weight gradients on a second stream, while a step is captured.

Backward is a chain: each layer waits for the gradient of its output. The gradients of
the weights hang from that chain like leaves; nothing reads them before the update, so a
second stream computes them while the first goes on. In the graph both become branches
that the GPU runs side by side. Kernels, operands and results stay what they were.

What a branch reads must not be given to anybody else before it is done, and memory that
was freed on the first stream is given out again on it at once. So operands are kept
here until the first stream has waited for their branch, which it does when `WINDOW`
later ones have begun: that bounds what is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tinyflow.backend import Array
from tinyflow.kernels.cuda.cudnn import Device

WINDOW = 4
"""How many weight gradients may be under way."""


class Aside:
    """The second stream, in use inside :meth:`of`.

    Args:
        device: the GPU.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._weights: dict[int, Array] = {}
        self._under_way: deque[tuple[Any, tuple[Array, ...]]] = deque()
        self._results: dict[int, Array] = {}

    @contextmanager
    def of(self, weights: Iterable[Array]) -> Iterator[None]:
        """In the block: gradients of these arrays, which it does not read itself."""
        self._weights = {id(w): w for w in weights}
        try:
            yield
            self.join()
        finally:
            self._weights, self._results = {}, {}
            self._under_way.clear()

    def also(self, weight: Array, copy: Array) -> Array:
        """`copy` stands for `weight`, in another dtype; returns it."""
        if id(weight) in self._weights:
            self._weights[id(copy)] = copy
        return copy

    def run(self, weight: Array, work: Callable[[], Array], *operands: Array) -> Array:
        """What `work` computes of `operands`: a gradient of `weight`."""
        if id(weight) not in self._weights:
            return work()
        with self.device.aside():
            result = work()
            done = self.device.mark()
        self._results[id(result)] = result
        self._under_way.append((done, (*operands, result)))
        while len(self._under_way) > WINDOW:
            self.device.wait(self._under_way.popleft()[0])
        return result

    def touched(self, *arrays: Array) -> None:
        """Before these arrays are read: wait if one may still be under way."""
        if self._results and any(id(a) in self._results for a in arrays):
            self.join()

    def join(self) -> None:
        """The first stream waits for all that is under way."""
        if self._under_way:  # one stream: the last is done after all others
            self.device.wait(self._under_way[-1][0])
            self._under_way.clear()
        self._results.clear()
