"""Pooling layers."""

from __future__ import annotations

from tinyflow import ops
from tinyflow.module import Module
from tinyflow.ops.adaptive import Size, size_of
from tinyflow.ops.arguments import Pair, flag, pair
from tinyflow.ops.pool import divisor, windows
from tinyflow.tensor import Tensor


class MaxPool2d(Module):
    """Maximum over windows, see :func:`tinyflow.ops.max_pool2d`."""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        dilation: Pair = 1,
        ceil_mode: bool = False,
    ) -> None:
        op = type(self).__name__
        windows(op, kernel_size, stride, padding)
        pair(op, dilation, "dilation", 1)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.ceil_mode = dilation, flag(op, ceil_mode, "ceil_mode")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H', W')."""
        return ops.max_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
        )


class AvgPool2d(Module):
    """Average over windows, see :func:`tinyflow.ops.avg_pool2d`."""

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        op = type(self).__name__
        windows(op, kernel_size, stride, padding)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode = flag(op, ceil_mode, "ceil_mode")
        self.count_include_pad = flag(op, count_include_pad, "count_include_pad")
        self.divisor_override = divisor(op, divisor_override)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H', W')."""
        return ops.avg_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class GlobalAvgPool2d(Module):
    """Average of each map: (N, C, H, W) → (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """See :func:`tinyflow.ops.global_avg_pool2d`."""
        return ops.global_avg_pool2d(x)


class AdaptiveAvgPool2d(Module):
    """Average over regions, see :func:`tinyflow.ops.adaptive_avg_pool2d`."""

    def __init__(self, output_size: Size) -> None:
        self.output_size = size_of(type(self).__name__, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, h, w)."""
        return ops.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveMaxPool2d(Module):
    """Maximum over regions, see :func:`tinyflow.ops.adaptive_max_pool2d`."""

    def __init__(self, output_size: Size) -> None:
        self.output_size = size_of(type(self).__name__, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, h, w)."""
        return ops.adaptive_max_pool2d(x, self.output_size)
