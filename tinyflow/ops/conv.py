"""Convolution (cross-correlation, as the field calls it)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tinyflow.backend import Array
from tinyflow.kernels.engine import How, engine
from tinyflow.ops.elementwise import fits_parameters
from tinyflow.tape import record
from tinyflow.tensor import Tensor, value

Pair = int | Sequence[int]
Padding = str | int | Sequence[int] | Sequence[Sequence[int]]


def pair(argument: Pair, name: str, least: int) -> tuple[int, int]:
    """An (h, w) pair from a number or two, each at least `least`."""
    if type(argument) is int and argument >= least:  # nearly always
        return argument, argument
    two = (argument, argument) if isinstance(argument, int) else tuple(argument)
    if len(two) != 2 or any(n < least or n != int(n) for n in two):
        raise ValueError(f"{name} must be one or two integers >= {least}: {argument}")
    return int(two[0]), int(two[1])


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
        input: (N, C, H, W).
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
    x, w, b = input.data, weight.data, value(bias)
    plan = _plan if type(padding) is type(stride) is int else _plan.__wrapped__
    how = plan(x.shape, w.shape, stride, padding, dilation, groups)
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"conv2d: bias {b.shape} needs {w.shape[0]} entries")
    fits_parameters("conv2d", x, w, b)
    run = engine(x)
    w = run.weight(w, x)
    y = run.conv2d(x, w, how, b)

    def pullback(g: Array, need: tuple[bool, ...]) -> list[Array | None]:
        answer = engine(g).conv2d_grads(g, x, w, how, need)
        if b is not None:
            answer.append(engine(g).channel_sum(g) if need[2] else None)
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
) -> How:
    """The arguments as an engine takes them, for arrays of these shapes."""
    if len(x) != 4 or len(w) != 4:
        raise ValueError(
            f"conv2d needs (N, C, H, W) input and (K, C/groups, kh, kw) weight, got "
            f"{x} and {w}"
        )
    if groups < 1 or x[1] != w[1] * groups or w[0] % groups:
        raise ValueError(
            f"conv2d: {x[1]} input channels, weight {w} and groups={groups} do not fit "
            "together"
        )
    steps, holes = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    border = _border(padding, w[2:], steps, holes)
    for size, k, d, before in zip(x[2:], w[2:], holes, (0, 2), strict=True):
        if size + border[before] + border[before + 1] < d * (k - 1) + 1:
            raise ValueError(
                f"conv2d: a {w[2]}x{w[3]} kernel (dilation {holes}) does not fit into "
                f"{x[2]}x{x[3]} pixels padded by {border}"
            )
    return steps, border, holes, groups


def _border(
    padding: Padding,
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) in pixels."""
    if type(padding) is int and padding >= 0:  # nearly always
        return padding, padding, padding, padding
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if stride != (1, 1):
            raise ValueError('padding="same" needs stride 1')
        h, w = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return h // 2, h - h // 2, w // 2, w - w // 2
    if isinstance(padding, str):
        raise ValueError(f'padding must be numbers, "same" or "valid", not {padding!r}')
    sides: Any = (padding, padding) if isinstance(padding, int) else tuple(padding)
    if len(sides) != 2:
        raise ValueError(f"padding must be for height and width, not {padding}")
    (top, bottom), (left, right) = (pair(side, "padding", 0) for side in sides)
    return top, bottom, left, right
