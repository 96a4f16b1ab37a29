"""Sums, means, variances, maxima over axes (`dim` is PyTorch's; None means all)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.kernels.plain.mask import kept
from tinyflow.ops.arguments import array_of, axes_of, flag, floats, number
from tinyflow.sums import total
from tinyflow.tape import record
from tinyflow.tensor import Tensor

Dim = int | Sequence[int] | None


def _axes(op: str, dim: Any, shape: tuple[int, ...], fill: bool) -> tuple[int, ...]:
    """The axes of `dim`, all for None and (); with `fill` they must hold entries."""
    found = () if dim is None else axes_of(op, dim, len(shape))
    found = found or tuple(range(len(shape)))
    if fill and 0 in shape and 0 in [shape[i] for i in found]:
        raise ValueError(f"{op}: input {shape} has no entries along dim {dim}")
    return found


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` with the reduced axes kept as 1, ready to broadcast back."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _spread(g: Array, kept: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """`g` repeated along the reduced axes, without a copy."""
    result: Array = array_module(g).broadcast_to(g.reshape(kept), shape)
    return result


def sum(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """y = Σ x over `dim`;  ∂L/∂x = g, repeated along `dim`."""
    x, keepdim = array_of("sum", input), flag("sum", keepdim, "keepdim")
    axes = _axes("sum", dim, x.shape, fill=False)
    ones = _kept(x.shape, axes)
    return record(
        "sum",
        total(x, axes, keepdim),
        (input,),
        lambda g, need: (_spread(g, ones, x.shape),),
    )


def mean(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """y = Σ x / m over the m entries along `dim`;  ∂L/∂x = g / m, repeated."""
    x, keepdim = floats("mean", input), flag("mean", keepdim, "keepdim")
    axes = _axes("mean", dim, x.shape, fill=True)
    ones = _kept(x.shape, axes)
    if axes == (2, 3) and x.ndim == 4:
        run, shape = engine(x), x.shape
        y = run.map_mean(x).reshape(*shape[:2], *((1, 1) if keepdim else ()))
        return record(
            "mean",
            y,
            (input,),
            lambda g, need: (run.map_mean_input_grad(g.reshape(shape[:2]), shape),),
        )
    m = math.prod(x.shape[i] for i in axes)
    y = total(x, axes, keepdim) / m
    return record("mean", y, (input,), lambda g, need: (_spread(g / m, ones, x.shape),))


def var(
    input: Tensor, dim: Dim = None, *, correction: float = 1, keepdim: bool = False
) -> Tensor:
    """y = Σ (x - μ)² / (m - c) over the m entries along `dim`, μ being their mean.

    ∂L/∂x = 2 g (x - μ) / (m - c), g repeated along `dim`.

    Args:
        input: any tensor.
        dim: an axis, several, or None for all.
        correction: c; 1 is unbiased, 0 the variance of these very entries.
        keepdim: keep the reduced axes as 1.

    Raises:
        ValueError: there are no more than c entries.
    """
    x, keepdim = floats("var", input), flag("var", keepdim, "keepdim")
    c = number("var", correction, "correction", 0)
    axes = _axes("var", dim, x.shape, fill=True)
    m = math.prod(x.shape[i] for i in axes)
    if m <= c:
        raise ValueError(
            f"var: correction {c} leaves nothing of the {m} entries of input {x.shape} "
            f"along dim {dim}"
        )
    off = x - total(x, axes, True) / m
    ones = _kept(x.shape, axes)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (off * (g * (2 / (m - c))).reshape(ones),)

    return record("var", total(off * off, axes, keepdim) / (m - c), (input,), pullback)


def amax(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """y = max x over `dim`;  ∂L/∂x = g shared equally among the maxima, else 0.

    A NaN is the maximum, and leaves no gradient to share: all of them are NaN.
    """
    x, keepdim = array_of("amax", input), flag("amax", keepdim, "keepdim")
    axes = _axes("amax", dim, x.shape, fill=True)
    y = x.max(axis=axes, keepdims=True)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        hit = ~(x < y)
        count = hit.sum(axis=axes, keepdims=True).astype(x.dtype)
        share = array_module(g).where(y == y, g.reshape(y.shape) / count, y)
        return (kept(_spread(share, y.shape, x.shape), hit),)

    out = (
        y if keepdim else y.reshape([n for i, n in enumerate(x.shape) if i not in axes])
    )
    return record("amax", out, (input,), pullback)
