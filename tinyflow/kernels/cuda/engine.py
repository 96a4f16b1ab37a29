"""The engine of a GPU: images stored channels last, one kernel instead of several.

It takes float32 and bfloat16; whatever else it is given it hands to the plain array
code. Precision is as :mod:`tinyflow.kernels.cuda.settings` says. Nothing here waits for
the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.cuda.aside import Aside
from tinyflow.kernels.cuda.conv import Convolutions
from tinyflow.kernels.cuda.cudnn import Cudnn, Device
from tinyflow.kernels.cuda.layout import (
    contiguous,
    empty_alike,
    from_nhwc,
    from_rows,
    same_memory,
    stored,
    takes,
    to_matrix,
    to_nhwc,
    to_rows,
)
from tinyflow.kernels.cuda.maps import Maps
from tinyflow.kernels.cuda.plain import Plain
from tinyflow.kernels.cuda.product import product
from tinyflow.kernels.cuda.update import Updates
from tinyflow.kernels.geometry import Conv, Shape
from tinyflow.kernels.table import Back, Entry, Options


class CudaEngine(Maps):
    """The kernels of this folder.

    Args:
        device: the GPU.
        convolutions: the table of convolution engines.

    Attributes:
        step: how often the step has been replayed, on the device: what makes dropout
            draw new numbers in a captured step.
        updates: what the optimisers keep on the device.
        aside: the second stream of a captured step.
    """

    name = "cuda"
    shares = False
    mixed = True

    def __init__(self, device: Device, convolutions: Convolutions) -> None:
        self.device, self.convolutions = device, convolutions
        self.updates, self.aside = Updates(device), Aside(device)
        self._step: Array | None = None
        self._counted: tuple[Array, Array, Array] | None = None

    # --- memory ----------------------------------------------------------------------

    def store(self, x: Array) -> Array:
        """Images and kernels channels last, everything else C-ordered."""
        if x.ndim == 4:
            return from_nhwc(to_nhwc(x))
        stored: Array = array_module(x).ascontiguousarray(x)
        return stored

    def weight(self, w: Array, x: Array) -> Array:
        """A float32 parameter as bfloat16 where the values are.

        What a captured step reads is a copy that the optimiser's kernel writes.
        """
        if w.dtype == x.dtype:
            return w
        recording = self.updates.recording
        kept = None if recording is None else recording.copies.of(w)
        return self.aside.also(w, w.astype(x.dtype) if kept is None else kept)

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """The sum a + b, on the buffers; a new one lies as a does.

        So the gradients of all maps of a dense block are slices of equally wide pixels,
        and its convolutions need one plan, not one for each map.
        """
        self.aside.touched(a, b)
        if not takes(a, b) or a.shape != b.shape or a.ndim not in (2, 4):
            return super().add(a, b, out)
        if out is None:
            rows = to_rows(a)
            new = launch.add(rows, to_rows(b), out=empty_alike(rows))
            return from_rows(new, a.shape)
        rows = to_rows(out)
        if not same_memory(rows, out):  # its rows are a copy: no kernel can write them
            return super().add(a, b, out)
        launch.add(to_rows(a), to_rows(b), out=rows)
        return out

    def empty(self, shape: Shape, like: Array) -> Array:
        """A new array; images and kernels channels last."""
        xp = array_module(like)
        if len(shape) == 4:
            return from_nhwc(xp.empty(stored(shape), like.dtype))
        new: Array = xp.empty(shape, like.dtype)
        return new

    def copy(self, x: Array, target: Array) -> None:
        """Write x to `target`, on the buffers."""
        if not takes(x, target) or x.ndim not in (2, 4):
            super().copy(x, target)
            return
        rows = to_rows(target)
        if same_memory(rows, target):
            launch.combine(to_rows(x), out=rows)
        elif x.ndim == 4:  # in the order in which it lies
            target.transpose(0, 2, 3, 1)[...] = x.transpose(0, 2, 3, 1)
        else:
            super().copy(x, target)

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """Along the channels of images, on the buffers."""
        if axis != 1 or arrays[0].ndim != 4:
            return super().concat(arrays, axis)
        parts = [x.transpose(0, 2, 3, 1) for x in arrays]
        return from_nhwc(array_module(*arrays).concatenate(parts, axis=3))

    # --- convolution and products ----------------------------------------------------

    def conv2d(
        self, x: Array, w: Array, geometry: Conv, bias: Array | None = None
    ) -> Array:
        """See :class:`Convolutions`; plus one bias a channel."""
        if not takes(x, w):
            return super().conv2d(x, w, geometry, bias)
        y = self.convolutions.forward(x, w, geometry)
        if bias is not None:
            rows = to_rows(y)
            launch.bias_add(rows, contiguous(bias), out=rows)
        return y

    def conv2d_input_grad(
        self, g: Array, w: Array, x_shape: Shape, geometry: Conv
    ) -> Array:
        """See :class:`Convolutions`."""
        if not takes(g, w):
            return super().conv2d_input_grad(g, w, x_shape, geometry)
        return self.convolutions.input_grad(g, w, x_shape, geometry)

    def conv2d_weight_grad(
        self, g: Array, x: Array, w_shape: Shape, geometry: Conv
    ) -> Array:
        """See :class:`Convolutions`; float32, as parameters are."""
        if not takes(g, x):
            return super().conv2d_weight_grad(g, x, w_shape, geometry)
        return _master(self.convolutions.weight_grad(g, x, w_shape, geometry))

    def conv2d_grads(
        self, g: Array, x: Array, w: Array, geometry: Conv, need: Sequence[bool]
    ) -> list[Array | None]:
        """The weight's first: in a captured step the input's need not wait for it."""
        dw = None
        if need[1]:
            work = partial(self.conv2d_weight_grad, g, x, w.shape, geometry)
            dw = self.aside.run(w, work, g, x)
        return [
            self.conv2d_input_grad(g, w, x.shape, geometry) if need[0] else None,
            dw,
        ]

    def linear(self, x: Array, w: Array) -> Array:
        """A 1x1 convolution of images of one pixel."""
        if not takes(x, w):
            return super().linear(x, w)
        return to_matrix(self.convolutions.forward(_pixels(x), _pixels(w), _ONE))

    def linear_input_grad(self, g: Array, w: Array) -> Array:
        """Of the same 1x1 convolution."""
        if not takes(g, w):
            return super().linear_input_grad(g, w)
        shape = (g.shape[0], w.shape[1], 1, 1)
        grad = self.convolutions.input_grad
        return to_matrix(grad(_pixels(g), _pixels(w), shape, _ONE))

    def linear_weight_grad(self, g: Array, x: Array) -> Array:
        """Of the same 1x1 convolution; float32, as parameters are."""
        if not takes(g, x):
            return super().linear_weight_grad(g, x)
        shape = (g.shape[1], x.shape[1], 1, 1)
        grad = self.convolutions.weight_grad
        return _master(to_matrix(grad(_pixels(g), _pixels(x), shape, _ONE)))

    def bias_add(self, y: Array, b: Array) -> Array:
        """The sum y + b of a matrix and float32 biases."""
        if not takes(y) or b.dtype != np.float32:
            return super().bias_add(y, b)
        return from_rows(launch.bias_add(to_rows(y), contiguous(b)), y.shape)

    def row_sum(self, g: Array) -> Array:
        """Sums in a fixed order, float32."""
        if not takes(g) or not g.size:
            return super().row_sum(g)
        return launch.bias_grad(to_rows(g))

    def channel_sum(self, g: Array) -> Array:
        """The same over the pixels of images."""
        if not takes(g) or not g.size:
            return super().channel_sum(g)
        return launch.bias_grad(to_rows(g))

    # --- loss, dropout, optimisers ---------------------------------------------------

    def cross_entropy(
        self, x: Array, t: Array, reduction: str, label_smoothing: float
    ) -> tuple[Array, Back]:
        """The loss in float32; its gradient in the dtype of the logits."""
        if not takes(x) or t.dtype not in (np.int64, np.int32):
            return super().cross_entropy(x, t, reduction, label_smoothing)
        logits, labels = contiguous(x), contiguous(t)
        found = launch.cross_entropy(logits, labels, reduction, label_smoothing)
        self._counted = (x, t, found.correct)

        def back(g: Array) -> Array:
            return launch.cross_entropy_input_grad(
                logits, labels, found, reduction, label_smoothing, contiguous(g)
            )

        return (found.losses if reduction == "none" else found.loss), back

    def hits(self, logits: Array, labels: Array) -> Array:
        """As in plain code, in float32; known already if the loss was of these."""
        if self._counted is not None:
            x, t, correct = self._counted
            if x is logits and t is labels:
                return correct
        return super().hits(logits.astype("float32"), labels)

    def dropout(self, x: Array, p: float, generator: Any) -> tuple[Array, Back]:
        """A mask that is a function of a seed, drawn by the host, and of `step`."""
        if not takes(x) or x.ndim not in (2, 4):
            return super().dropout(x, p, generator)
        seed = int(generator.integers(1 << 63))
        step, shape = self.step(x), x.shape

        def masked(values: Array) -> Array:
            rows = contiguous(to_rows(values))
            return from_rows(launch.dropout(rows, p, seed, step), shape)

        return masked(x), masked

    def step(self, like: Array) -> Array:
        """The count of replayed steps, uint32 (1,), on the device of `like`."""
        if self._step is None:
            self._step = array_module(like).zeros(1, np.uint32)
        return self._step

    def advance(self, like: Array) -> None:
        """Count a step, on the device."""
        launch.advance(self.step(like))

    def prepare(self, like: Array) -> None:
        """Make and compile what only a captured step uses: before it is captured."""
        xp = array_module(like)
        launch.advance(xp.zeros_like(self.step(like)))
        norm = self.updates.norm([xp.zeros(1, np.float32)], None)
        launch.outcome(xp.zeros(1, np.float32), xp.zeros(1, np.int32), norm)
        one = xp.zeros((1, 1), like.dtype)
        product(one, one)
        with self.device.aside():
            self.convolutions.prepare()

    def sgd(self, entries: list[Entry], options: Sequence[Options]) -> None:
        """All parameters in one launch; see :class:`Updates`."""
        for hyper, group in _groups(entries, options):
            if not self.updates.sgd(group, hyper):
                super().sgd(group, [hyper] * len(group))

    def adam(self, entries: list[Entry], options: Sequence[Options]) -> None:
        """All parameters in one launch; see :class:`Updates`."""
        for hyper, group in _groups(entries, options):
            if not self.updates.adam(group, hyper):
                super().adam(group, [hyper] * len(group))

    def rmsprop(self, entries: list[Entry], options: Sequence[Options]) -> None:
        """In plain code, whose numbers a captured step cannot change: not in one."""
        if self.updates.recording is not None:
            raise RuntimeError("RMSprop has no kernel that reads its rate on the GPU")
        super().rmsprop(entries, options)


_ONE = Conv()
"""A 1x1 convolution's."""


@cache
def cuda_engine() -> CudaEngine:
    """The engine of this process's GPU: cuDNN if its frontend is installed, and plain.

    Without it the first convolution warns, once.
    """
    from tinyflow.kernels.cuda.device import Gpu

    gpu = Gpu()
    plain = Plain(gpu)
    try:
        import cudnn
    except (ImportError, OSError, RuntimeError) as error:
        absent = (
            f"cuDNN cannot be used ({error}): convolutions run on explicit columns, "
            "which is several times slower; install the extra cuda12 or cuda13"
        )
        return CudaEngine(gpu, Convolutions([plain], {"cudnn": absent}))
    return CudaEngine(gpu, Convolutions([Cudnn(cudnn, gpu), plain]))


def _groups(
    entries: list[Entry], options: Sequence[Options]
) -> list[tuple[Options, list[Entry]]]:
    """Entries by their options, which are the same for almost all of them."""
    groups: dict[tuple[Any, ...], tuple[Options, list[Entry]]] = {}
    for entry, hyper in zip(entries, options, strict=True):
        groups.setdefault(tuple(hyper.items()), (hyper, []))[1].append(entry)
    return list(groups.values())


def _master(w: Array) -> Array:
    """A parameter's gradient in float32, memory order kept."""
    return w if w.dtype == np.float32 else w.astype(np.float32)


def _pixels(x: Array) -> Array:
    """A matrix (M, C) as M images of one pixel, (M, C, 1, 1)."""
    return x.reshape(*x.shape, 1, 1)
