"""The engine that runs the library's kernels, on float32 arrays of the CPU.

What it does not take (other dtypes, groups, huge kernels) it hands to the plain code.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels import pool
from tinyflow.kernels.engine import Engine, Entry, How, Options, Shape
from tinyflow.kernels.layout import from_rows, swap, to_hwnc, to_rows
from tinyflow.kernels.window import out_size


class _Axis(ctypes.Structure):
    """One axis of a window: ``axis`` in conv.h."""

    _fields_ = tuple(
        (name, ctypes.c_long)
        for name in ("size", "out", "kernel", "stride", "dilation", "before", "adjoint")
    )


_SIGNATURES = {  # p pointer, l long, i int; a trailing > says that a long is returned
    "tinyflow_conv": "pppplllppi",
    "tinyflow_weights_room": "lllpp>",
    "tinyflow_conv_weights": "pppplllpp",
    "tinyflow_moments": "plllppp",
    "tinyflow_normalize": "plpppipll",
    "tinyflow_normalize_sums": "pplppppppll",
    "tinyflow_normalize_input_grad": "pplppppll",
    "tinyflow_relu": "ppl",
    "tinyflow_relu_grad": "pppl",
    "tinyflow_add": "plplplll",
    "tinyflow_max_pool": "ppplpp",
    "tinyflow_max_pool_grad": "ppplpp",
    "tinyflow_sgd": "ppplp",
    "tinyflow_adam": "pppplp",
}
_TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_long, "i": ctypes.c_int}


class NativeEngine(Engine):
    """The compiled kernels of :mod:`tinyflow.native`."""

    name = "native"

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        for name, signature in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = [_TYPES[s] for s in signature.rstrip(">")]
            function.restype = ctypes.c_long if signature.endswith(">") else None

    def conv2d(self, x: Array, w: Array, how: How, bias: Array | None = None) -> Array:
        """Convolution; see :meth:`Engine.conv2d`."""
        if not _takes(x, w, how, w.shape):
            return super().conv2d(x, w, how, bias)
        xb, wb = to_hwnc(x), to_hwnc(w)
        v, h = _axes(x.shape, w.shape, how)
        n, c, k = x.shape[0], x.shape[1], w.shape[0]
        b = None if bias is None else _per_channel(bias)
        y = np.empty((v.out, h.out, n, k), np.float32)
        self.library.tinyflow_conv(
            _at(xb), _at(wb), _at(b), _at(y), n, c, k, _ref(v), _ref(h), 1
        )
        self._check()
        return swap(y)

    def conv2d_input_grad(self, g: Array, w: Array, x_shape: Shape, how: How) -> Array:
        """Its input gradient: the same sum over adjoint axes."""
        if not _takes(g, w, how, w.shape) or not math.prod(x_shape):
            return super().conv2d_input_grad(g, w, x_shape, how)
        gb, wb = to_hwnc(g), to_hwnc(w)
        n, c, height, width = x_shape
        v, h = _adjoints(x_shape, w.shape, how)
        dx = np.empty((height, width, n, c), np.float32)
        k = w.shape[0]
        self.library.tinyflow_conv(
            _at(gb), _at(wb), None, _at(dx), n, k, c, _ref(v), _ref(h), 0
        )
        self._check()
        return swap(dx)

    def conv2d_weight_grad(self, g: Array, x: Array, w_shape: Shape, how: How) -> Array:
        """Its weight gradient, stored as (kh, kw, K, C)."""
        if not _takes(g, x, how, w_shape):
            return super().conv2d_weight_grad(g, x, w_shape, how)
        gb, xb = to_hwnc(g), to_hwnc(x)
        v, h = _axes(x.shape, w_shape, how)
        k, c, kh, kw = w_shape
        size = x.shape[0], c, k, _ref(v), _ref(h)
        dw = np.empty((kh, kw, k, c), np.float32)
        room = self.library.tinyflow_weights_room(*size)
        sums = np.empty(room, np.float32) if room else None
        self.library.tinyflow_conv_weights(_at(gb), _at(xb), _at(dw), _at(sums), *size)
        self._check()
        return swap(dw)

    def product(self, a: Array, b: Array) -> Array:
        """A product as a 1x1 convolution, or as the weight gradient of one."""
        (m, depth), n = a.shape, b.shape[1]
        if not (a.dtype == b.dtype == np.float32 and a.size and b.size):
            return super().product(a, b)
        one = _ref(_Axis(1, 1, 1, 1, 1, 0, 0))
        y = np.empty((m, n), np.float32)
        if a.flags.c_contiguous and (b.flags.c_contiguous or b.flags.f_contiguous):
            turned = 0 if b.flags.c_contiguous else 1
            self.library.tinyflow_conv(
                _at(a), _at(b), None, _at(y), m, depth, n, one, one, turned
            )
        elif a.flags.f_contiguous and b.flags.c_contiguous:
            size = depth, n, m, one, one
            room = self.library.tinyflow_weights_room(*size)
            sums = np.empty(room, np.float32) if room else None
            self.library.tinyflow_conv_weights(_at(a), _at(b), _at(y), _at(sums), *size)
        else:
            return super().product(a, b)
        self._check()
        return y

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Mean and variance in one pass over x."""
        rows = _rows(x)
        if rows is None:
            return super().moments(x)
        m, c = rows.shape
        mean, var = np.empty(c, np.float32), np.empty(c, np.float32)
        sums = np.empty((2, c))
        self.library.tinyflow_moments(
            _at(rows), m, c, _step(rows), _at(sums), _at(mean), _at(var)
        )
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
        rows = _rows(x)
        if rows is None:
            return super().normalize(x, scale, shift, residual, relu)
        y = np.empty(rows.shape, np.float32)
        extra = None if residual is None else np.ascontiguousarray(to_rows(residual))
        self.library.tinyflow_normalize(
            _at(rows),
            _step(rows),
            *(_at(_per_channel(s)) for s in (scale, shift)),
            _at(extra),
            int(relu),
            _at(y),
            *rows.shape,
        )
        return from_rows(y, x.shape)

    def normalize_sums(
        self, g: Array, x: Array, mean: Array, y: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """See :meth:`Engine.normalize_sums`; one pass."""
        rows = _rows(x)
        if rows is None:
            return super().normalize_sums(g, x, mean, y)
        m, c = rows.shape
        gb = np.ascontiguousarray(to_rows(g))
        yb = None if y is None else np.ascontiguousarray(to_rows(y))
        masked = None if y is None else np.empty((m, c), np.float32)
        sum_g, sum_gx = np.empty(c, np.float32), np.empty(c, np.float32)
        sums = np.empty((2, c))
        self.library.tinyflow_normalize_sums(
            _at(gb),
            _at(rows),
            _step(rows),
            _at(_per_channel(mean)),
            _at(yb),
            _at(masked),
            _at(sums),
            _at(sum_g),
            _at(sum_gx),
            m,
            c,
        )
        return sum_g, sum_gx, g if masked is None else from_rows(masked, g.shape)

    def normalize_input_grad(
        self, g: Array, x: Array, a: Array, b: Array, c: Array
    ) -> Array:
        """See :meth:`Engine.normalize_input_grad`; one pass."""
        rows = _rows(x)
        if rows is None:
            return super().normalize_input_grad(g, x, a, b, c)
        gb = np.ascontiguousarray(to_rows(g))
        dx = np.empty(rows.shape, np.float32)
        self.library.tinyflow_normalize_input_grad(
            _at(gb),
            _at(rows),
            _step(rows),
            *(_at(_per_channel(s)) for s in (a, b, c)),
            _at(dx),
            *rows.shape,
        )
        return from_rows(dx, x.shape)

    def relu(self, x: Array) -> Array:
        """See :meth:`Engine.relu`."""
        y = np.empty_like(x)
        if not _alike(x, y):
            return super().relu(x)
        self.library.tinyflow_relu(_at(x), _at(y), x.size)
        return y

    def relu_grad(self, g: Array, y: Array) -> Array:
        """See :meth:`Engine.relu_grad`."""
        dx = np.empty_like(y)
        if not _alike(g, y, dx):
            return super().relu_grad(g, y)
        self.library.tinyflow_relu_grad(_at(g), _at(y), _at(dx), y.size)
        return dx

    def channel_sum(self, g: Array) -> Array:
        """See :meth:`Engine.channel_sum`; one pass."""
        return self.normalize_sums(g, g, _zeros(g.shape[1]))[0]

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """See :meth:`Engine.add`; channels of a wider map are added where they lie."""
        y = np.empty_like(a) if out is None else out
        if _alike(a, b, y):
            n = a.size
            self.library.tinyflow_add(_at(a), n, _at(b), n, _at(y), n, 1, n)
            return y
        y = self.empty(a.shape, a) if out is None and a.ndim == 4 else y
        found = [_rows_in_place(z) for z in (a, b, y)]
        places = [v for m in found if m is not None for v in (_at(m), _step(m))]
        if len(places) < 6 or a.shape != b.shape:
            return super().add(a, b, out)
        self.library.tinyflow_add(*places, y.size // y.shape[1], y.shape[1])
        return y

    def gate(self, x: Array, s: Array) -> Array:
        """See :meth:`Engine.gate`: a normalisation of N C columns."""
        flat, scale = _columns(x), _columns(s)
        if flat is None or scale is None:
            return super().gate(x, s)
        y = self.normalize(flat, scale.reshape(-1), _zeros(scale.size))
        return y.reshape(x.shape)

    def gate_grad(
        self, g: Array, x: Array, s: Array, need: tuple[bool, ...]
    ) -> tuple[Array | None, Array | None]:
        """See :meth:`Engine.gate_grad`."""
        gf, xf, scale = _columns(g), _columns(x), _columns(s)
        if gf is None or xf is None or scale is None:
            return super().gate_grad(g, x, s, need)
        zero = _zeros(scale.size)
        dx = self.normalize(gf, scale.reshape(-1), zero)
        ds = self.normalize_sums(gf, xf, zero)[1]
        return dx.reshape(x.shape), ds.reshape(s.shape)

    def max_pool2d(self, x: Array, how: pool.How) -> tuple[Array, Array]:
        """See :func:`tinyflow.kernels.pool.max_pool2d_forward`."""
        axes = _pool_axes(x.shape, how)
        if axes is None or not x.size:
            return super().max_pool2d(x, how)
        xb = to_hwnc(x)
        y = np.empty((axes[0].out, axes[1].out, *xb.shape[2:]), np.float32)
        taps = np.empty(y.shape, np.uint8)
        size = xb[0, 0].size
        self.library.tinyflow_max_pool(
            _at(xb), _at(y), _at(taps), size, *map(_ref, axes)
        )
        return swap(y), swap(taps)

    def max_pool2d_input_grad(
        self, g: Array, argmax: Array, x_shape: Shape, how: pool.How
    ) -> Array:
        """See :func:`tinyflow.kernels.pool.max_pool2d_input_grad`."""
        axes = _pool_axes(x_shape, how)
        if axes is None or not g.size:
            return super().max_pool2d_input_grad(g, argmax, x_shape, how)
        gb, taps = to_hwnc(g), to_hwnc(argmax)
        n, c, height, width = x_shape
        dx = np.empty((height, width, n, c), np.float32)
        v, h = map(_adjoint, axes)
        self.library.tinyflow_max_pool_grad(
            _at(gb), _at(taps), _at(dx), n * c, _ref(v), _ref(h)
        )
        return swap(dx)

    def sgd(self, entries: list[Entry], options: Sequence[Options]) -> None:
        """See :meth:`Engine.sgd`; one pass over each parameter."""
        for entry, how in zip(entries, options, strict=True):
            if not _alike(*entry):
                super().sgd([entry], [how])
                continue
            p, g, *b = entry
            names = ("lr", "decay", "momentum", "share", "nesterov")
            numbers = np.array([how[name] for name in names], np.float32)
            where = _at(b[0] if b else None)
            self.library.tinyflow_sgd(_at(p), _at(g), where, p.size, _at(numbers))

    def adam(self, entries: list[Entry], options: Sequence[Options]) -> None:
        """See :meth:`Engine.adam`; one pass over each parameter."""
        for entry, how in zip(entries, options, strict=True):
            if not _alike(*entry):
                super().adam([entry], [how])
                continue
            (beta1, beta2), t = how["betas"], how["step"]
            numbers = np.array(
                [
                    how["lr"] / (1 - beta1**t),
                    how["decay"],
                    how["shrink"],
                    beta1,
                    beta2,
                    1 / math.sqrt(1 - beta2**t),
                    how["eps"],
                ],
                np.float32,
            )
            where = [_at(array) for array in entry]
            self.library.tinyflow_adam(*where, entry[0].size, _at(numbers))

    def _check(self) -> None:
        if self.library.tinyflow_failed():
            raise MemoryError("the C kernels could not get their working memory")


def _at(array: Array | None) -> int | None:
    """Address of the first entry."""
    return None if array is None else _address(array)


def _slow_address(array: Array) -> int:
    where: int = array.__array_interface__["data"][0]
    return where


def _fast_address(array: Array) -> int:
    """The pointer behind the object's head: a step asks thousands of times."""
    where = ctypes.c_void_p.from_address(id(array) + object.__basicsize__).value
    return where or 0


_probe = np.zeros(1)
_address = _slow_address
if _fast_address(_probe) == _slow_address(_probe):  # true of CPython
    _address = _fast_address


@cache
def _zeros(n: int) -> Array:
    return np.zeros(n, np.float32)


def _columns(x: Array) -> Array | None:
    """(N, C, H, W) as (1, N C, H, W): a view, or None if x is not stored so."""
    xb = swap(x)
    if not xb.flags.c_contiguous:
        return None
    h, w, n, c = xb.shape
    return swap(xb.reshape(h, w, 1, n * c))


def _rows_in_place(x: Array) -> Array | None:
    """The matrix of :func:`to_rows`, or None if that would be a copy."""
    if x.ndim != 4 or x.dtype != np.float32 or not x.size:
        return None
    rows = to_rows(x)
    return rows if rows.strides[1] == 4 and np.may_share_memory(rows, x) else None


def _ref(axis: _Axis) -> object:
    return ctypes.byref(axis)


def _takes(a: Array, b: Array, how: How, w_shape: Shape) -> bool:
    """Both float32 and not empty, one group, at most 256 taps."""
    return (
        a.dtype == np.float32
        and b.dtype == np.float32
        and how[3] == 1
        and w_shape[2] * w_shape[3] <= 256
        and a.size > 0
        and b.size > 0
    )


@lru_cache(maxsize=1024)
def _axes(x_shape: Shape, w_shape: Shape, how: How) -> tuple[_Axis, _Axis]:
    """Vertical and horizontal axis; they are only read, and so may be shared."""
    stride, padding, dilation, _ = how
    made = []
    for a in (0, 1):
        before, after = padding[2 * a], padding[2 * a + 1]
        size, kernel = x_shape[2 + a], w_shape[2 + a]
        out = out_size(size, kernel, stride[a], dilation[a], before, after)
        made.append(_Axis(size, out, kernel, stride[a], dilation[a], before, 0))
    return made[0], made[1]


@lru_cache(maxsize=1024)
def _adjoints(x_shape: Shape, w_shape: Shape, how: How) -> tuple[_Axis, _Axis]:
    v, h = _axes(x_shape, w_shape, how)
    return _adjoint(v), _adjoint(h)


def _adjoint(a: _Axis) -> _Axis:
    return _Axis(a.out, a.size, a.kernel, a.stride, a.dilation, a.before, 1)


def _pool_axes(x_shape: Shape, how: pool.How) -> tuple[_Axis, _Axis] | None:
    """The axes of a window that the C code takes: whole windows, up to 256 taps."""
    kernel, stride, padding, dilation, ceil_mode = how
    if ceil_mode or kernel[0] * kernel[1] > 256:
        return None
    sides: Sequence[int] = padding
    border = (sides[0], sides[0], sides[1], sides[1]) if len(sides) == 2 else sides
    top, bottom, left, right = border
    square = (stride, (top, bottom, left, right), dilation, 1)
    return _axes(x_shape, (0, 0, *kernel), square)


def _rows(x: Array) -> Array | None:
    """X as a matrix with a channel a column, its rows at any distance; float32."""
    if x.dtype != np.float32 or not x.size:
        return None
    rows = to_rows(x)
    if rows.strides[1] != 4 or rows.strides[0] < 4 * rows.shape[1]:
        rows = np.ascontiguousarray(rows)
    return rows


def _step(rows: Array) -> int:
    """Floats from one row to the next."""
    return rows.strides[0] // 4


def _per_channel(s: Array) -> Array:
    return np.ascontiguousarray(s, np.float32)


def _alike(*arrays: Array) -> bool:
    """Whether the arrays are float32 and lie in memory alike, without gaps."""
    first = arrays[0]
    places = _strides(first)
    if not (first.flags.forc or (first.ndim == 4 and swap(first).flags.c_contiguous)):
        return False
    return all(
        a.dtype == np.float32 and a.shape == first.shape and _strides(a) == places
        for a in arrays
    )


def _strides(a: Array) -> list[int]:
    """The strides that matter: those of axes longer than 1."""
    return [step for step, n in zip(a.strides, a.shape, strict=True) if n > 1]
