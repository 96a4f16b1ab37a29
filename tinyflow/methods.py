"""What a Tensor can do: the operators as its methods, and some of an array's own.

Attached to Tensor here, because the core knows no operator. What reads the values and
has no gradient (``argmax``, ``numpy``, ``tolist``) answers with arrays and numbers, as
comparisons do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tinyflow import habits, ops
from tinyflow.backend import Array, asnumpy, device_of
from tinyflow.ops.arguments import axis_of
from tinyflow.tape import active_tape
from tinyflow.tensor import TapeError, Tensor


class Size(int):
    """A number of entries, which is not called: other libraries' size() is a shape."""

    def __call__(self, *dim: Any) -> Any:
        """TypeError: says how a shape is asked for."""
        raise TypeError(
            "x.size is the number of entries; write x.shape for the shape, x.shape[0] "
            "for one axis"
        )


class Methods:
    """The methods of a Tensor; see the operators of the same names."""

    __slots__ = ()

    add = __add__ = ops.add
    sub = __sub__ = ops.sub
    mul = __mul__ = ops.mul
    div = __truediv__ = ops.div
    neg = __neg__ = ops.neg
    pow = __pow__ = ops.pow
    exp = ops.exp
    log = ops.log
    sqrt = ops.sqrt
    abs = __abs__ = ops.abs
    maximum = ops.maximum
    minimum = ops.minimum
    clamp = ops.clamp
    tanh = ops.tanh
    sigmoid = ops.sigmoid
    relu = ops.relu
    softmax = ops.softmax
    log_softmax = ops.log_softmax
    matmul = __matmul__ = ops.matmul
    sum = ops.sum
    mean = ops.mean
    var = ops.var
    amax = ops.amax
    reshape = ops.reshape
    squeeze = ops.squeeze
    flatten = ops.flatten
    permute = ops.permute
    transpose = ops.transpose
    split = ops.split
    __getitem__ = ops.getitem

    def __radd__(self, other: Any) -> Tensor:
        return ops.add(other, self)

    def __rsub__(self, other: Any) -> Tensor:
        return ops.sub(other, self)

    def __rmul__(self, other: Any) -> Tensor:
        return ops.mul(other, self)

    def __rtruediv__(self, other: Any) -> Tensor:
        return ops.div(other, self)

    def __rpow__(self: Any, base: Any) -> Tensor:
        return ops.pow(base, self)

    def __rmatmul__(self: Any, other: Any) -> Tensor:
        return ops.matmul(other, self)

    def where(self: Any, condition: Any, other: Any) -> Tensor:
        """``ops.where(condition, x, other)``."""
        return ops.where(condition, self, other)

    def __setitem__(self, index: Any, new: Any) -> None:
        raise TypeError(
            "a Tensor is not written to, the tape may have seen it: build a new one, "
            "or write to the array before it becomes a Tensor"
        )

    @property
    def T(self: Any) -> Tensor:
        """Transposed: the axes of x in reverse; see :func:`tinyflow.ops.permute`."""
        return ops.permute(self, range(self.ndim)[::-1])

    @property
    def size(self: Any) -> int:
        """Number of entries, as of an array."""
        return Size(math.prod(self.shape))

    @property
    def device(self: Any) -> str:
        """Where the array is: "cpu" or "cuda"."""
        return device_of(self.data)

    def numel(self: Any) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def argmax(self: Any, dim: int | None = None) -> Any:
        """Where the (first) maximum along `dim` is, or of all entries: an array."""
        along = None if dim is None else axis_of("argmax", dim, self.ndim)
        return self.data.argmax(along)

    def detach(self: Any) -> Tensor:
        """The same array as a leaf of its own: no gradient flows back through it."""
        return Tensor(self.data, name=self.node.name)

    def numpy(self: Any) -> Array:
        """The array itself; of a tensor on a GPU a copy on the host."""
        return asnumpy(self.data)

    def tolist(self: Any) -> Any:
        """The entries as Python numbers in nested lists."""
        return self.data.tolist()

    def backward(self: Any, cotangent: Any = None) -> None:
        """``tape.backward(self)`` of the tape that is active; see there.

        Raises:
            TapeError: no tape is, or it has not recorded this tensor.
        """
        tape = active_tape()
        if tape is None:
            raise TapeError(
                "only a tape goes backward: record with `with Tape() as tape: loss = "
                "...`, then write tape.backward(loss)"
            )
        tape.backward(self, cotangent)

    if not TYPE_CHECKING:  # a type checker should go on to refuse what is not there

        def __getattr__(self, name: str) -> Any:
            raise habits.unknown("a Tensor", name, habits.TENSOR, self)


for _name, _method in vars(Methods).items():
    if _name not in ("__module__", "__qualname__", "__slots__", "__doc__"):
        setattr(Tensor, _name, _method)
