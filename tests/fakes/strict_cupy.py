"""A strict stand-in for CuPy: a GPU's array rules on a machine without a GPU.

``install(monkeypatch)`` puts it where ``import cupy`` finds it. Its arrays are NumPy's
behind a wall that lets through what CuPy 14.2 lets through, so that code which passes
here mixes no libraries, keeps its dtypes and waits for the device only where it says.
What differs from NumPy, checked against CuPy's source:

* The ways to the host are ``get``, ``asnumpy``, ``item``, ``tolist``, ``bool``,
  ``int``, ``float`` and printing. Each waits for the device; ``machine.syncs`` counts.
* NumPy arrays, 0-d ones too, cannot be operands or outputs, nor be assigned. Python
  numbers take the dtype they meet, NumPy scalars and 0-d device arrays promote it.
* Every result is a device array: also a full reduction, also ``x[0]``.
* Results are C-ordered whatever the operands were, element-wise ones too. ``copy`` and
  ``astype`` are as in NumPy, and ``empty_like`` and its kind keep the order.
* ``asarray`` gives a host array C or Fortran order, never a permuted one.
* ``out`` must have the shape of the result; its dtype may only be of the same kind.
* An index beyond the end of its axis wraps around in silence when it is an array's.
* Overflow and division by zero raise no warning.

Stricter than CuPy on purpose: a NumPy function called with a device array is refused
(CuPy takes it up), so is a host array as an index (CuPy copies it over, which waits), a
view as another kind of dtype than a number's, and every function not written down here:
look it up in CuPy first. New memory is full of NaN, or of 0x5A.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.fakes.strict_array import (
    CUDARuntimeError,
    Machine,
    OutOfMemoryError,
    calculate,
    elementwise,
    machine,
    ndarray,
    operand,
    view,
)
from tinyflow.kernels.engine import PLAIN

UFUNCS = (
    "absolute add bitwise_and divide equal exp expm1 greater isfinite log "
    "log1p logical_not maximum minimum multiply negative sqrt square subtract tanh "
    "true_divide where"
).split()
"""Element-wise functions, all under NumPy's names."""


def unwritten(a: np.ndarray) -> np.ndarray:
    """The array with what new memory may hold."""
    if a.dtype.kind == "f":
        a.fill(np.nan)
    else:
        a.view("u1" if a.flags.c_contiguous else a.dtype).fill(0x5A)
    return a


def array(obj: Any, dtype: Any = None, copy: Any = True, order: str = "K") -> ndarray:
    """A device array: of a host array in C (or Fortran) order."""
    if isinstance(obj, ndarray):
        if not copy and dtype in (None, obj.dtype) and order in (None, "K"):
            return obj
        return machine.new(np.array(obj._a, dtype, order=order or "K"))
    machine.uploads += 1
    host = np.asarray(obj, dtype)
    fortran = host.flags.fnc and order in ("K", "A", None)
    return machine.new(host.copy(order="F" if fortran else "C"))


def asarray(a: Any, dtype: Any = None, order: Any = None) -> ndarray:
    return array(a, dtype, None, order)


def asnumpy(a: Any) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def ascontiguousarray(a: ndarray, dtype: Any = None) -> ndarray:
    if a.flags.c_contiguous and dtype in (None, a.dtype):
        return a
    return machine.new(np.array(operand(a), dtype, order="C"))


def empty(shape: Any, dtype: Any = float) -> ndarray:
    return machine.new(unwritten(np.empty(shape, dtype)))


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    return machine.new(np.zeros(shape, dtype))


def ones(shape: Any, dtype: Any = float) -> ndarray:
    return machine.new(np.ones(shape, dtype))


def full(shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
    return machine.new(np.full(shape, operand(fill_value), dtype))


def empty_like(
    a: ndarray, dtype: Any = None, order: str = "K", *, shape: Any = None
) -> ndarray:
    return machine.new(unwritten(np.empty_like(a._a, dtype, order, shape=shape)))


def zeros_like(
    a: ndarray, dtype: Any = None, order: str = "K", *, shape: Any = None
) -> ndarray:
    return machine.new(np.zeros_like(a._a, dtype, order, shape=shape))


def full_like(
    a: ndarray, value: Any, dtype: Any = None, order: str = "K", *, shape: Any = None
) -> ndarray:
    return machine.new(np.full_like(a._a, operand(value), dtype, order, shape=shape))


def arange(*bounds: int, dtype: Any = None) -> ndarray:
    return machine.new(np.arange(*bounds, dtype=dtype))


def joined(function: Any) -> Any:
    """`stack` or `concatenate`: of device arrays alone."""

    def call(arrays: Any, axis: int = 0, *, dtype: Any = None) -> ndarray:
        for a in arrays:
            if not isinstance(a, ndarray):
                raise TypeError(f"Unsupported type {type(a)}")
        parts = [a._a for a in arrays]
        return machine.new(np.array(function(parts, axis, dtype=dtype), order="C"))

    return call


def broadcast_to(a: ndarray, shape: Any) -> ndarray:
    return view(np.broadcast_to(a._a, shape))


def einsum(subscripts: str, *operands: Any, dtype: Any = None) -> ndarray:
    return calculate(lambda *o: np.einsum(subscripts, *o, dtype=dtype), operands)


def pad(a: ndarray, width: Any) -> ndarray:
    return calculate(lambda x: np.pad(x, width), (a,))


def matmul(a: Any, b: Any, *, out: Any = None) -> ndarray:
    return calculate(np.matmul, (a, b), out)


def total(a: ndarray, axis: Any = None, dtype: Any = None) -> ndarray:
    found: ndarray = a.sum(axis, dtype=dtype)  # type: ignore[attr-defined]
    return found


class Device:
    """The one device; work on it is never waited for here but by a transfer."""

    def __init__(self, device: int = 0) -> None:
        self.id = device
        self.compute_capability = "90"

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def synchronize(self) -> None:
        machine.wait()


class Stream(Device):
    """A stream, of no consequence: everything is done in order."""

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        super().__init__()


class MemoryPool:
    """A pool that holds nothing back."""

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0

    def free_all_blocks(self) -> None:
        pass


def device_count() -> int:
    if machine.broken is not None:
        raise machine.broken
    if machine.driver // 1000 < machine.runtime // 1000:
        raise CUDARuntimeError(35)
    if not machine.devices:
        raise CUDARuntimeError(100)
    return machine.devices


def module(name: str, **content: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(content)
    return made


def build() -> ModuleType:
    """The module ``cupy``."""
    runtime = module(
        "cupy.cuda.runtime",
        CUDARuntimeError=CUDARuntimeError,
        driverGetVersion=lambda: machine.driver,
        getDeviceCount=device_count,
        memGetInfo=lambda: (1 << 33, 1 << 34),
        runtimeGetVersion=lambda: machine.runtime,
    )
    memory = module("cupy.cuda.memory", OutOfMemoryError=OutOfMemoryError)
    cuda = module(
        "cupy.cuda",
        Device=Device,
        MemoryPool=MemoryPool,
        Stream=Stream,
        get_current_stream=Stream,
        memory=memory,
        runtime=runtime,
    )
    own = (array, asarray, asnumpy, ascontiguousarray, empty, zeros, ones, full)
    own += (empty_like, zeros_like, full_like, arange, broadcast_to, einsum, pad)
    return module(
        "cupy",
        __version__="14.2.0",
        concatenate=joined(np.concatenate),
        cuda=cuda,
        get_default_memory_pool=MemoryPool,
        inf=np.inf,
        matmul=matmul,
        nan=np.nan,
        ndarray=ndarray,
        stack=joined(np.stack),
        sum=total,
        **{f.__name__: f for f in own},
        **{name: elementwise(getattr(np, name)) for name in UFUNCS},
    )


def install(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make ``import cupy`` find the stand-in; the machine it pretends, as new."""
    machine.__init__()  # type: ignore[misc]
    cupy = build()
    for part in (cupy, cupy.cuda, cupy.cuda.runtime, cupy.cuda.memory):
        monkeypatch.setitem(sys.modules, part.__name__, part)
    # It compiles no kernels: what is tested is the plain array code and eager steps.
    monkeypatch.setattr("tinyflow.kernels.engine._cuda", lambda: PLAIN)
    monkeypatch.setattr(
        "tinyflow.train.prepare._on_gpu",
        lambda config, model, optimizer, loaders, dtype: (loaders, None),
    )
    return machine
