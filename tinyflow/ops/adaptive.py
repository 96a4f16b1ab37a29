"""Pooling into as many regions as are asked for, whatever the size of the map.

Region i of O along an axis of n pixels is ⌊i n / O⌋ … ⌈(i + 1) n / O⌉ - 1. Where O
divides n they are windows side by side, and :mod:`tinyflow.ops.pool` does it; else
they differ by a pixel and may share some, and each is pooled by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.kernels.geometry import Window
from tinyflow.kernels.table import Back, Engine
from tinyflow.ops.arguments import floats, listed, pair, whole
from tinyflow.ops.pool import avg_pool2d, max_pool2d
from tinyflow.ops.shape import one_image
from tinyflow.tape import record
from tinyflow.tensor import Tensor

Size = int | Sequence[int | None]
"""Of an output: a number for both axes or (h, w); None in it keeps the input's."""

Pool: TypeAlias = Callable[[Engine, Array], tuple[Array, Back]]
"""(engine, a region) to its one pixel, and how a gradient comes back."""


@one_image
def adaptive_avg_pool2d(input: Tensor, output_size: Size) -> Tensor:
    """y[n,c,i,j] = mean of x[n,c] over region (i, j).

    ∂L/∂x = Σ g / (the region's pixels) over the regions that x is in.

    Args:
        input: (N, C, H, W), or one image (C, H, W).
        output_size: O for (N, C, O, O), or (h, w); None in it keeps the input's size.

    Raises:
        ValueError: the input has no pixels, or a size is less than 1.
    """
    return _pooled("adaptive_avg_pool2d", input, output_size, avg_pool2d, _average)


@one_image
def adaptive_max_pool2d(input: Tensor, output_size: Size) -> Tensor:
    """y[n,c,i,j] = maximum of x[n,c] over region (i, j).

    ∂L/∂x = Σ g over the regions whose first maximum x is. Arguments and errors are
    those of :func:`adaptive_avg_pool2d`.
    """
    return _pooled("adaptive_max_pool2d", input, output_size, max_pool2d, _maximum)


def size_of(op: str, output_size: Any) -> tuple[int | None, ...]:
    """The output's height and width, checked."""
    sizes = listed(output_size)
    if sizes is None or len(sizes) != 2:
        return pair(op, output_size, "output_size", 1)
    return tuple(None if n is None else whole(op, n, "output_size", 1) for n in sizes)


def _pooled(
    op: str, input: Tensor, output_size: Any, windows: Callable[..., Tensor], pool: Pool
) -> Tensor:
    x = floats(op, input)
    if x.ndim != 4 or 0 in x.shape[2:]:
        raise ValueError(f"{op}: input must be (N, C, H, W) with pixels, not {x.shape}")
    n, c, *size = x.shape
    out = [o or s for o, s in zip(size_of(op, output_size), size, strict=True)]
    if size[0] % out[0] == size[1] % out[1] == 0:
        return windows(input, (size[0] // out[0], size[1] // out[1]))
    run = engine(x)
    y = run.empty((n, c, *out), x)
    backs = []
    for i, rows in enumerate(_regions(size[0], out[0])):
        for j, columns in enumerate(_regions(size[1], out[1])):
            value, back = pool(run, x[:, :, rows, columns])
            y[:, :, i, j] = value[:, :, 0, 0]
            backs.append((i, j, rows, columns, back))

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        dx = array_module(g).zeros_like(x)
        for i, j, rows, columns, back in backs:
            dx[:, :, rows, columns] += back(g[:, :, i : i + 1, j : j + 1])
        return (dx,)

    return record(op, y, (input,), pullback)


def _regions(n: int, out: int) -> list[slice]:
    return [slice(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]


def _average(run: Engine, x: Array) -> tuple[Array, Back]:
    shape, window = x.shape, Window(x.shape[2:], x.shape[2:])
    return (
        run.avg_pool2d(x, window, True, None),
        lambda g: run.avg_pool2d_input_grad(g, shape, window, True, None),
    )


def _maximum(run: Engine, x: Array) -> tuple[Array, Back]:
    shape, window = x.shape, Window(x.shape[2:], x.shape[2:])
    y, argmax = run.max_pool2d(x, window)
    return y, lambda g: run.max_pool2d_input_grad(g, argmax, shape, window)
