"""Tensor, Node, Edge: an array, its place on the tape, and each use made of it.

A :class:`Tensor` is an array plus its :class:`Node`, the place where the value stands
on the tape. Each *use* of a tensor is an :class:`Edge`, (consumer, input slot) →
producer, and what the consumer sent back through it is the edge's gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinyflow.backend import Array

Pullback: TypeAlias = Callable[[Array, tuple[bool, ...]], Sequence[Array | None]]
"""``pullback(g, need)``: the cotangent of the output to one message per input slot.

A slot whose `need` is false may be answered with None; it is then not computed.
"""


class TapeError(RuntimeError):
    """A question the tape cannot answer; the message says why and what to do."""


def square(array: Array) -> Array:
    """‖array‖₂², a single number that stays where `array` is.

    Read in the order in which it lies in memory.
    """
    flat = array.ravel(order="K")
    result: Array = flat @ flat
    return result


def l2_norm(array: Array) -> float:
    """‖array‖₂; on a GPU this waits for it, see :func:`square`."""
    return math.sqrt(float(square(array)))


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
    )

    def __init__(self, op: str, value: Array, requires_grad: bool) -> None:
        super().__init__()
        self.op = op
        self.name = op
        self.shape: tuple[int, ...] = value.shape
        self.dtype = value.dtype
        self.requires_grad = requires_grad
        self.index = -1
        self.edges: tuple[Edge, ...] = ()
        self.need: tuple[bool, ...] = ()
        self.pullback: Pullback | None = None
        self.value: Array | None = None

    def __repr__(self) -> str:
        return f"Node({self.name}, shape={self.shape}, dtype={self.dtype})"


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
        label = f" ({self.label})" if self.label else ""
        return f"Edge({self.producer.name} -> {self.consumer}[{self.slot}]{label})"


class Tensor:
    """An array with a place on the tape.

    Args:
        data: the array (NumPy or CuPy), a number, or nested lists of numbers.
        requires_grad: whether gradients flow to it (parameters: yes; images: no).
        name: how the tape lists it.
    """

    __slots__ = ("data", "label", "node")
    __array_ufunc__ = None  # array + tensor is ours to answer, not NumPy's

    def __init__(
        self, data: Any, requires_grad: bool = False, name: str = "leaf"
    ) -> None:
        self.data: Array = data if hasattr(data, "dtype") else np.asarray(data)
        if requires_grad and self.data.dtype.kind != "f":
            raise TypeError(
                f"only floating-point tensors can require a gradient, {name!r} is "
                f"{self.data.dtype}; convert it first, e.g. with .astype('float32')"
            )
        self.node = Node("leaf", self.data, requires_grad)
        self.node.name = name
        self.label = ""

    @classmethod
    def at(cls, data: Array, node: Node, label: str = "") -> Tensor:
        """A handle on a value that already has its place."""
        tensor = cls.__new__(cls)
        tensor.data, tensor.node, tensor.label = data, node, label
        return tensor

    @property
    def grad(self) -> Array | None:
        """The gradient left here by the last backward, if it was retained."""
        return self.node.grad

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to this tensor."""
        return self.node.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.node.requires_grad = value

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value; images are (N, C, H, W)."""
        return self.node.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the value."""
        return self.node.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.node.shape)

    def item(self) -> float:
        """The value of a one-element tensor as a Python number."""
        return float(self.data.item())

    def __repr__(self) -> str:
        return f"Tensor({self.node.name}, shape={self.shape}, dtype={self.dtype})"

    __hash__ = object.__hash__

    if TYPE_CHECKING:  # attached by tinyflow.ops: the tape knows no operator

        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __pow__(self, exponent: float) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...


def fork(x: Tensor, *labels: str) -> tuple[Tensor, ...]:
    """Name the uses of `x`: one handle per label, all the same value.

    Whatever reads a handle becomes an edge into `x` that carries its label. Nothing is
    copied and nothing is added to the tape::

        residual, shortcut = fork(x, "residual", "shortcut")
        h = F(residual) + shortcut                  # ∂L/∂x = two named edges
    """
    return tuple(Tensor.at(x.data, x.node, label) for label in labels)


def value(x: Any) -> Any:
    """The array behind a tensor; anything else as it is."""
    return x.data if isinstance(x, Tensor) else x
