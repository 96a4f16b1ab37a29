"""Derivatives of functions: ``grad(f)(x)``, without a tape in sight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from tinyflow.backend import Array, array_module
from tinyflow.ops.arguments import shown, whole, wholes
from tinyflow.ops.shape import reshape
from tinyflow.tape import Tape
from tinyflow.tensor import Tensor, value


def value_and_grad(
    f: Callable[..., Tensor], argnums: int | Sequence[int] = 0
) -> Callable[..., tuple[Array, Any]]:
    """The function (x, …) ↦ (f(x, …), ∂f/∂x).

    >>> import tinyflow
    >>> def f(x, y):
    ...     return (x * x * y).sum()
    >>> value, slopes = value_and_grad(f, (0, 1))([1.0, 2.0], 3.0)
    >>> print(value, *slopes)
    15.0 [ 6. 12.] 5.0

    Nothing else changes: tensors that `f` uses beside its arguments get no gradient,
    and what it computes is on no other tape. First derivatives only.

    Args:
        f: takes Tensors and returns a Tensor of one entry.
        argnums: the position(s) of the arguments x by which to differentiate. These
            may be Tensors, arrays, numbers or lists; `f` gets a new Tensor of each.
            The others, and keyword arguments, reach `f` as they are.

    Returns:
        A function of the arguments of `f`. It returns arrays: the value, and the
        gradient in the shape and dtype of x, or for several positions a tuple of them
        (which takes one pass backward each).

    Raises:
        TypeError: (when called) x holds no floating-point numbers, or `f` did not
            return a Tensor.
        ValueError: (when called) there is no such argument, or the Tensor that `f`
            returned has not one entry.
    """
    who = getattr(f, "__name__", "f")
    if one := not isinstance(argnums, (tuple, list)):
        places: tuple[int, ...] = (whole("grad", argnums, "argnums", 0),)
    else:
        places = wholes("grad", argnums, "argnums", 0)

    @wraps(f)
    def run(*args: Any, **named: Any) -> tuple[Array, Any]:
        if max(places, default=0) >= len(args):
            raise ValueError(
                f"grad: {who} was called with {len(args)} positional arguments, none "
                f"of them number {max(places)}, counted from 0"
            )
        leaves = {
            i: Tensor(value(args[i]), requires_grad=True, name=f"argument {i}")
            for i in places
        }
        with Tape() as tape:
            y = f(*(leaves.get(i, x) for i, x in enumerate(args)), **named)
            if not isinstance(y, Tensor):
                raise TypeError(
                    f"grad: {who} must return a Tensor, not {shown(y)}; a gradient "
                    "found in it is an array, without a derivative of its own"
                )
            if y.data.size != 1:
                raise ValueError(
                    f"grad: {who} must return one number, not {shown(y)}: reduce it, "
                    "e.g. y.sum()"
                )
            end = reshape(y, ())  # on the tape even where f returns its argument
        found = tuple(_pullback(tape, end, x) for x in leaves.values())
        return y.data, found[0] if one else found

    return run


def grad(
    f: Callable[..., Tensor], argnums: int | Sequence[int] = 0
) -> Callable[..., Any]:
    """The function (x, …) ↦ ∂f/∂x; all else as for :func:`value_and_grad`.

    >>> grad(lambda x: (x**3).sum())([1.0, 2.0])
    array([ 3., 12.])
    """
    run = value_and_grad(f, argnums)

    @wraps(f)
    def gradient(*args: Any, **named: Any) -> Any:
        return run(*args, **named)[1]

    return gradient


def _pullback(tape: Tape, end: Tensor, x: Tensor) -> Array:
    xp = array_module(x.data)
    found: Array
    if end.requires_grad:
        found = xp.asarray(tape.pullback(end, to=x))  # no scalar of NumPy's
    else:
        found = xp.zeros_like(x.data)
    return found
