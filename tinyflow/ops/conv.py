"""Convolution (cross-correlation, as the field calls it)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tinyflow.backend import Array
from tinyflow.kernels.engine import engine
from tinyflow.kernels.geometry import Border, Conv
from tinyflow.kernels.geometry import Pair as Steps
from tinyflow.ops.arguments import (
    MOST_ENTRIES,
    Pair,
    array_of,
    fits_parameters,
    floats,
    integer,
    listed,
    optional,
    pair,
    shown,
    whole,
)
from tinyflow.ops.shape import one_image
from tinyflow.tape import record
from tinyflow.tensor import Tensor

Padding = str | int | Sequence[int] | Sequence[Sequence[int]]


@one_image
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """y[n,k,i,j] = b[k] + Σ_{c,u,v} w[k,c,u,v] x[n, c, i·s+u·d-p, j·s+v·d-p].

    c runs over the C/groups input channels of k's group; x is zero outside its borders.
    ∂L/∂x scatters w g back to where each x was read, ∂L/∂w[k,c,u,v] = Σ_{n,i,j} g x at
    the places w met, ∂L/∂b[k] = Σ g.

    Args:
        input: (N, C, H, W), or one image (C, H, W).
        weight: (K, C/groups, kh, kw).
        bias: (K,) or None.
        stride, dilation: a number or (h, w).
        padding: a number, (h, w), ((top, bottom), (left, right)), "valid" (none) or
            "same" (output as large as the input; stride 1 only, the odd pixel goes to
            the bottom and right).
        groups: blocks of channels that do not see each other; C for depthwise.

    Returns:
        (N, K, H', W') with H' = ⌊(H + padding - d (kh - 1) - 1) / s⌋ + 1.

    Raises:
        ValueError: shapes or arguments that do not fit together.
        TypeError: arrays of different dtypes.
    """
    x, w = floats("conv2d", input), array_of("conv2d", weight, "weight")
    b = optional("conv2d", bias, "bias")
    ints = type(stride) is type(padding) is type(dilation) is type(groups) is int
    plan = _plan if ints else _plan.__wrapped__
    moves = plan(x.shape, w.shape, stride, padding, dilation, groups)
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"conv2d: bias {b.shape} needs {w.shape[0]} entries")
    fits_parameters("conv2d", ("input", "weight", "bias"), x, w, b)
    run = engine(x)
    w = run.weight(w, x)
    y = run.conv2d(x, w, moves, b)

    def pullback(g: Array, need: tuple[bool, ...]) -> list[Array | None]:
        answer = run.conv2d_grads(g, x, w, moves, need)
        if b is not None:
            answer.append(run.channel_sum(g) if need[2] else None)
        return answer

    inputs = (input, weight) if bias is None else (input, weight, bias)
    return record("conv2d", y, inputs, pullback)


@lru_cache(maxsize=1024)
def _plan(
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Conv:
    """The arguments as an engine takes them, for arrays of these shapes."""
    if len(x) != 4 or len(w) != 4 or 0 in (w[0], *w[2:]):
        raise ValueError(
            "conv2d: input must be (N, C, H, W) and weight (K, C/groups, kh, kw) with "
            f"at least one kernel of one pixel, not {x} and {w}"
        )
    groups = whole("conv2d", groups, "groups", 1)
    if x[1] != w[1] * groups or w[0] % groups:
        raise ValueError(
            f"conv2d: {x[1]} input channels, weight {w} and groups={groups} do not fit "
            "together"
        )
    steps, border, holes = geometry("conv2d", w[2:], stride, padding, dilation)
    for size, k, d, before in zip(x[2:], w[2:], holes, (0, 2), strict=True):
        if size + border[before] + border[before + 1] < d * (k - 1) + 1:
            raise ValueError(
                f"conv2d: a {w[2]}x{w[3]} kernel (dilation {holes}) does not fit into "
                f"{x[2]}x{x[3]} pixels padded by {border}"
            )
    rows, columns = x[2] + border[0] + border[1], x[3] + border[2] + border[3]
    if x[0] * max(x[1], w[0]) * rows * columns > MOST_ENTRIES:
        raise ValueError(f"conv2d: padding {border} would make {rows}x{columns} pixels")
    return Conv(steps, border, holes, groups)


def geometry(
    op: str, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any
) -> tuple[Steps, Border, Steps]:
    """Stride, (top, bottom, left, right) padding in pixels, and dilation."""
    steps, holes = pair(op, stride, "stride", 1), pair(op, dilation, "dilation", 1)
    if type(padding) is int:  # nearly always
        p, _ = pair(op, padding, "padding", 0)
        return steps, (p, p, p, p), holes
    if isinstance(padding, str) and padding == "valid":
        return steps, (0, 0, 0, 0), holes
    if isinstance(padding, str) and padding == "same":
        if steps != (1, 1):
            raise ValueError(f'{op}: padding="same" needs stride 1, not {steps}')
        h, w = (d * (k - 1) for k, d in zip(kernel, holes, strict=True))
        return steps, (h // 2, h - h // 2, w // 2, w - w // 2), holes
    sides = listed(padding)
    if sides is not None and len(sides) == 1 and integer(sides[0]) is not None:
        sides = [*sides, *sides]
    if isinstance(padding, str) or (sides is not None and len(sides) != 2):
        raise ValueError(
            f'{op}: padding must be "same", "valid", or integers of 0 or more for '
            f"height and width, not {shown(padding)}"
        )
    rows, columns = [padding] * 2 if sides is None else sides
    top, bottom = pair(op, rows, "padding", 0)
    return steps, (top, bottom, *pair(op, columns, "padding", 0)), holes
