"""Tensor: an array, and its place on the tape.

A :class:`Tensor` is an array plus its :class:`Node`, the place where the value stands
on the tape. Each *use* of a tensor is an :class:`Edge`, (consumer, input slot) →
producer, and what the consumer sent back through it is the edge's gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partialmethod
from operator import eq, ge, gt, le, lt, ne
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from tinyflow import display
from tinyflow.arrays import frozen, plain_array
from tinyflow.backend import Array
from tinyflow.node import Edge, Node, Pullback, TapeError

__all__ = [
    "Edge",
    "Node",
    "Pullback",
    "TapeError",
    "Tensor",
    "fork",
    "frozen",
    "needs_tensor",
    "plain_array",
    "value",
]


class Waiting(Protocol):
    """A value that is not computed before someone reads it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape the value will have."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype the value will have."""

    def finish(self) -> tuple[Array, Node]:
        """Compute it and put it on the tape."""


if TYPE_CHECKING:
    from tinyflow.methods import Methods
else:  # attached by tinyflow.methods: the core knows no operator
    Methods = object


class Tensor(Methods):
    """An array with a place on the tape.

    It converts like the array it holds (``np.asarray(t)``, ``float(t)``, ``bool(t)``
    for one element, ``len(t)``, iteration, comparisons); what is computed by NumPy from
    it is not on the tape. The operators are its methods too:

    >>> from tinyflow import Tensor
    >>> Tensor([[1.0, -2.0], [3.0, 4.0]]).relu().sum(dim=1)
    Tensor([1., 7.], shape=(2,), dtype=float64, name='sum')

    Args:
        data: the array (NumPy or CuPy), a number, or nested lists of numbers.
        requires_grad: whether gradients flow to it (parameters: yes; images: no).
        name: how the tape lists it.

    Raises:
        TypeError: `data` holds no numbers, or not floating-point ones where a gradient
            is required.
    """

    __slots__ = ("_data", "_node", "label", "waiting")
    __array_ufunc__ = None  # array + tensor is ours to answer, not NumPy's

    waiting: Waiting | None
    """What still has to be done for the value; see :mod:`tinyflow.waiting`."""

    def __init__(
        self, data: Any, requires_grad: bool = False, name: str = "leaf"
    ) -> None:
        self._data: Array = plain_array(data, "Tensor: data")
        if requires_grad:
            _can_learn(self._data, name)
        self._node = Node("leaf", self._data, requires_grad)
        self._node.name = name
        self.label = ""
        self.waiting = None

    @classmethod
    def at(cls, data: Array, node: Node, label: str = "") -> Self:
        """A handle on a value that already has its place."""
        tensor = cls.__new__(cls)
        tensor._data, tensor._node, tensor.label = data, node, label
        tensor.waiting = None
        return tensor

    @classmethod
    def later(cls, waiting: Waiting) -> Tensor:
        """A value that is finished when it is first read."""
        tensor = cls.__new__(cls)
        tensor.waiting, tensor.label = waiting, ""
        return tensor

    def _finish(self, waiting: Waiting) -> None:
        self._data, self._node = waiting.finish()
        self.waiting = None

    @property
    def data(self) -> Array:
        """The array."""
        if self.waiting is not None:
            self._finish(self.waiting)
        return self._data

    @data.setter
    def data(self, new: Array) -> None:
        if self.waiting is not None:
            self._finish(self.waiting)
        self._data = new

    @property
    def node(self) -> Node:
        """Its place on the tape."""
        if self.waiting is not None:
            self._finish(self.waiting)
        return self._node

    @property
    def grad(self) -> Array | None:
        """The gradient of the last backward, if it was retained; of a leaf read-only.

        A second backward replaces it, where other libraries add to it; to add, e.g.
        over micro-batches, ask for ``tape.backward(loss, accumulate=True)``. To change
        it, assign: ``x.grad = 0.5 * x.grad``; None forgets it.
        """
        return self.node.grad

    @grad.setter
    def grad(self, new: Any) -> None:
        node = self.node
        if new is not None:
            new = plain_array(value(new), f"the gradient of {node.name!r}")
            if (new.shape, new.dtype) != (self.shape, self.dtype):
                raise ValueError(
                    f"the gradient of {node.name!r} must be {self.dtype}{self.shape}, "
                    f"not {new.dtype}{new.shape}"
                )
        node.grad = new

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to this tensor."""
        return self.node.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value:
            _can_learn(self.data, self.node.name)
        self.node.requires_grad = bool(value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value; images are (N, C, H, W)."""
        return self._data.shape if self.waiting is None else self.waiting.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the value."""
        return self._data.dtype if self.waiting is None else self.waiting.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def item(self) -> float:
        """The value of a one-element tensor as a Python number."""
        return float(self._one("a number").item())

    def __repr__(self) -> str:
        return display.tensor(self)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    # --- as the array does -----------------------------------------------------------

    def _one(self, what: str) -> Array:
        if math.prod(self.shape) != 1:
            raise ValueError(
                f"only a tensor of one element is {what}; {self.node.name!r} has shape "
                f"{self.shape}: reduce it first, or ask its .data"
            )
        return self.data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if not isinstance(self.data, np.ndarray):
            raise TypeError(
                f"{self.node.name!r} is on the GPU: take it to the host with "
                "tinyflow.backend.asnumpy(t.data)"
            )
        return np.array(self.data, dtype=dtype, copy=copy)

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any
    ) -> Any:
        """Functions of NumPy, such as ``np.mean``, get the arrays."""
        return function(*_arrays(args), **_arrays(kwargs))

    def __bool__(self) -> bool:
        return bool(self._one("true or false").item())

    def __float__(self) -> float:
        return float(self._one("a number").item())

    def __int__(self) -> int:
        return int(self._one("a number").item())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self.node.name!r} is a single number and has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __contains__(self, item: Any) -> bool:
        return bool((self.data == value(item)).any())

    __hash__ = object.__hash__  # a tensor is a key by identity

    def _compare(self, other: Any, compare: Callable[[Any, Any], Any]) -> Any:
        return compare(self.data, value(other))  # entry by entry, an array of truths

    __eq__: Any = partialmethod(_compare, compare=eq)
    __ne__: Any = partialmethod(_compare, compare=ne)
    __lt__: Any = partialmethod(_compare, compare=lt)
    __le__: Any = partialmethod(_compare, compare=le)
    __gt__: Any = partialmethod(_compare, compare=gt)
    __ge__: Any = partialmethod(_compare, compare=ge)


def _can_learn(array: Array, name: str) -> None:
    if array.dtype.kind != "f":
        raise TypeError(
            f"only floating-point tensors can require a gradient, {name!r} is "
            f"{array.dtype}; convert it first, e.g. with .astype('float32')"
        )


def fork(x: Tensor, *labels: str) -> tuple[Tensor, ...]:
    """Name the uses of `x`: one handle per label, all the same value.

    Whatever reads a handle becomes an edge into `x` that carries its label. Nothing is
    copied and nothing is added to the tape::

        residual, shortcut = fork(x, "residual", "shortcut")
        h = F(residual) + shortcut                  # ∂L/∂x = two named edges
    """
    needs_tensor("fork", x)
    return tuple(Tensor.at(x.data, x.node, label) for label in labels)


def needs_tensor(who: str, x: Any) -> None:
    """TypeError, in one sentence, unless `x` is a Tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{who}: x must be a Tensor, not {type(x).__name__}: wrap it, Tensor(array)"
        )


def value(x: Any) -> Any:
    """The array behind a tensor; anything else as it is."""
    return x.data if isinstance(x, Tensor) else x


def _arrays(x: Any) -> Any:
    """`x` with each Tensor in it, however deep in lists, replaced by its array."""
    if isinstance(x, dict):
        return {key: _arrays(item) for key, item in x.items()}
    return type(x)(map(_arrays, x)) if type(x) in (list, tuple) else value(x)
