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
from typing import TYPE_CHECKING, Any

import numpy as np

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


def plain_array(data: Any, what: str) -> Array:
    """`data` as an array of real numbers; itself, not a copy, if it is one.

    `what` names it in the error.

    Raises:
        TypeError: no numbers, complex ones, rows of different lengths, a mask (which
            would be lost), or a Tensor.
    """
    if type(data) is np.ndarray and data.dtype.kind in "fiu" and data.dtype.isnative:
        return data  # nearly always
    if hasattr(data, "__cuda_array_interface__"):
        device: Array = data
        return device
    if isinstance(data, Tensor):
        raise TypeError(
            f"{what} is a Tensor already; for a leaf of its own give x.data"
        )
    mask = getattr(data, "mask", None)
    if isinstance(mask, np.ndarray) and mask.any():
        raise TypeError(f"{what} has a mask, which would be lost; fill it first")
    try:
        found = np.asarray(data)
    except Exception as error:  # whatever its __array__ raises
        raise TypeError(f"{what} cannot become an array of numbers") from error
    if found.dtype.kind not in "fiub" and found.dtype.name != "bfloat16":
        raise TypeError(
            f"{what} must be real numbers (an array, a number, nested lists), not "
            f"{type(data).__name__} of dtype {found.dtype}"
        )
    if not found.dtype.isnative:
        found = found.astype(found.dtype.newbyteorder("="))
    return found


def frozen(array: Array) -> Array:
    """A read-only view (NumPy): writing to it fails, the array itself is as it was."""
    if isinstance(array, np.ndarray) and array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array


class Tensor:
    """An array with a place on the tape.

    It converts like the array it holds (``np.asarray(t)``, ``float(t)``, ``bool(t)``
    for one element, ``len(t)``, iteration, comparisons); what is computed by NumPy from
    it is not on the tape.

    Args:
        data: the array (NumPy or CuPy), a number, or nested lists of numbers.
        requires_grad: whether gradients flow to it (parameters: yes; images: no).
        name: how the tape lists it.

    Raises:
        TypeError: `data` holds no numbers, or not floating-point ones where a gradient
            is required.
    """

    __slots__ = ("data", "label", "node")
    __array_ufunc__ = None  # array + tensor is ours to answer, not NumPy's

    def __init__(
        self, data: Any, requires_grad: bool = False, name: str = "leaf"
    ) -> None:
        self.data: Array = plain_array(data, "Tensor: data")
        if requires_grad:
            _can_learn(self.data, name)
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
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the value."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    def item(self) -> float:
        """The value of a one-element tensor as a Python number."""
        return float(self._one("a number").item())

    def __repr__(self) -> str:
        return f"Tensor({self.node.name}, shape={self.shape}, dtype={self.dtype})"

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

    def _compare(self, other: Any, how: Callable[[Any, Any], Any]) -> Any:
        return how(self.data, value(other))  # entry by entry, an array of truths

    __eq__: Any = partialmethod(_compare, how=eq)
    __ne__: Any = partialmethod(_compare, how=ne)
    __lt__: Any = partialmethod(_compare, how=lt)
    __le__: Any = partialmethod(_compare, how=le)
    __gt__: Any = partialmethod(_compare, how=gt)
    __ge__: Any = partialmethod(_compare, how=ge)

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
        def __rpow__(self, base: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...


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
