"""Normalisation, activations, gates and pooling on a GPU: one kernel each way.

What the kernels do not take goes to the plain array code. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.cuda.layout import (
    contiguous,
    from_nhwc,
    from_rows,
    stored,
    takes,
    to_image,
    to_matrix,
    to_rows,
)
from tinyflow.kernels.geometry import Shape, Window
from tinyflow.kernels.table import (
    Engine,
    Moments,
    NormFinish,
    NormGradient,
    NormGradients,
)


class Maps(Engine):
    """The part of :class:`tinyflow.kernels.cuda.engine.CudaEngine` without products."""

    # --- normalisation, activations, gates -------------------------------------------

    def batch_norm(
        self,
        x: Array,
        weight: Array | None,
        bias: Array | None,
        running: tuple[Array | None, Array | None],
        moments: Moments | None,
        *,
        training: bool,
        momentum: float,
        eps: float,
    ) -> NormFinish:
        """Three passes over memory forward, five back; statistics are float32."""
        known = [r for r in running if r is not None]
        if not takes(x) or not x.size or not all(map(_vector, known)):
            options: dict[str, Any] = {
                "training": training,
                "momentum": momentum,
                "eps": eps,
            }
            return super().batch_norm(x, weight, bias, running, moments, **options)
        rows, shape = to_rows(x), x.shape
        affine: dict[str, Any] = {
            "weight": None if weight is None else contiguous(weight),
            "bias": None if bias is None else contiguous(bias),
        }
        if training:
            kept = self._statistics(rows, eps, momentum, running, moments, affine)
        else:
            mean, var = running
            assert mean is not None and var is not None
            kept = launch.batch_norm_affine(mean, var, eps, **affine)

        def finish(residual: Array | None, relu: bool) -> tuple[Array, NormGradient]:
            extra = None if residual is None else to_rows(residual)
            y = launch.batch_norm_apply(
                rows, kept.scale, kept.shift, residual=extra, relu=relu
            )
            output = y if relu and residual is not None else None

            def back(g: Array, wanted: bool) -> NormGradients:
                sent, through, masked = to_rows(g), relu, None
                if output is not None:  # the residual's gradient is written on the way
                    masked = array_module(sent).empty(sent.shape, sent.dtype)
                    through = False
                found = launch.batch_norm_gradients(
                    sent,
                    rows,
                    kept,
                    y=output,
                    relu=through,
                    masked=masked,
                    batch=training,
                )
                sent, dx = sent if masked is None else masked, None
                if wanted:
                    of = sent, rows, kept, found
                    dx = from_rows(
                        launch.batch_norm_input_grad(*of, relu=through), shape
                    )
                return dx, found.weight, found.bias, from_rows(sent, shape)

            return from_rows(y, shape), back

        return finish

    def _statistics(
        self,
        rows: Array,
        eps: float,
        momentum: float,
        running: tuple[Array | None, Array | None],
        moments: Moments | None,
        affine: dict[str, Any],
    ) -> launch.Statistics:
        """Of the batch, measured here or known already; the running ones follow."""
        mean, var = running
        if moments is None:
            return launch.batch_norm_statistics(
                rows,
                eps,
                momentum=momentum,
                running_mean=mean,
                running_var=var,
                **affine,
            )
        return launch.batch_norm_affine(
            *moments(),
            eps,
            count=rows.shape[0],
            momentum=momentum,
            running_mean=mean,
            running_var=var,
            **affine,
        )

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Mean and variance of each channel, float32."""
        if not takes(x) or not x.size:
            return super().moments(x)
        found = launch.batch_norm_statistics(to_rows(x), 0.0)
        return found.mean, found.var

    def moments_into(self, x: Array, mean: Array, var: Array) -> None:
        """Written there by the kernel that finds them."""
        if not takes(x) or not x.size or not _vector(mean) or not _vector(var):
            super().moments_into(x, mean, var)
            return
        launch.batch_norm_statistics(to_rows(x), 0.0, mean=mean, var=var)

    def relu(self, x: Array) -> Array:
        """The maximum of x and 0."""
        if not takes(x) or x.ndim not in (2, 4):
            return super().relu(x)
        return from_rows(launch.relu(to_rows(x)), x.shape)

    def relu_grad(self, g: Array, y: Array) -> Array:
        """The gradient 0 where y ≤ 0, else g."""
        if not takes(g, y) or g.ndim not in (2, 4):
            return super().relu_grad(g, y)
        return from_rows(launch.relu_grad(to_rows(g), to_rows(y)), g.shape)

    def gate(
        self, x: Array, s: Array, residual: Array | None = None, relu: bool = False
    ) -> Array:
        """Product, sum and ReLU in one pass."""
        if not takes(x, s) or not x.size:
            return super().gate(x, s, residual, relu)
        extra = None if residual is None else to_rows(residual)
        y = launch.gate(to_rows(x), to_matrix(s), residual=extra, relu=relu)
        return from_rows(y, x.shape)

    def gate_grad(
        self, g: Array, x: Array, s: Array, y: Array | None, need: Sequence[bool]
    ) -> tuple[Array | None, Array | None, Array]:
        """All gradients in one pass."""
        if not takes(g, x, s) or not x.size:
            return super().gate_grad(g, x, s, y, need)
        rows, output, masked = to_rows(x), None, None
        if y is not None:
            output = to_rows(y)
            masked = array_module(x).empty(rows.shape, x.dtype)
        dx, ds = launch.gate_grad(
            to_rows(g), rows, to_matrix(s), y=output, masked=masked
        )
        sent = g if masked is None else from_rows(masked, x.shape)
        return from_rows(dx, x.shape), ds.reshape(s.shape), sent

    def sigmoid(self, x: Array) -> Array:
        """The sigmoid, computed in float32."""
        if not takes(x) or x.ndim not in (2, 4):
            return _rounded(super().sigmoid, x)
        return from_rows(launch.sigmoid(to_rows(x)), x.shape)

    def sigmoid_grad(self, g: Array, x: Array) -> Array:
        """The gradient g σ(x) (1 - σ(x)), computed in float32."""
        if not takes(g, x) or x.ndim not in (2, 4):
            return _rounded(super().sigmoid_grad, g, x)
        return from_rows(launch.sigmoid(to_rows(x), to_rows(g)), x.shape)

    def silu(self, x: Array) -> Array:
        """Array code; that of bfloat16 in float32, as the others below."""
        return _rounded(super().silu, x)

    def silu_grad(self, g: Array, x: Array) -> Array:
        """See :meth:`Engine.silu_grad`."""
        return _rounded(super().silu_grad, g, x)

    def relu6(self, x: Array) -> Array:
        """See :meth:`Engine.relu6`."""
        return _rounded(super().relu6, x)

    def relu6_grad(self, g: Array, y: Array) -> Array:
        """See :meth:`Engine.relu6_grad`."""
        return _rounded(super().relu6_grad, g, y)

    # --- maps ------------------------------------------------------------------------

    def max_pool2d(self, x: Array, window: Window) -> tuple[Array, Array]:
        """See :func:`tinyflow.kernels.plain.pool.max_pool2d_forward`."""
        if not takes(x) or window.taps > 256:
            return super().max_pool2d(x, window)
        y, taps = launch.max_pool2d(to_image(x), window)
        return from_nhwc(y), from_nhwc(taps)

    def max_pool2d_input_grad(
        self, g: Array, argmax: Array, x_shape: Shape, window: Window
    ) -> Array:
        """See :func:`tinyflow.kernels.plain.pool.max_pool2d_input_grad`."""
        if not takes(g) or argmax.dtype != np.uint8:
            return super().max_pool2d_input_grad(g, argmax, x_shape, window)
        taps, shape = argmax.transpose(0, 2, 3, 1), stored(x_shape)
        return from_nhwc(launch.max_pool2d_input_grad(to_image(g), taps, shape, window))

    def avg_pool2d(
        self,
        x: Array,
        window: Window,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Array:
        """See :func:`tinyflow.kernels.plain.pool.avg_pool2d_forward`."""
        counted = count_include_pad, divisor_override
        if not takes(x):
            return super().avg_pool2d(x, window, *counted)
        return from_nhwc(launch.avg_pool2d(to_image(x), window, *counted))

    def avg_pool2d_input_grad(
        self,
        g: Array,
        x_shape: Shape,
        window: Window,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Array:
        """See :func:`tinyflow.kernels.plain.pool.avg_pool2d_input_grad`."""
        counted = count_include_pad, divisor_override
        if not takes(g):
            return super().avg_pool2d_input_grad(g, x_shape, window, *counted)
        shape = stored(x_shape)
        return from_nhwc(
            launch.avg_pool2d_input_grad(to_image(g), shape, window, *counted)
        )

    def map_mean(self, x: Array) -> Array:
        """The mean (N, C) of each map."""
        if not takes(x) or not x.size:
            return super().map_mean(x)
        return launch.global_avg_pool2d(to_image(x))

    def map_mean_input_grad(self, g: Array, x_shape: Shape) -> Array:
        """Each g, divided, at every pixel of its map."""
        if not takes(g) or not g.size:
            return super().map_mean_input_grad(g, x_shape)
        return from_nhwc(
            launch.global_avg_pool2d_input_grad(contiguous(g), (x_shape[2], x_shape[3]))
        )


def _vector(r: Array) -> bool:
    """Whether a kernel can write statistics where they are."""
    return r.dtype == np.float32 and bool(r.flags.c_contiguous)


def _rounded(function: Callable[..., Array], *arrays: Array) -> Array:
    """Plain array code, of bfloat16 in float32."""
    if arrays[0].dtype.name != "bfloat16":
        return function(*arrays)
    found = function(*(x.astype("float32") for x in arrays))
    return found.astype(arrays[0].dtype)
