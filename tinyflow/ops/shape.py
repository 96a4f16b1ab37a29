"""Moving entries about: reshape, permute, pad, slice, concat, split. No arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.tape import record
from tinyflow.tensor import Tensor


def _axis(dim: int, ndim: int) -> int:
    if not -ndim <= dim < ndim:
        raise ValueError(f"dim {dim} is out of range for a tensor of {ndim} axes")
    return dim % ndim


def reshape(input: Tensor, shape: Sequence[int]) -> Tensor:
    """Y = x with another shape, same entries in the same (row-major) order.

    ∂L/∂x = g in the old shape.
    """
    old = input.shape
    return record(
        "reshape",
        input.data.reshape(tuple(shape)),
        (input,),
        lambda g, need: (g.reshape(old),),
    )


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes `start_dim` … `end_dim` merged into one; see :func:`reshape`."""
    first, last = _axis(start_dim, input.ndim), _axis(end_dim, input.ndim)
    if first > last:
        raise ValueError(f"flatten: start_dim {first} comes after end_dim {last}")
    merged = math.prod(input.shape[first : last + 1])
    return reshape(input, (*input.shape[:first], merged, *input.shape[last + 1 :]))


def permute(input: Tensor, dims: Sequence[int]) -> Tensor:
    """Y = x with its axes in the order `dims`;  ∂L/∂x = g with the order undone."""
    order = [_axis(d, input.ndim) for d in dims]
    undo = [order.index(i) for i in range(len(order))]
    return record(
        "permute",
        input.data.transpose(order),
        (input,),
        lambda g, need: (g.transpose(undo),),
    )


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Axes `dim0` and `dim1` swapped; see :func:`permute`."""
    order = list(range(input.ndim))
    a, b = _axis(dim0, input.ndim), _axis(dim1, input.ndim)
    order[a], order[b] = b, a
    return permute(input, order)


def pad(input: Tensor, pad: Sequence[int], value: float = 0.0) -> Tensor:
    """A border of `value` around x;  ∂L/∂x = g without the border.

    Args:
        input: any tensor.
        pad: PyTorch's order, last axis first: (left, right, top, bottom, …).
        value: what the border holds.
    """
    if len(pad) % 2 or len(pad) > 2 * input.ndim or min(pad, default=0) < 0:
        raise ValueError(
            f"pad must be non-negative (before, after) pairs, last axis first, for at "
            f"most {input.ndim} axes; got {tuple(pad)}"
        )
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)][::-1]
    widths = [(0, 0)] * (input.ndim - len(pairs)) + pairs
    inside = tuple(
        slice(before, before + n)
        for (before, _), n in zip(widths, input.shape, strict=True)
    )
    x = input.data
    shape = [n + sum(w) for n, w in zip(x.shape, widths, strict=True)]
    y = array_module(x).full_like(x, value, shape=shape)  # in x's memory order
    engine(x).copy(x, y[inside])
    return record("pad", y, (input,), lambda g, need: (g[inside],))


def getitem(input: Tensor, index: Any) -> Tensor:
    """Y = x[index] for integers, slices, None and Ellipsis.

    ∂L/∂x = g at `index`, 0 elsewhere.
    """
    for p in index if isinstance(index, tuple) else (index,):
        plain = p is None or p is ... or isinstance(p, int | np.integer | slice)
        if not plain or isinstance(p, bool):
            raise TypeError(
                "a tensor is indexed by integers, slices, None and ... only"
            )
    x = input.data

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        out = array_module(g).zeros_like(x)
        if g.ndim == x.ndim == 4:
            engine(g).copy(g, out[index])
        else:
            out[index] = g
        return (out,)

    return record("slice", x[index], (input,), pullback)


def concat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Y = [x₁ | … | xₙ] along `dim`;  ∂L/∂xᵢ = the slice of g that xᵢ filled."""
    arrays = [t.data for t in tensors]
    if not arrays:
        raise ValueError("concat needs at least one tensor")
    axis = _axis(dim, arrays[0].ndim)
    dtypes = {str(a.dtype) for a in arrays}
    if len(dtypes) > 1:
        raise TypeError(f"concat got {', '.join(sorted(dtypes))}; convert to one dtype")
    cuts = list(accumulate((a.shape[axis] for a in arrays), initial=0))
    lead = (slice(None),) * axis

    def pullback(g: Array, need: tuple[bool, ...]) -> list[Array]:
        return [g[(*lead, slice(a, b))] for a, b in pairwise(cuts)]

    y = engine(arrays[0]).concat(arrays, axis)
    return record("concat", y, tensors, pullback)


def split(
    tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """Consecutive slices along `dim`, of one size (the last may be smaller) or several.

    ∂L/∂x = each slice's g in its place: one edge per slice; see :func:`getitem`.
    """
    axis = _axis(dim, tensor.ndim)
    length = tensor.shape[axis]
    if isinstance(split_size_or_sections, int):
        if split_size_or_sections < 1:
            raise ValueError("split needs a positive size")
        sizes = [
            min(split_size_or_sections, length - start)
            for start in range(0, length, split_size_or_sections)
        ]
    else:
        sizes = list(split_size_or_sections)
        if sum(sizes) != length or min(sizes, default=0) < 0:
            raise ValueError(
                f"split sizes {sizes} must be non-negative and add up to {length}"
            )
    cuts = list(accumulate(sizes, initial=0))
    lead = (slice(None),) * axis
    return tuple(getitem(tensor, (*lead, slice(a, b))) for a, b in pairwise(cuts))
