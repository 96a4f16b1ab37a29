"""The engine that runs the library's kernels, on float32 arrays of the CPU.

What it does not take (other dtypes, huge kernels) it hands to the plain code.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels.geometry import Conv, Shape, Window
from tinyflow.kernels.layout import from_rows, swap, to_hwnc, to_rows
from tinyflow.kernels.native import conv
from tinyflow.kernels.native.memory import (
    alike,
    as_rows,
    one_sample,
    per_channel,
    ptr,
    rows_in_place,
    step,
    zeros,
)
from tinyflow.kernels.native.windows import (
    Axis,
    adjoint,
    pool_axes,
    ref,
)
from tinyflow.kernels.table import Engine, Entry, Options

ACTIVATIONS = ("relu", "relu6", "sigmoid", "silu")

# p pointer, l long, i int, f float; a trailing > says that a long is returned
_SIGNATURES = {
    "tinyflow_conv": "plplppllllppi",
    "tinyflow_weights_room": "lllpp>",
    "tinyflow_conv_weights": "plplpplllpp",
    "tinyflow_depthwise": "ppppllpp",
    "tinyflow_depthwise_weights": "pppllpp",
    "tinyflow_moments": "plllppp",
    "tinyflow_normalize": "plpppipll",
    "tinyflow_normalize_by": "plppfpppipll",
    "tinyflow_normalize_sums": "pplppppppll",
    "tinyflow_normalize_input_grad": "pplppppll",
    **{f"tinyflow_{name}": "ppl" for name in ACTIVATIONS},
    **{f"tinyflow_{name}_grad": "pppl" for name in ACTIVATIONS},
    "tinyflow_add": "plplplll",
    "tinyflow_max_pool": "ppplpp",
    "tinyflow_max_pool_grad": "ppplpp",
    "tinyflow_sgd": "ppplp",
    "tinyflow_adam": "pppplp",
}
_TYPES = {
    "p": ctypes.c_void_p,
    "l": ctypes.c_long,
    "i": ctypes.c_int,
    "f": ctypes.c_float,
}


class NativeEngine(Engine):
    """The compiled kernels."""

    name = "native"
    shares = False

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        for name, signature in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = [_TYPES[s] for s in signature.rstrip(">")]
            function.restype = ctypes.c_long if signature.endswith(">") else None

    def conv2d(
        self, x: Array, w: Array, geometry: Conv, bias: Array | None = None
    ) -> Array:
        """Convolution; see :meth:`Engine.conv2d`."""
        y = conv.forward(self.library, x, w, geometry, bias)
        self._check()
        return super().conv2d(x, w, geometry, bias) if y is None else y

    def conv2d_input_grad(
        self, g: Array, w: Array, x_shape: Shape, geometry: Conv
    ) -> Array:
        """See :meth:`Engine.conv2d_input_grad`."""
        dx = conv.input_grad(self.library, g, w, x_shape, geometry)
        self._check()
        return super().conv2d_input_grad(g, w, x_shape, geometry) if dx is None else dx

    def conv2d_weight_grad(
        self, g: Array, x: Array, w_shape: Shape, geometry: Conv
    ) -> Array:
        """See :meth:`Engine.conv2d_weight_grad`."""
        dw = conv.weight_grad(self.library, g, x, w_shape, geometry)
        self._check()
        if dw is None:
            return super().conv2d_weight_grad(g, x, w_shape, geometry)
        return dw

    def product(self, a: Array, b: Array) -> Array:
        """A product as a 1x1 convolution, or as the weight gradient of one."""
        (m, depth), n = a.shape, b.shape[1]
        if not (a.dtype == b.dtype == np.float32 and a.size and b.size):
            return super().product(a, b)
        one = ref(Axis(1, 1, 1, 1, 1, 0, 0))
        y = np.empty((m, n), np.float32)
        if a.flags.c_contiguous and (b.flags.c_contiguous or b.flags.f_contiguous):
            turned = 0 if b.flags.c_contiguous else 1
            where = ptr(a), depth, ptr(b), 0, None, ptr(y), n
            self.library.tinyflow_conv(*where, m, depth, n, one, one, turned)
        elif a.flags.f_contiguous and b.flags.c_contiguous:
            size = depth, n, m, one, one
            room = self.library.tinyflow_weights_room(*size)
            sums = np.empty(room, np.float32) if room else None
            out = ptr(a), m, ptr(b), n, ptr(y), ptr(sums)
            self.library.tinyflow_conv_weights(*out, *size)
        else:
            return super().product(a, b)
        self._check()
        return y

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Mean and variance in one pass over x."""
        rows = as_rows(x)
        if rows is None:
            return super().moments(x)
        m, c = rows.shape
        mean, var = np.empty(c, np.float32), np.empty(c, np.float32)
        sums = np.empty((2, c))
        self.library.tinyflow_moments(
            ptr(rows), m, c, step(rows), ptr(sums), ptr(mean), ptr(var)
        )
        self._check()
        return mean, var

    def normalize(
        self,
        x: Array,
        scale: Array,
        shift: Array,
        residual: Array | None = None,
        relu: bool = False,
    ) -> Array:
        """See :meth:`Engine.normalize`; one pass."""
        rows = as_rows(x)
        if rows is None:
            return super().normalize(x, scale, shift, residual, relu)
        y = np.empty(rows.shape, np.float32)
        extra = None if residual is None else np.ascontiguousarray(to_rows(residual))
        each = [per_channel(s) for s in (scale, shift)]
        self.library.tinyflow_normalize(
            ptr(rows),
            step(rows),
            *(ptr(s) for s in each),
            ptr(extra),
            int(relu),
            ptr(y),
            *rows.shape,
        )
        return from_rows(y, x.shape)

    def normalize_by(
        self,
        x: Array,
        mean: Array,
        var: Array,
        eps: float,
        weight: Array | None = None,
        bias: Array | None = None,
        residual: Array | None = None,
        relu: bool = False,
    ) -> Array:
        """See :meth:`Engine.normalize_by`; scale and shift are made on the way."""
        rows = as_rows(x)
        if rows is None:
            return super().normalize_by(x, mean, var, eps, weight, bias, residual, relu)
        y = np.empty(rows.shape, np.float32)
        extra = None if residual is None else np.ascontiguousarray(to_rows(residual))
        given = (mean, var, weight, bias)
        m, v, w, b = [None if s is None else per_channel(s) for s in given]
        self.library.tinyflow_normalize_by(
            ptr(rows),
            step(rows),
            ptr(m),
            ptr(v),
            eps,
            ptr(w),
            ptr(b),
            ptr(extra),
            relu,
            ptr(y),
            *rows.shape,
        )
        self._check()
        return from_rows(y, x.shape)

    def normalize_sums(
        self, g: Array, x: Array, mean: Array, y: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """See :meth:`Engine.normalize_sums`; one pass."""
        rows = as_rows(x)
        if rows is None:
            return super().normalize_sums(g, x, mean, y)
        m, c = rows.shape
        gb = np.ascontiguousarray(to_rows(g))
        yb = None if y is None else np.ascontiguousarray(to_rows(y))
        masked = None if y is None else np.empty((m, c), np.float32)
        sum_g, sum_gx = np.empty(c, np.float32), np.empty(c, np.float32)
        sums = np.empty((2, c))
        mean = per_channel(mean)
        self.library.tinyflow_normalize_sums(
            ptr(gb),
            ptr(rows),
            step(rows),
            ptr(mean),
            ptr(yb),
            ptr(masked),
            ptr(sums),
            ptr(sum_g),
            ptr(sum_gx),
            m,
            c,
        )
        self._check()
        return sum_g, sum_gx, g if masked is None else from_rows(masked, g.shape)

    def normalize_input_grad(
        self, g: Array, x: Array, a: Array, b: Array, c: Array
    ) -> Array:
        """See :meth:`Engine.normalize_input_grad`; one pass."""
        rows = as_rows(x)
        if rows is None:
            return super().normalize_input_grad(g, x, a, b, c)
        gb = np.ascontiguousarray(to_rows(g))
        dx = np.empty(rows.shape, np.float32)
        each = [per_channel(s) for s in (a, b, c)]
        self.library.tinyflow_normalize_input_grad(
            ptr(gb),
            ptr(rows),
            step(rows),
            *(ptr(s) for s in each),
            ptr(dx),
            *rows.shape,
        )
        return from_rows(dx, x.shape)

    def relu(self, x: Array) -> Array:
        """See :meth:`Engine.relu`."""
        return self._entries("relu", x)

    def relu_grad(self, g: Array, y: Array) -> Array:
        """See :meth:`Engine.relu_grad`."""
        return self._entries("relu_grad", g, y)

    def relu6(self, x: Array) -> Array:
        """See :meth:`Engine.relu6`."""
        return self._entries("relu6", x)

    def relu6_grad(self, g: Array, y: Array) -> Array:
        """See :meth:`Engine.relu6_grad`."""
        return self._entries("relu6_grad", g, y)

    def sigmoid(self, x: Array) -> Array:
        """See :meth:`Engine.sigmoid`."""
        return self._entries("sigmoid", x)

    def sigmoid_grad(self, g: Array, x: Array) -> Array:
        """See :meth:`Engine.sigmoid_grad`."""
        return self._entries("sigmoid_grad", g, x)

    def silu(self, x: Array) -> Array:
        """See :meth:`Engine.silu`."""
        return self._entries("silu", x)

    def silu_grad(self, g: Array, x: Array) -> Array:
        """See :meth:`Engine.silu_grad`."""
        return self._entries("silu_grad", g, x)

    def _entries(self, name: str, *arrays: Array) -> Array:
        """One pass over arrays that lie alike, else the plain code of that name."""
        y = np.empty_like(arrays[-1])
        if not alike(*arrays, y):
            result: Array = getattr(super(), name)(*arrays)
            return result
        function = getattr(self.library, f"tinyflow_{name}")
        function(*map(ptr, arrays), ptr(y), y.size)
        return y

    def channel_sum(self, g: Array) -> Array:
        """See :meth:`Engine.channel_sum`; one pass."""
        return self.normalize_sums(g, g, zeros(g.shape[1]))[0]

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """See :meth:`Engine.add`; channels of a wider map are added where they lie."""
        y = np.empty_like(a) if out is None else out
        if alike(a, b, y):
            n = a.size
            self.library.tinyflow_add(ptr(a), n, ptr(b), n, ptr(y), n, 1, n)
            return y
        y = self.empty(a.shape, a) if out is None and a.ndim == 4 else y
        found = [rows_in_place(z) for z in (a, b, y)]
        places = [v for m in found if m is not None for v in (ptr(m), step(m))]
        if len(places) < 6 or a.shape != b.shape:
            return super().add(a, b, out)
        self.library.tinyflow_add(*places, y.size // y.shape[1], y.shape[1])
        return y

    def gate(
        self, x: Array, s: Array, residual: Array | None = None, relu: bool = False
    ) -> Array:
        """See :meth:`Engine.gate`: a normalisation of N C columns."""
        flat, scale = one_sample(x), one_sample(s)
        extra = None if residual is None else one_sample(residual)
        if flat is None or scale is None or (extra is None) != (residual is None):
            return super().gate(x, s, residual, relu)
        y = self.normalize(flat, scale.reshape(-1), zeros(scale.size), extra, relu)
        return y.reshape(x.shape)

    def gate_grad(
        self, g: Array, x: Array, s: Array, y: Array | None, need: Sequence[bool]
    ) -> tuple[Array | None, Array | None, Array]:
        """See :meth:`Engine.gate_grad`."""
        gf, xf, scale = one_sample(g), one_sample(x), one_sample(s)
        yf = None if y is None else one_sample(y)
        if y is not None and (gf is None or yf is None):
            return self.gate_grad(self.relu_grad(g, y), x, s, None, need)
        if gf is None or xf is None or scale is None:
            return super().gate_grad(g, x, s, y, need)
        zero = zeros(scale.size)
        _, ds, sent = self.normalize_sums(gf, xf, zero, yf)
        dx = self.normalize(sent, scale.reshape(-1), zero)
        return dx.reshape(x.shape), ds.reshape(s.shape), sent.reshape(x.shape)

    def max_pool2d(self, x: Array, window: Window) -> tuple[Array, Array]:
        """See :func:`tinyflow.kernels.plain.pool.max_pool2d_forward`."""
        found = pool_axes(x.shape, window)
        if found is None or not x.size:
            return super().max_pool2d(x, window)
        xb = to_hwnc(x)
        y = np.empty((found[0].out, found[1].out, *xb.shape[2:]), np.float32)
        taps = np.empty(y.shape, np.uint8)
        size = xb[0, 0].size
        self.library.tinyflow_max_pool(
            ptr(xb), ptr(y), ptr(taps), size, *map(ref, found)
        )
        return swap(y), swap(taps)

    def max_pool2d_input_grad(
        self, g: Array, argmax: Array, x_shape: Shape, window: Window
    ) -> Array:
        """See :func:`tinyflow.kernels.plain.pool.max_pool2d_input_grad`."""
        found = pool_axes(x_shape, window)
        if found is None or not g.size:
            return super().max_pool2d_input_grad(g, argmax, x_shape, window)
        gb, taps = to_hwnc(g), to_hwnc(argmax)
        n, c, height, width = x_shape
        dx = np.empty((height, width, n, c), np.float32)
        v, h = map(adjoint, found)
        self.library.tinyflow_max_pool_grad(
            ptr(gb), ptr(taps), ptr(dx), n * c, ref(v), ref(h)
        )
        return swap(dx)

    def sgd(self, entries: list[Entry], options: Sequence[Options]) -> None:
        """See :meth:`Engine.sgd`; one pass over each parameter."""
        for entry, hyper in zip(entries, options, strict=True):
            if not alike(*entry):
                super().sgd([entry], [hyper])
                continue
            p, g, *b = entry
            names = ("lr", "decay", "momentum", "nesterov")
            given = [*(hyper[name] for name in names), 1 - hyper["dampening"]]
            numbers = np.array(given, np.float32)
            where = ptr(b[0] if b else None)
            self.library.tinyflow_sgd(ptr(p), ptr(g), where, p.size, ptr(numbers))

    def adam(self, entries: list[Entry], options: Sequence[Options]) -> None:
        """See :meth:`Engine.adam`; one pass over each parameter."""
        for entry, hyper in zip(entries, options, strict=True):
            if not alike(*entry):
                super().adam([entry], [hyper])
                continue
            (beta1, beta2), t = hyper["betas"], hyper["step"]
            unbiased = 1 / math.sqrt(1 - beta2**t)
            given = [hyper["lr"] / (1 - beta1**t), hyper["decay"], hyper["shrink"]]
            given += [beta1, beta2, unbiased, hyper["eps"]]
            numbers = np.array(given, np.float32)
            where = [ptr(array) for array in entry]
            self.library.tinyflow_adam(*where, entry[0].size, ptr(numbers))

    def _check(self) -> None:
        if self.library.tinyflow_failed():
            raise MemoryError("the C kernels could not get their working memory")
