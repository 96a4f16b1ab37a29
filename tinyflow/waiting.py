"""Values that stay open: the last pass over memory waits for what else could join it.

Batch normalisation and a channel gate end with one cheap operation per entry, and a sum
or a ReLU that comes next is one more. Where nobody looks in between (no tape, or one
that fuses) and a module runs, the operator therefore hands out its value *open*::

    h = batch_norm(x)      # statistics are taken; y = γ x̂ + β waits
    h = h + shortcut       # joins, and waits as well
    y = relu(h)            # joins: one pass, one node on the tape

Whoever reads an open value (its ``data`` or its ``node``) finishes it as it is, and the
outermost module finishes what it returns. A value that is read although a later one was
made with it is computed once more: the numbers are right, their last bits may be those
of another order of summation. Traced tapes record every operator and never see one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, TypeAlias

import numpy as np

from tinyflow.backend import Array
from tinyflow.node import Node, Pullback
from tinyflow.tape import Tape, active_tape, record
from tinyflow.tensor import Tensor

Finish: TypeAlias = Callable[[Array | None, bool], tuple[Array, Pullback]]
"""(r or None, relu) to y, plus r, no less than 0 with `relu`, and its pullback.

The pullback answers for the operator's inputs and, with r, for r behind them.
"""

_MODULE_RUNS: ContextVar[bool] = ContextVar("tinyflow_module_runs", default=False)


class Open:
    """An operator whose last pass is still to be done.

    Attributes:
        op, inputs: as for :func:`tinyflow.tape.record`.
        shape, dtype: of the value.
        last: the last pass.
        tape: where it will stand, or None.
        residual: what will be added on the way.
    """

    __slots__ = ("dtype", "inputs", "last", "op", "residual", "shape", "tape")

    def __init__(
        self,
        op: str,
        inputs: Sequence[Any],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        last: Finish,
        tape: Tape | None,
        residual: Tensor | None = None,
    ) -> None:
        self.op, self.inputs, self.last = op, inputs, last
        self.shape, self.dtype, self.tape = shape, dtype, tape
        self.residual = residual

    def plus(self, residual: Tensor) -> Open:
        """The same with something added."""
        given = self.op, self.inputs, self.shape, self.dtype, self.last, self.tape
        return Open(*given, residual)

    def finish(self, relu: bool = False) -> tuple[Array, Node]:
        """Do the last pass and put the value on its tape."""
        r = self.residual
        y, pullback = self.last(None if r is None else r.data, relu)
        if self.tape is None or self.tape.released:
            return y, Node(self.op, y, requires_grad=False)
        inputs = self.inputs if r is None else (*self.inputs, r)
        done = self.tape.record(self.op, y, inputs, pullback)
        return done.data, done.node

    def takes(self, r: Any) -> bool:
        """Whether the sum with `r` can join."""
        return (
            self.residual is None
            and isinstance(r, Tensor)
            and r.shape == self.shape
            and r.dtype == self.dtype
        )


def in_module(forward: Callable[..., Any], *args: Any) -> Any:
    """What ``forward(*args)`` returns; values in it may be open, those returned not."""
    if _MODULE_RUNS.get():
        return forward(*args)
    token = _MODULE_RUNS.set(True)
    try:
        out = forward(*args)
    finally:
        _MODULE_RUNS.reset(token)
    several = tuple(out.values()) if isinstance(out, dict) else out
    for x in several if isinstance(several, (tuple, list)) else (out,):
        if isinstance(x, Tensor):
            _ = x.data  # finishes it
    return out


def record_open(op: str, like: Array, inputs: Sequence[Any], last: Finish) -> Tensor:
    """Put an operator on the tape whose last pass may wait.

    Args:
        op, inputs: as for :func:`tinyflow.tape.record`.
        like: an array in the shape and dtype of the value.
        last: computes it.
    """
    tape = active_tape()
    if _MODULE_RUNS.get() and (tape is None or tape.fuse):
        return Tensor.later(Open(op, inputs, like.shape, like.dtype, last, tape))
    y, pullback = last(None, False)
    return record(op, y, inputs, pullback)


def joined_sum(a: Any, b: Any) -> Tensor | None:
    """The sum a + b if one of them is open for the other, else None."""
    for x, r in ((a, b), (b, a)):
        held = x.waiting if isinstance(x, Tensor) else None
        if isinstance(held, Open) and x is not r and held.takes(r):
            return Tensor.later(held.plus(r))
    return None


def joined_relu(x: Any) -> Tensor | None:
    """The value max(x, 0) if x is open, else None."""
    held = x.waiting if isinstance(x, Tensor) else None
    return Tensor.at(*held.finish(relu=True)) if isinstance(held, Open) else None
