"""What backward keeps: one small observer per retention level, and its conservation.

The walk back (:mod:`tinyflow.sweep`) shows the observer every gradient and every
message. The gradients of leaves it keeps by itself, whatever the level.
"""

from __future__ import annotations

from typing import Any, ClassVar

from tinyflow.backend import Array, numbers
from tinyflow.lengths import length
from tinyflow.node import Edge, Node
from tinyflow.tensor import frozen

LEAVES, STATISTICS, TENSORS, EDGES = "leaves", "statistics", "tensors", "edges"


class Leaves:
    """Keep nothing more."""

    values: ClassVar[bool] = False
    """Whether the tape keeps values too, and nobody may write to what is kept."""

    def gradient(self, node: Node, g: Array) -> None:
        """All messages to `node` have arrived; their sum is `g`."""

    def message(self, edge: Edge, m: Array) -> None:
        """One use of a value has sent back `m`."""

    def finish(self) -> None:
        """The walk is over, and leaves have their gradients."""


class Statistics(Leaves):
    """Keep the norm of every gradient and of every message."""

    def __init__(self) -> None:
        self._sizes: dict[Node | Edge, Any] = {}  # numbers where the arrays are

    def gradient(self, node: Node, g: Array) -> None:
        """Note ‖g‖, unless `g` was the only message."""
        if self._sizes.get(node) is None:
            self._sizes[node] = length(g)

    def message(self, edge: Edge, m: Array) -> None:
        """Note ‖m‖, also as the gradient's as long as nothing is added to it."""
        node = edge.producer
        added = node in self._sizes or node.grad is not None
        self._sizes[edge] = size = length(m)
        self._sizes[node] = None if added else size

    def finish(self) -> None:
        """Write down all norms, from a GPU in one transfer."""
        found = numbers(*self._sizes.values())
        for part, size in zip(self._sizes, found, strict=True):
            part.norm = size


class Tensors(Statistics):
    """Keep every gradient, and the norms of the messages."""

    values = True

    def gradient(self, node: Node, g: Array) -> None:
        """Note ‖g‖ and keep `g`."""
        super().gradient(node, g)
        node.grad = frozen(g)


class Edges(Leaves):
    """Keep every gradient and every message; norms are computed when asked for."""

    values = True

    def gradient(self, node: Node, g: Array) -> None:
        """Keep `g`."""
        node.grad = frozen(g)

    def message(self, edge: Edge, m: Array) -> None:
        """Keep `m`."""
        edge.grad = m


LEVELS: dict[str, type[Leaves]] = {
    LEAVES: Leaves,
    STATISTICS: Statistics,
    TENSORS: Tensors,
    EDGES: Edges,
}


def conservation(uses: dict[Node, list[Edge]]) -> dict[str, float]:
    """See :meth:`tinyflow.tape.Tape.closure`."""
    sizes: dict[str, tuple[float | Array, float | Array]] = {}
    for node, edges in uses.items():
        total: Array | None = None
        for edge in reversed(edges):
            if edge.grad is not None:
                total = edge.grad if total is None else total + edge.grad
        if node.grad is not None and total is not None:
            sizes[node.name] = length(node.grad - total), length(node.grad)
    found = iter(numbers(*(size for pair in sizes.values() for size in pair)))
    return {
        name: missed / (size or 1.0)
        for name, missed, size in zip(sizes, found, found, strict=True)
    }
