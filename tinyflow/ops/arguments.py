"""What operators and layers take, and one sentence for everything else.

Every check is told the operator and hands the argument back in one spelling: a Tensor's
array, a Python int, a pair. What NumPy users pass as a number or a pair is one:
``np.int64(2)``, an array without axes, a list, an array of two. True is no number. A
wrong type is a TypeError, a wrong value a ValueError; both name the operator, the
argument, what it takes and what came.
"""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyflow.backend import Array, device_of
from tinyflow.kernels.engine import engine
from tinyflow.tensor import Tensor, plain_array

Pair = int | Sequence[int]
LARGEST = 2**31 - 1
"""Of every size: more than any array has, and what C calls an int."""
MOST_ENTRIES = 2**59
"""Of an array: beyond, NumPy cannot even say that memory does not suffice."""

# Named here, since a union written in a call is built again at each.
_NUMBERS = (int, float)
_LISTS = (tuple, list, range)
_NO_INTEGERS = (bool, np.bool_, Tensor)


def shown(x: Any) -> str:
    """What came instead, in a few words."""
    if isinstance(x, Tensor):
        return f"a Tensor of shape {x.shape}"
    if getattr(x, "ndim", 0) and hasattr(x, "dtype"):
        return f"an array of {x.dtype}, shape {tuple(x.shape)}"
    if isinstance(x, list | tuple) and any(map(callable, x)):
        return f"a {type(x).__name__} of {', '.join(type(y).__name__ for y in x[:3])}"
    if x is None or isinstance(x, int | float | complex | str | Sequence | np.generic):
        try:
            text = reprlib.repr(x)
        except ValueError:  # Python refuses to write very long integers
            text = ""
        if 0 < len(text) <= 80 and "\n" not in text:
            return text
    return f"{type(x).__name__} (a Python object)"


# --- tensors ---------------------------------------------------------------------


def array_of(op: str, x: Any, name: str = "input") -> Array:
    """The array of a Tensor."""
    if isinstance(x, Tensor):
        return x.data
    what = f"{op}: {name} must be a Tensor, not {shown(x)}"
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        what += "; wrap it, Tensor(array)"
    raise TypeError(what)


def optional(op: str, x: Any, name: str) -> Array | None:
    """The array of a Tensor, or None."""
    return None if x is None else array_of(op, x, name)


def floats(op: str, x: Any, name: str = "input") -> Array:
    """The array of a Tensor of floating-point numbers."""
    data = array_of(op, x, name)
    if data.dtype.kind != "f" and data.dtype.name != "bfloat16":
        raise no_floats(op, name, data)
    return data


def reals(op: str, x: Any, name: str = "input") -> Array:
    """The array of a Tensor of numbers, integers too, but not of truth values."""
    data = array_of(op, x, name)
    if data.dtype.kind == "b":
        raise no_floats(op, name, data)
    return data


def no_floats(op: str, name: str, data: Array) -> TypeError:
    """Integers or truth values where the operator computes with real numbers."""
    return TypeError(
        f"{op}: {name} is a Tensor of {data.dtype}; convert it first, "
        "Tensor(array.astype('float32'))"
    )


def same_dtype(op: str, names: Sequence[str], *operands: Any) -> None:
    """Refuse arrays that differ in dtype or device; numbers and None have neither."""
    arrays = [x for x in operands if hasattr(x, "dtype")]
    dtypes = list(dict.fromkeys(x.dtype for x in arrays))
    if len(dtypes) > 1:
        kinds = " and ".join(str(dtype) for dtype in dtypes)
        raise TypeError(
            f"{op} got {kinds} ({', '.join(names)}); convert one, dtypes are never "
            "mixed"
        )
    same_device(op, names, *arrays)


def same_device(op: str, names: Sequence[str], *operands: Any) -> None:
    """Refuse arrays on different devices; numbers and None are on none."""
    arrays = [x for x in operands if hasattr(x, "dtype")]
    if len({type(x) for x in arrays}) > 1:
        devices = list(dict.fromkeys(device_of(x) for x in arrays))
        if len(devices) > 1:
            raise TypeError(
                f"{op} got arrays on {' and '.join(devices)} ({', '.join(names)}); "
                "move one, e.g. model.to('cuda')"
            )


def fits_parameters(op: str, names: Sequence[str], x: Array, *parameters: Any) -> None:
    """Like :func:`same_dtype`, but float32 parameters may meet bfloat16 values.

    Only on an engine for mixed precision: elsewhere dtypes are never mixed.
    """
    dtype, kind = x.dtype, type(x)
    if dtype.itemsize > 2:
        for p in parameters:
            if p is not None and (p.dtype != dtype or type(p) is not kind):
                same_dtype(op, names, x, *parameters)
    elif dtype.name == "bfloat16" and engine(x).mixed:
        held = [p for p in parameters if p is not None]
        if any(p.dtype != np.float32 for p in held):
            same_dtype(op, names[1:], np.float32(0), *held)
        same_device(op, names, x, *held)
    else:
        same_dtype(op, names, x, *parameters)


def broadcasts(
    op: str, a: Sequence[int], b: Sequence[int], second: str = "other"
) -> None:
    """Refuse the shapes of `input` and `other` that cannot be broadcast together."""
    if not broadcast(a, b):
        raise ValueError(
            f"{op}: input {tuple(a)} and {second} {tuple(b)} cannot be broadcast: from "
            "the last axis on, sizes must be equal or 1"
        )


def broadcast(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether these shapes can be broadcast together."""
    pairs = zip(reversed(a), reversed(b), strict=False)
    return all(m == n or m == 1 or n == 1 for m, n in pairs)


# --- numbers ---------------------------------------------------------------------


def integer(x: Any) -> int | None:
    """`x` as a Python int if that is what it means, else None."""
    if type(x) is int:
        return x
    if isinstance(x, _NO_INTEGERS):
        return None
    try:
        return operator.index(x)
    except TypeError:
        return None


def listed(x: Any) -> Sequence[Any] | None:
    """The entries of a tuple, a list or an array, else None."""
    if isinstance(x, _LISTS):
        return x
    if getattr(x, "ndim", 0) and hasattr(x, "tolist"):
        entries: list[Any] = x.tolist()
        return entries
    return None


def whole(op: str, x: Any, name: str, least: int, most: int = LARGEST) -> int:
    """An integer of at least `least`."""
    n = integer(x)
    if n is None or not least <= n <= most:
        kind = TypeError if n is None else ValueError
        up = f"of {least} or more" if n is None or n < least else f"of at most {most}"
        raise kind(f"{op}: {name} must be an integer {up}, not {shown(x)}")
    return n


def wholes(op: str, x: Any, name: str, least: int) -> tuple[int, ...]:
    """Several integers of at least `least`."""
    if type(x) is tuple:  # nearly always
        for n in x:
            if type(n) is not int or not least <= n <= LARGEST:
                break
        else:
            return x
    entries = listed(x)
    found = [None] if entries is None else [integer(n) for n in entries]
    numbers = tuple(n for n in found if n is not None)
    if len(numbers) < len(found):
        raise TypeError(f"{op}: {name} must be a list of integers, not {shown(x)}")
    if numbers and not least <= min(numbers) <= max(numbers) <= LARGEST:
        raise ValueError(
            f"{op}: {name} must be integers of {least} or more and no more than "
            f"{LARGEST}, not {shown(x)}"
        )
    return numbers


def pair(op: str, x: Any, name: str, least: int) -> tuple[int, int]:
    """An (h, w) pair from a number or two, each at least `least`."""
    if type(x) is int and least <= x <= LARGEST:  # nearly always
        return x, x
    entries = listed(x)
    two = [integer(n) for n in ([x] if entries is None else entries)]
    if len(two) == 1:
        two *= 2
    if len(two) == 2 and None not in two:
        h, w = (n for n in two if n is not None)
        if least <= min(h, w) and max(h, w) <= LARGEST:
            return h, w
    kind = TypeError if None in two else ValueError
    raise kind(
        f"{op}: {name} must be one or two integers of {least} or more, not {shown(x)}"
    )


def axis_of(op: str, dim: Any, ndim: int, name: str = "dim") -> int:
    """An axis of a tensor, counted from the front."""
    n = dim if type(dim) is int else integer(dim)
    if n is None:
        raise TypeError(f"{op}: {name} must be an integer, not {shown(dim)}")
    if not -ndim <= n < ndim:
        raise ValueError(
            f"{op}: {name} {shown(dim)} is out of range for the input, a tensor of "
            f"{ndim} axes"
        )
    return n % ndim


def axes_of(op: str, dim: Any, ndim: int, name: str = "dim") -> tuple[int, ...]:
    """Axes of a tensor, counted from the front, each once."""
    entries = listed(dim)
    if entries is None:
        return (axis_of(op, dim, ndim, name),)
    found = tuple([axis_of(op, d, ndim, name) for d in entries])
    if len(found) > 1 and len(set(found)) < len(found):
        raise ValueError(f"{op}: {name} {shown(dim)} names an axis twice")
    return found


def number(op: str, x: Any, name: str, low: float, high: float = math.inf) -> float:
    """A finite number in [low, high], as Python's: NumPy's would promote float32."""
    if type(x) is float and low <= x <= high and abs(x) < math.inf:  # nearly always
        return x
    n = scalar(x)
    if n is None or isinstance(n, bool):
        raise TypeError(f"{op}: {name} must be a number, not {shown(x)}")
    if not (low <= n <= high and representable(n) and abs(n) < math.inf):
        limits = (
            f"number of {low} or more"
            if high == math.inf
            else f"number in [{low}, {high}]"
        )
        limits = "finite number" if low == -math.inf else limits
        raise ValueError(f"{op}: {name} must be a {limits}, not {shown(x)}")
    return n


def scalar(x: Any) -> float | None:
    """A number of Python's or NumPy's, or an array without axes; else None."""
    if isinstance(x, np.generic) or (isinstance(x, np.ndarray) and x.ndim == 0):
        x = x.item()
    return x if isinstance(x, _NUMBERS) else None


def representable(n: float) -> bool:
    """Whether `n` is small enough for a floating-point number."""
    try:
        float(n)
    except OverflowError:
        return False
    return True


def operands(
    op: str, a: Any, b: Any, entries: bool = True, second: str = "other"
) -> tuple[Any, Any]:
    """The arrays of two operands, of one dtype; numbers stay numbers and take it.

    With `entries` they meet entry by entry, and their shapes must broadcast. The names
    of the arguments are input and `second`.
    """
    x, y = _operand(op, a, "input"), _operand(op, b, second)
    if isinstance(x, _NUMBERS):
        if isinstance(y, _NUMBERS):
            raise TypeError(
                f"{op}: input or {second} must be a Tensor, not two numbers"
            )
        fits_dtype(op, x, "input", y.dtype)
    elif isinstance(y, _NUMBERS):
        fits_dtype(op, y, second, x.dtype)
    else:
        if x.dtype != y.dtype or type(x) is not type(y):
            same_dtype(op, ("input", second), x, y)
        if entries and x.shape != y.shape:
            broadcasts(op, x.shape, y.shape, second)
    return x, y


def _operand(op: str, x: Any, name: str) -> Any:
    if isinstance(x, Tensor):
        found = x.data
    elif isinstance(x, np.generic):
        found = x.item()  # NumPy's own would promote float32 to float64
    else:
        found = plain_array(x, f"{op}: {name}") if hasattr(x, "dtype") else x
    if isinstance(found, _NUMBERS):
        return found
    if not hasattr(found, "dtype"):
        raise TypeError(
            f"{op}: {name} must be a Tensor, an array or a number, not {shown(x)}"
        )
    if found.dtype.kind == "b":
        raise no_floats(op, name, found)
    return found


def fits_dtype(op: str, n: float, name: str, dtype: np.dtype[Any]) -> None:
    """Refuse a number that an array of this dtype cannot hold."""
    if dtype.kind in "iub":
        low, high = (0, 1) if dtype.kind == "b" else _limits(dtype)
        if isinstance(n, float) or not low <= n <= high:
            raise TypeError(
                f"{op}: {name} is {shown(n)}, which {dtype} cannot hold; convert the "
                "Tensor first, Tensor(array.astype('float32'))"
            )
    elif not representable(n):
        raise ValueError(f"{op}: {name} is too large a number for {dtype}")


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


# --- choices ---------------------------------------------------------------------


def flag(op: str, x: Any, name: str) -> bool:
    """True or False."""
    if x is True:
        return True
    if x is False:
        return False
    if isinstance(x, np.bool_):
        return bool(x)
    raise TypeError(f"{op}: {name} must be True or False, not {shown(x)}")


def choice(op: str, x: Any, name: str, choices: Sequence[str]) -> str:
    """One of several words."""
    if isinstance(x, str) and x in choices:
        return x
    kind = ValueError if isinstance(x, str) else TypeError
    raise kind(f"{op}: {name} must be one of {', '.join(choices)}, not {shown(x)}")


def generator_of(op: str, x: Any, name: str) -> np.random.Generator:
    """A source of random numbers: there is no hidden one."""
    if isinstance(x, np.random.Generator):
        return x
    kind = ValueError if x is None else TypeError
    raise kind(
        f"{op}: {name} must be a numpy.random.Generator, e.g. "
        f"numpy.random.default_rng(0), not {shown(x)}"
    )


class _NotGiven:
    def __repr__(self) -> str:
        return "<to be given>"


NOT_GIVEN: Any = _NotGiven()
"""The default of a layer's `rng`, so that :func:`source_of` can say what is missing."""


def source_of(op: str, rng: Any) -> np.random.Generator | None:
    """Where a layer draws its initial weights; zeros, None, must be asked for."""
    if rng is NOT_GIVEN:
        raise TypeError(
            f"{op}: rng is missing: make one rng = numpy.random.default_rng(0) and "
            "give it to every layer, rng=rng; with rng=None weights are zero"
        )
    return None if rng is None else generator_of(op, rng, "rng")
