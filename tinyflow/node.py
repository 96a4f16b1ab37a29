"""Node and Edge: the place of a value on the tape, and each use made of it.

Each *use* of a tensor is an :class:`Edge`, (consumer, input slot) → producer, and what
the consumer sent back through it is the edge's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tinyflow import display
from tinyflow.backend import Array
from tinyflow.lengths import l2_norm

Pullback: TypeAlias = Callable[[Array, tuple[bool, ...]], Sequence[Array | None]]
"""``pullback(g, need)``: the cotangent of the output to one message per input slot.

A slot whose `need` is false may be answered with None; it is then not computed.
"""


class TapeError(RuntimeError):
    """A question the tape cannot answer; the message says why and what to do."""


class _Measured:
    """Something with a gradient, whose norm is noted or computed when asked for."""

    __slots__ = ("_grad", "_norm")

    def __init__(self) -> None:
        self._grad: Array | None = None
        self._norm: float | None = None

    @property
    def grad(self) -> Array | None:
        """The gradient; setting it forgets the norm of the one before."""
        return self._grad

    @grad.setter
    def grad(self, value: Array | None) -> None:
        self._grad, self._norm = value, None

    @property
    def norm(self) -> float | None:
        """The gradient's L2 norm, from retention level "statistics" on."""
        if self._norm is None and self._grad is not None:
            self._norm = l2_norm(self._grad)
        return self._norm

    @norm.setter
    def norm(self, value: float | None) -> None:
        self._norm = value


class Node(_Measured):
    """The place of one value on the tape: how it was made and what came back to it.

    Attributes:
        op: name of the operator, "leaf" for parameters and inputs.
        name: module path and operator, e.g. ``layer3.2.conv1.conv2d``.
        shape, dtype: of the value.
        requires_grad: whether gradients flow to it.
        index: position on the tape, -1 for a leaf.
        edges: one per input slot.
        grad: its gradient after backward, if the tape retained it.
        norm: the gradient's L2 norm, from retention level "statistics" on.
        value: the array, kept by the tape from retention level "tensors" on.
        version: of a leaf, how often optimisers and modules have written to it.
    """

    __slots__ = (
        "dtype",
        "edges",
        "index",
        "name",
        "need",
        "op",
        "pullback",
        "requires_grad",
        "shape",
        "value",
        "version",
    )

    def __init__(self, op: str, value: Array, requires_grad: bool) -> None:
        super().__init__()
        self.op = op
        self.name = op
        self.shape: tuple[int, ...] = value.shape
        self.dtype: Any = value.dtype
        self.requires_grad = requires_grad
        self.index = -1
        self.edges: tuple[Edge, ...] = ()
        self.need: tuple[bool, ...] = ()
        self.pullback: Pullback | None = None
        self.value: Array | None = None
        self.version = 0

    def __repr__(self) -> str:
        return display.node(self)


class Edge(_Measured):
    """One use of a value: input `slot` of the node at `index` reads `producer`.

    Attributes:
        producer: the node whose value is used.
        index, slot: which input of which node of the tape uses it.
        consumer: that node's name.
        label: the name given by :func:`fork`, or "".
        grad: the message sent back: the whole contribution of this use to the
            producer's gradient, in the producer's shape and dtype.
        norm: its L2 norm, from retention level "statistics" on.
    """

    __slots__ = ("consumer", "index", "label", "producer", "slot")

    def __init__(
        self, producer: Node, index: int, slot: int, consumer: str, label: str
    ) -> None:
        super().__init__()
        self.producer = producer
        self.index = index
        self.slot = slot
        self.consumer = consumer
        self.label = label

    def __repr__(self) -> str:
        return display.edge(self)


class Edges(list[Edge]):
    """A list of edges, shown as a table in a notebook."""

    def _repr_html_(self) -> str:
        return display.uses(self)._repr_html_()
