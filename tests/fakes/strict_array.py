"""The array of the CuPy stand-in: its rules are in tests/fakes/strict_cupy.py."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

ERRORS = {
    2: "cudaErrorMemoryAllocation: out of memory",
    35: "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA "
    "runtime version",
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    700: "cudaErrorIllegalAddress: an illegal memory access was encountered",
    803: "cudaErrorSystemDriverMismatch: system has unsupported display driver / cuda "
    "driver combination",
}


class CUDARuntimeError(RuntimeError):
    """What every call of the CUDA runtime raises."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(ERRORS[status])


class OutOfMemoryError(MemoryError):
    """What the memory pool raises."""

    def __init__(self, size: int, total: int) -> None:
        super().__init__(
            f"Out of memory allocating {size:,} bytes "
            f"(allocated so far: {total:,} bytes)."
        )


CUDARuntimeError.__module__ = "cupy_backends.cuda.api.runtime"
OutOfMemoryError.__module__ = "cupy.cuda.memory"


class Machine:
    """The GPU that is not there: what it was asked for, and how it shall fail.

    Attributes:
        syncs: how often the host waited for a value.
        uploads: host arrays copied to the device.
        made: entries of new arrays of at least one axis, by dtype.
        devices, driver, runtime: how many GPUs; CUDA versions, 12040 being 12.4.
        broken: the error of every call of the CUDA runtime, and of every computation.
        memory: how many more arrays fit, or None for no limit.
        largest: bytes of the largest array that fits, or None for no limit.
    """

    def __init__(self) -> None:
        self.syncs = self.uploads = 0
        self.made: Counter[str] = Counter()
        self.devices, self.driver, self.runtime = 1, 13000, 13000
        self.broken: Exception | None = None
        self.memory: int | None = None
        self.largest: int | None = None

    def wait(self) -> None:
        self.syncs += 1

    def new(self, a: Any) -> ndarray:
        """A device array that owns `a`, a fresh NumPy array or scalar."""
        a = np.asarray(a)
        if self.broken is not None:
            raise self.broken
        if self.memory is not None:
            if not self.memory:
                raise OutOfMemoryError(a.nbytes, 1 << 30)
            self.memory -= 1
        if self.largest is not None and a.nbytes > self.largest:
            raise OutOfMemoryError(a.nbytes, 1 << 30)
        if a.ndim:
            self.made[a.dtype.name] += a.size
        return view(a)


machine = Machine()


class Flags(NamedTuple):
    c_contiguous: bool
    f_contiguous: bool
    owndata: bool


class ndarray:
    """An array that NumPy does not know; see the rules."""

    __slots__ = ("_a",)
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None
    _a: np.ndarray

    # --- what can be asked without waiting -----------------------------------------

    shape = property(lambda self: self._a.shape)
    strides = property(lambda self: self._a.strides)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    itemsize = property(lambda self: self._a.itemsize)
    nbytes = property(lambda self: self._a.nbytes)
    T = property(lambda self: view(self._a.T))

    @property
    def flags(self) -> Flags:
        f = self._a.flags
        return Flags(f.c_contiguous, f.f_contiguous, f.owndata)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "version": 3}

    def __len__(self) -> int:
        return len(self._a)

    # --- the ways to the host, and those that are closed ---------------------------

    def get(self) -> np.ndarray:
        machine.wait()
        return self._a.copy(order="C")

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __format__(self, how: str) -> str:
        return format(self.get(), how)

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_function__(self, function: Any, *rest: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} of a device array")

    # --- parts and shapes ----------------------------------------------------------

    def __getitem__(self, index: Any) -> ndarray:
        index, gathers = places(self, index)
        if gathers:
            return machine.new(self._a[index])
        return view(self._a[index if Ellipsis in index else (*index, ...)])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        index, _ = places(self, index)
        self._a[index] = value._a if isinstance(value, ndarray) else value

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def fill(self, value: Any) -> None:
        self[...] = value

    def reshape(self, *shape: Any) -> ndarray:
        return alias(self._a.reshape(*shape), self)

    def ravel(self, order: str = "C") -> ndarray:
        return alias(self._a.ravel(order), self)

    def transpose(self, *axes: Any) -> ndarray:
        return view(self._a.transpose(*axes))

    def swapaxes(self, one: int, other: int) -> ndarray:
        return view(self._a.swapaxes(one, other))

    def view(self, dtype: Any) -> ndarray:
        if np.dtype(dtype).kind not in "biuf":
            raise TypeError(f"a view as {np.dtype(dtype)}")
        return view(self._a.view(dtype))

    def copy(self, order: str = "C") -> ndarray:
        return machine.new(self._a.copy(order))

    def astype(self, dtype: Any, order: str = "K", copy: bool = True) -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        return machine.new(self._a.astype(dtype, order))

    def clip(self, low: Any = None, high: Any = None, out: Any = None) -> ndarray:
        return calculate(np.clip, (self, low, high), out)

    def dot(self, other: ndarray) -> ndarray:
        return calculate(np.dot, (self, other))


def view(a: np.ndarray) -> ndarray:
    """A device array on the memory of `a`."""
    x = ndarray()
    x._a = a
    return x


def alias(a: np.ndarray, of: ndarray) -> ndarray:
    """`a`, which is a view of another array's memory or else a copy."""
    return view(a) if np.may_share_memory(a, of._a) else machine.new(a)


def places(x: ndarray, index: Any) -> tuple[tuple[Any, ...], bool]:
    """The index as NumPy takes it, and whether device arrays are part of it."""
    parts, gathers, axis = [], False, 0
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, ndarray):
            gathers, taken = True, part._a
            if taken.dtype.kind in "iu":  # negative ones too
                taken = taken % x.shape[axis]
            parts.append(taken)
        elif part is None or part is Ellipsis or isinstance(part, slice):
            parts.append(part)
        else:
            if isinstance(part, bool | np.bool_ | np.ndarray):
                raise TypeError(f"an index of type {type(part)}")
            parts.append(operator.index(part))
        axis += part is not None
    if gathers and any(part is Ellipsis for part in parts):
        raise TypeError("an ellipsis beside index arrays")
    return tuple(parts), gathers


def operand(x: Any) -> Any:
    """What stands behind an operand, if a kernel may be launched with it."""
    if isinstance(x, ndarray):
        return x._a
    if type(x) in (bool, int, float, complex) or isinstance(x, np.generic):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def calculate(
    function: Callable[..., Any],
    operands: tuple[Any, ...],
    out: Any = None,
    **options: Any,
) -> ndarray:
    """Run a NumPy function behind the wall."""
    with np.errstate(all="ignore"):
        found = function(*map(operand, operands), **options)
    result = np.array(found, order="C")
    if out is None:
        return machine.new(result)
    if not isinstance(out, ndarray):
        raise TypeError("Output arguments type must be cupy.ndarray")
    if out.shape != result.shape:
        raise ValueError("Out shape is mismatched")
    if not np.can_cast(result.dtype, out.dtype, "same_kind"):
        raise TypeError(f"cannot cast {result.dtype} to {out.dtype}: same_kind")
    if machine.broken is not None:
        raise machine.broken
    out._a[...] = result
    return out


def elementwise(ufunc: Callable[..., Any]) -> Callable[..., ndarray]:
    """The function of that name: operands, `out`, `dtype`."""

    def call(*operands: Any, out: Any = None, dtype: Any = None) -> ndarray:
        options = {} if dtype is None else {"dtype": dtype}
        return calculate(ufunc, operands, out, **options)

    return call


def reduction(function: Callable[..., Any], *options: str) -> Callable[..., ndarray]:
    """The method, which takes an axis and these options."""

    def method(self: ndarray, axis: Any = None, **given: Any) -> ndarray:
        if unknown := given.keys() - {*options, "keepdims"}:
            raise TypeError(f"{function.__name__} does not take {unknown}")
        return calculate(function, (self,), axis=axis, **given)

    return method


for _name in ("sum", "mean", "var", "prod"):
    setattr(ndarray, _name, reduction(getattr(np, _name), "dtype"))
for _name in ("max", "min", "argmax", "argmin", "all", "any"):
    setattr(ndarray, _name, reduction(getattr(np, _name)))


def _operator(ufunc: Callable[..., Any], kind: str) -> Callable[..., Any]:
    def method(self: ndarray, other: Any) -> Any:
        if getattr(other, "__array_ufunc__", "") is None and not isinstance(
            other, ndarray
        ):
            return NotImplemented  # a Tensor answers for itself
        if kind == "r":
            return calculate(ufunc, (other, self))
        return calculate(ufunc, (self, other), self if kind == "i" else None)

    return method


for _name, _ufunc in {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.true_divide,
    "pow": np.power,
    "matmul": np.matmul,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
}.items():
    for _kind in ("", "r", "i"):
        setattr(ndarray, f"__{_kind}{_name}__", _operator(_ufunc, _kind))
for _name, _ufunc in {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}.items():
    setattr(ndarray, f"__{_name}__", _operator(_ufunc, ""))
for _name, _ufunc in {
    "neg": np.negative,
    "abs": np.absolute,
    "invert": np.invert,
}.items():
    setattr(ndarray, f"__{_name}__", lambda self, u=_ufunc: calculate(u, (self,)))
