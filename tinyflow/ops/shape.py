"""Moving entries about: reshape, permute, pad, slice, join, split. No arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from itertools import accumulate, pairwise
from typing import Any, TypeVar, cast

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.ops.arguments import (
    LARGEST,
    MOST_ENTRIES,
    array_of,
    axes_of,
    axis_of,
    fits_dtype,
    integer,
    listed,
    same_dtype,
    scalar,
    shown,
    whole,
    wholes,
)
from tinyflow.tape import record
from tinyflow.tensor import Tensor

Function = TypeVar("Function", bound=Callable[..., Tensor])


def reshape(input: Tensor, shape: int | Sequence[int], *sizes: int) -> Tensor:
    """y = x with another shape, same entries in the same (row-major) order.

    ∂L/∂x = g in the old shape.

    Args:
        input: any tensor.
        shape, sizes: (2, 3), or 2, 3; one size may be -1 and is then computed.

    Raises:
        ValueError: a shape of another number of entries.
    """
    x = array_of("reshape", input)
    given = (shape, *sizes) if sizes or listed(shape) is None else shape
    new, old = wholes("reshape", given, "shape", -1), x.shape
    known, free = math.prod(new), -1 in new
    if free:
        known = math.prod([n for n in new if n >= 0])
    if x.size % known or new.count(-1) > 1 if free and known else x.size != known:
        raise ValueError(
            f"reshape: input {old} has {x.size} entries, which do not fill shape {new}"
        )
    return record(
        "reshape",
        x.reshape(new),
        (input,),
        lambda g, need: (g.reshape(old),),
    )


def one_image(operator: Function) -> Function:
    """Let an operator on images (N, C, H, W) take one (C, H, W), and give one back."""

    @wraps(operator)
    def call(input: Any, *args: Any, **named: Any) -> Tensor:
        if not isinstance(input, Tensor) or input.ndim != 3:
            return operator(input, *args, **named)
        y = operator(reshape(input, (1, *input.shape)), *args, **named)
        return reshape(y, y.shape[1:])

    return cast(Function, call)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes `start_dim` … `end_dim` merged into one; see :func:`reshape`."""
    shape = array_of("flatten", input).shape or (1,)  # a number is one entry
    first = axis_of("flatten", start_dim, len(shape), "start_dim")
    last = axis_of("flatten", end_dim, len(shape), "end_dim")
    if first > last:
        raise ValueError(f"flatten: start_dim {first} comes after end_dim {last}")
    merged = math.prod(shape[first : last + 1])
    return reshape(input, (*shape[:first], merged, *shape[last + 1 :]))


def permute(input: Tensor, dims: int | Sequence[int], *more: int) -> Tensor:
    """y = x with its axes in the order `dims`;  ∂L/∂x = g with the order undone.

    `dims` is (1, 0), or the axes follow each other: 1, 0.
    """
    x = array_of("permute", input)
    given = (dims, *more) if more else dims
    order = axes_of("permute", given, x.ndim, "dims")
    if len(order) != x.ndim:
        raise ValueError(
            f"permute: dims {shown(given)} must name each of {x.ndim} axes once"
        )
    undo = [order.index(i) for i in range(len(order))]
    return record(
        "permute",
        x.transpose(order),
        (input,),
        lambda g, need: (g.transpose(undo),),
    )


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Axes `dim0` and `dim1` swapped; see :func:`permute`."""
    ndim = array_of("transpose", input).ndim
    order = list(range(ndim))
    a = axis_of("transpose", dim0, ndim, "dim0")
    b = axis_of("transpose", dim1, ndim, "dim1")
    order[a], order[b] = b, a
    return permute(input, order)


def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Axes of length 1 left out: all, or those in `dim`; see :func:`reshape`."""
    shape = array_of("squeeze", input).shape
    axes = range(len(shape)) if dim is None else axes_of("squeeze", dim, len(shape))
    return reshape(input, [n for i, n in enumerate(shape) if n != 1 or i not in axes])


def pad(input: Tensor, pad: Sequence[int], value: float = 0.0) -> Tensor:
    """A border of `value` around x;  ∂L/∂x = g without the border.

    Args:
        input: any tensor.
        pad: PyTorch's order, last axis first: (left, right, top, bottom, …).
        value: what the border holds.
    """
    x, number = array_of("pad", input), scalar(value)
    if number is None or isinstance(number, bool):
        raise TypeError(f"pad: value must be a number, not {shown(value)}")
    fits_dtype("pad", number, "value", x.dtype)
    sides = wholes("pad", pad, "pad", 0)
    if len(sides) % 2 or len(sides) > 2 * x.ndim:
        raise ValueError(
            "pad: pad must be (before, after) pairs, last axis first, for at most "
            f"{x.ndim} axes, not {shown(pad)}"
        )
    pairs = [(sides[i], sides[i + 1]) for i in range(0, len(sides), 2)][::-1]
    widths = [(0, 0)] * (input.ndim - len(pairs)) + pairs
    inside = tuple(
        slice(before, before + n)
        for (before, _), n in zip(widths, input.shape, strict=True)
    )
    shape = [n + sum(w) for n, w in zip(x.shape, widths, strict=True)]
    if math.prod(shape) > MOST_ENTRIES:
        raise ValueError(f"pad: pad {shown(pad)} would make shape {tuple(shape)}")
    y = array_module(x).full_like(x, number, shape=shape)  # in x's memory order
    engine(x).copy(x, y[inside])
    return record("pad", y, (input,), lambda g, need: (g[inside],))


def getitem(input: Tensor, index: Any) -> Tensor:
    """y = x[index] for integers, slices, None and Ellipsis.

    ∂L/∂x = g at `index`, 0 elsewhere.
    """
    x, axes = array_of("getitem", input), 0
    for p in index if isinstance(index, tuple) else (index,):
        if p is None or p is ...:
            continue
        n = 0 if isinstance(p, slice) else integer(p)
        if n is None:
            raise TypeError(
                "getitem: index must be integers, slices, None and ..., not "
                f"{shown(index)}"
            )
        if abs(n) > LARGEST:
            raise IndexError(f"getitem: index {shown(index)} is out of range")
        axes += 1
    if axes > x.ndim:
        raise ValueError(f"getitem: index names {axes} axes, input has {x.ndim}")
    try:
        y = x[index]
    except (IndexError, TypeError, ValueError) as error:  # axis and size are named
        raise type(error)(f"getitem: index {shown(index)}: {error}") from None

    run = engine(x)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        out = array_module(g).zeros_like(x)
        if g.ndim == x.ndim == 4:
            run.copy(g, out[index])
        else:
            out[index] = g
        return (out,)

    return record("slice", y, (input,), pullback)


_LISTED = (list, tuple)


def concat(tensors: Iterable[Tensor], dim: int = 0) -> Tensor:
    """y = [x₁ | … | xₙ] along `dim`;  ∂L/∂xᵢ = the slice of g that xᵢ filled."""
    tensors, arrays = _several("concat", tensors)
    axis = axis_of("concat", dim, arrays[0].ndim)
    others = [(*a.shape[:axis], *a.shape[axis + 1 :]) for a in arrays]
    for i, a in enumerate(arrays):
        if others[i] != others[0]:
            raise ValueError(
                f"concat: tensors[{i}] {a.shape} and tensors[0] {arrays[0].shape} "
                f"differ in more than dim {axis}"
            )
    cuts = list(accumulate((a.shape[axis] for a in arrays), initial=0))
    lead = (slice(None),) * axis

    def pullback(g: Array, need: tuple[bool, ...]) -> list[Array]:
        return [g[(*lead, slice(a, b))] for a, b in pairwise(cuts)]

    y = engine(arrays[0]).concat(arrays, axis)
    return record("concat", y, tensors, pullback)


def stack(tensors: Iterable[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape, side by side along a new axis `dim`;  ∂L/∂xᵢ = g at i."""
    tensors, arrays = _several("stack", tensors)
    axis = axis_of("stack", dim, arrays[0].ndim + 1)
    for i, a in enumerate(arrays):
        if a.shape != arrays[0].shape:
            raise ValueError(
                f"stack: tensors[{i}] {a.shape} and tensors[0] {arrays[0].shape} differ"
            )
    places: list[tuple[Any, ...]] = [
        (*(slice(None),) * axis, i) for i in range(len(arrays))
    ]

    def pullback(g: Array, need: tuple[bool, ...]) -> list[Array]:
        return [g[place] for place in places]

    return record("stack", array_module(*arrays).stack(arrays, axis), tensors, pullback)


def _several(
    op: str, tensors: Iterable[Tensor]
) -> tuple[Sequence[Tensor], list[Array]]:
    """The tensors in a list, and their arrays, of one dtype."""
    given = tensors
    if not isinstance(tensors, _LISTED):  # a generator can be read only once
        tensors = list(tensors) if isinstance(tensors, Iterator) else []
    if not tensors:
        kind = ValueError if isinstance(given, _LISTED) else TypeError
        raise kind(f"{op}: tensors must be a list of some, not {shown(given)}")
    arrays = [array_of(op, t, f"tensors[{i}]") for i, t in enumerate(tensors)]
    if len(arrays) > 1:
        same_dtype(op, ("tensors",), *arrays)
    return tensors, arrays


_SIZES = "split_size_or_sections"


def split(
    tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """Consecutive slices along `dim`, of one size (the last may be smaller) or several.

    ∂L/∂x = each slice's g in its place: one edge per slice; see :func:`getitem`.
    """
    x, given, name = array_of("split", tensor, "tensor"), split_size_or_sections, _SIZES
    axis = axis_of("split", dim, x.ndim)
    length = x.shape[axis]
    if listed(given) is None:
        size = whole("split", given, name, 1)
        starts = range(0, max(length, 1), size)  # of nothing, one empty piece
        sizes = tuple(min(size, length - start) for start in starts)
    else:
        sizes = wholes("split", given, name, 0)
        if sum(sizes) != length:
            raise ValueError(f"split: {name} {shown(given)} must add up to {length}")
    cuts = list(accumulate(sizes, initial=0))
    lead = (slice(None),) * axis
    return tuple(getitem(tensor, (*lead, slice(a, b))) for a, b in pairwise(cuts))
