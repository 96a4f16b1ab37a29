"""Pooling: the maximum or the average over windows, or over the whole map."""

from __future__ import annotations

from typing import Any

from tinyflow.backend import Array
from tinyflow.kernels.engine import engine
from tinyflow.kernels.geometry import Window
from tinyflow.ops.arguments import LARGEST, Pair, flag, floats, pair, whole
from tinyflow.ops.reduce import mean
from tinyflow.ops.shape import one_image
from tinyflow.tape import record
from tinyflow.tensor import Tensor


def windows(
    op: str, kernel_size: Any, stride: Any, padding: Any
) -> tuple[tuple[int, int], ...]:
    """Checked (kernel, stride, padding) pairs."""
    kernel = pair(op, kernel_size, "kernel_size", 1)
    steps = kernel if stride is None else pair(op, stride, "stride", 1)
    border = pair(op, padding, "padding", 0)
    if border[0] > kernel[0] // 2 or border[1] > kernel[1] // 2:
        raise ValueError(f"{op}: padding {border} exceeds half the kernel {kernel}")
    return kernel, steps, border


def divisor(op: str, given: Any) -> int | None:
    """Checked: what a window's sum is divided by, or None for its size."""
    if given is None:
        return None
    d = whole(op, given, "divisor_override", -LARGEST)
    if d == 0:
        raise ValueError(f"{op}: divisor_override must not be zero")
    return d


def _windows(
    op: str,
    x: Array,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any = 1,
    ceil_mode: Any = False,
) -> Window:
    """The windows, checked."""
    if x.ndim != 4:
        raise ValueError(f"{op}: input must be (N, C, H, W), not {x.shape}")
    kernel, steps, border = windows(op, kernel_size, stride, padding)
    holes = pair(op, dilation, "dilation", 1)
    ceil_mode = flag(op, ceil_mode, "ceil_mode")
    for size, k, s, p, d in zip(x.shape[2:], kernel, steps, border, holes, strict=True):
        over = s - 1 if ceil_mode else 0  # how far the only window may stick out
        if size + 2 * p + over < d * (k - 1) + 1:
            raise ValueError(
                f"{op}: a {kernel} window (dilation {holes}) does not fit into "
                f"{x.shape[2]}x{x.shape[3]} pixels padded by {border}"
            )
    sides = (border[0], border[0], border[1], border[1])
    return Window(kernel, steps, sides, holes, ceil_mode)


@one_image
def max_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """y = max over each window;  ∂L/∂x = g at the first maximum of each window.

    Args:
        input: (N, C, H, W), or one image (C, H, W).
        kernel_size, stride, padding, dilation: a number or (h, w); the stride is the
            kernel size by default. The border never wins.
        ceil_mode: round the output size up instead of down.

    Raises:
        ValueError: the window does not fit, or some window lies wholly in the border.
    """
    x = floats("max_pool2d", input)
    window = _windows(
        "max_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode
    )
    kernel, _, border, holes, _ = window
    for size, k, p, d in zip(x.shape[2:], kernel, border[::2], holes, strict=True):
        # Only a dilated window can step over a map narrower than its holes.
        if d > 1 and not any(0 <= u * d - p < size for u in range(k)):
            raise ValueError(
                f"max_pool2d: with dilation {holes} a {kernel} window lies wholly in "
                f"the border of {x.shape[2]}x{x.shape[3]} pixels"
            )
    run, shape = engine(x), x.shape
    y, argmax = run.max_pool2d(x, window)

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (run.max_pool2d_input_grad(g, argmax, shape, window),)

    return record("max_pool2d", y, (input,), pullback)


@one_image
def avg_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """y = Σ window / D;  ∂L/∂x = Σ g / D over the windows that saw x.

    D is the window's size with the border counted (`count_include_pad`) or not, or
    `divisor_override`.
    """
    x = floats("avg_pool2d", input)
    count_include_pad = flag("avg_pool2d", count_include_pad, "count_include_pad")
    window = _windows(
        "avg_pool2d", x, kernel_size, stride, padding, ceil_mode=ceil_mode
    )
    counted = count_include_pad, divisor("avg_pool2d", divisor_override)
    run, shape = engine(x), x.shape

    def pullback(g: Array, need: tuple[bool, ...]) -> tuple[Array]:
        return (run.avg_pool2d_input_grad(g, shape, window, *counted),)

    y = run.avg_pool2d(x, window, *counted)
    return record("avg_pool2d", y, (input,), pullback)


@one_image
def global_avg_pool2d(input: Tensor) -> Tensor:
    """y[n,c] = Σ_{h,w} x / (H W), shape (N, C);  ∂L/∂x = g / (H W) everywhere."""
    x = floats("global_avg_pool2d", input)
    if x.ndim != 4:
        raise ValueError(
            f"global_avg_pool2d: input must be (N, C, H, W), not {x.shape}"
        )
    return mean(input, dim=(2, 3))
