"""Sums, means and maxima over axes (`dim` in PyTorch's sense; None means all)."""

from __future__ import annotations

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.tape import record
from tinyflow.tensor import Tensor

Dim = int | tuple[int, ...] | None


def _axes(dim: Dim, ndim: int) -> tuple[int, ...]:
    if dim is None:
        return tuple(range(ndim))
    dims = (dim,) if isinstance(dim, int) else dim
    for d in dims:
        if not -ndim <= d < ndim:
            raise ValueError(f"dim {d} is out of range for a tensor of {ndim} axes")
    return tuple(d % ndim for d in dims)


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` with the reduced axes kept as 1, ready to broadcast back."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _spread(g: Array, kept: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """`g` repeated along the reduced axes, without a copy."""
    result: Array = array_module(g).broadcast_to(g.reshape(kept), shape)
    return result


def sum(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Y = Σ x over `dim`;  ∂L/∂x = g, repeated along `dim`."""
    x = input.data
    axes = _axes(dim, x.ndim)
    kept = _kept(x.shape, axes)
    return record(
        "sum",
        x.sum(axis=axes, keepdims=keepdim),
        (input,),
        lambda g, need: (_spread(g, kept, x.shape),),
    )


def mean(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Y = Σ x / m over the m entries along `dim`;  ∂L/∂x = g / m, repeated."""
    x = input.data
    axes = _axes(dim, x.ndim)
    kept = _kept(x.shape, axes)
    if axes == (2, 3) and x.ndim == 4:
        run, shape = engine(x), x.shape
        y = run.map_mean(x).reshape(*shape[:2], *((1, 1) if keepdim else ()))
        return record(
            "mean",
            y,
            (input,),
            lambda g, need: (run.map_mean_input_grad(g.reshape(shape[:2]), shape),),
        )
    y = x.mean(axis=axes, keepdims=keepdim)
    m = max(x.size // max(y.size, 1), 1)
    return record("mean", y, (input,), lambda g, need: (_spread(g / m, kept, x.shape),))


def amax(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Y = max x over `dim`;  ∂L/∂x = g shared equally among the maxima."""
    x = input.data
    axes = _axes(dim, x.ndim)
    y = x.max(axis=axes, keepdims=True)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        hit = (x == y).astype(x.dtype)
        return (hit * (g.reshape(y.shape) / hit.sum(axis=axes, keepdims=True)),)

    out = (
        y if keepdim else y.reshape([n for i, n in enumerate(x.shape) if i not in axes])
    )
    return record("amax", out, (input,), pullback)
