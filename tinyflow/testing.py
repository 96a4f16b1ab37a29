"""Gradient checks: every operator here has to pass them, and yours can too.

A pullback is right if it is the adjoint of the derivative, which one number shows
without ever forming a Jacobian. For a random cotangent u and a random direction v

    ⟨u, (f(x + εv) - f(x - εv)) / 2ε⟩  =  ⟨VJP(u), v⟩  +  O(ε²)  +  rounding.

The left side knows only the forward pass, the right side only the pullback. The
truncation error is about ε² f‴/6 and the rounding error about 10⁻¹⁶ |f| / ε; in float64
ε = 10⁻⁵ balances them at some 10⁻¹⁰, far below any real mistake.

Near a kink (relu at 0, a tie in max pooling) the two sides differ although both are
right: keep inputs further than a few ε from one, for instance with :func:`spaced`.

An operator of your own, built with :func:`tinyflow.record`, is checked like this:

>>> import numpy as np, tinyflow
>>> def cube(x):
...     pullback = lambda g, need: (3 * g * x.data**2,)
...     return tinyflow.record("cube", x.data**3, (x,), pullback)
>>> check_vjp(cube, np.linspace(-1.0, 1.0, 5))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.lengths import l2_norm
from tinyflow.ops.arguments import number, shown, whole
from tinyflow.tape import Tape
from tinyflow.tensor import TapeError, Tensor, plain_array

__all__ = ["check_vjp", "numerical_gradient", "spaced"]


def __dir__() -> list[str]:
    return __all__


Function: TypeAlias = Callable[..., Tensor]


def check_vjp(
    function: Function,
    *inputs: Any,
    tolerance: float = 1e-6,
    eps: float = 1e-5,
    directions: int = 3,
    seed: int = 0,
    float32: bool = False,
) -> None:
    """Fail unless `function` sends back the gradients that its values imply.

    Also fails if a message has the wrong shape or dtype, if an input or a cotangent is
    written to, if two evaluations or two backwards differ in a single bit, or if an
    input's gradient changes when the others need none.

    Args:
        function: maps one Tensor per input to a Tensor of any shape. Constants (labels,
            strides, a freshly seeded generator) belong inside it.
        inputs: arrays, NumPy or CuPy; each is copied to a float64 Tensor that requires
            a gradient, in the memory order it has.
        tolerance: largest error relative to the derivative.
        eps: ε, the step of the central difference.
        directions: how many random pairs (u, v).
        seed: of those pairs.
        float32: also run in float32, which must stay float32 and agree to 10⁻³.

    Raises:
        AssertionError: what differs, for which input, and by how much.
        TypeError, ValueError: an argument with which nothing would be checked.
    """
    name = getattr(function, "__name__", type(function).__name__)
    tolerance = number("check_vjp", tolerance, "tolerance", 0)
    directions = whole("check_vjp", directions, "directions", 1)
    xs = _arrays("check_vjp", function, inputs, eps, order="K")
    xp = array_module(*xs)
    rng = np.random.default_rng(seed)
    y, again = _value(function, xs), _value(function, xs)
    assert y.dtype == np.float64, f"{name}: float64 inputs gave a {y.dtype} output"
    assert _identical(y, again), f"{name}: two evaluations differ; seed it inside"
    for turn in range(directions):
        u = xp.asarray(rng.standard_normal(y.shape))
        grads = _gradients(name, function, xs, u)
        noise = 8 * np.finfo(np.float64).eps / eps * float(abs(u * y).sum())
        for i, (x, grad) in enumerate(zip(xs, grads, strict=True)):
            v = xp.empty_like(x)  # in x's memory order
            v[...] = xp.asarray(rng.standard_normal(x.shape))
            plus = _value(function, [*xs[:i], x + eps * v, *xs[i + 1 :]])
            minus = _value(function, [*xs[:i], x - eps * v, *xs[i + 1 :]])
            expected = float((u * (plus - minus)).sum()) / (2 * eps)
            got = float((grad * v).sum())
            scale = max(abs(expected), abs(got), l2_norm(grad))
            error = abs(expected - got)
            where = f"{name}: input {i} of {len(xs)}, shape {x.shape}"
            if not error <= tolerance * scale + noise:  # NaN fails too
                raise AssertionError(
                    f"{where}: wrong gradient; expected ⟨u, Jv⟩ = {expected:.9g}, got "
                    f"⟨VJP(u), v⟩ = {got:.9g}, relative error {error / scale:.1e}"
                )
            if turn == 0 and len(xs) > 1:
                alone = _gradients(name, function, xs, u, only=i)[i]
                same = _close(alone, grad, u, tolerance)
                assert same, f"{where}: another gradient when it alone is needed"
    if float32:
        narrow = [x.astype("float32") for x in xs]
        kept = _value(function, narrow).dtype
        assert kept == np.float32, f"{name}: float32 inputs gave a {kept} output"
        narrow = _gradients(name, function, narrow, u.astype("float32"))
        for i, (g32, g64) in enumerate(zip(narrow, grads, strict=True)):
            assert _close(g32, g64, u, 1e-3), f"{name}: input {i} is wrong in float32"


def numerical_gradient(
    function: Function, *inputs: Any, cotangent: Any = None, eps: float = 1e-5
) -> tuple[Array, ...]:
    """∂⟨cotangent, f⟩/∂x for every entry of every input, by central differences.

    The cotangent has the shape of the output and is all ones by default; the rest is as
    in :func:`check_vjp`. Costs two evaluations an entry: for small inputs.
    """
    xs = _arrays("numerical_gradient", function, inputs, eps)
    xp = array_module(*xs)
    u = 1.0 if cotangent is None else cotangent
    grads = []
    for x in xs:
        grad = xp.zeros_like(x)
        for index in np.ndindex(x.shape):
            middle, sides = float(x[index]), []
            for sign in (1, -1):
                x[index] = middle + sign * eps
                y = _value(function, [x.copy() for x in xs])
                sides.append(float((u * y).sum()))
            x[index] = middle
            grad[index] = (sides[0] - sides[1]) / (2 * eps)
        grads.append(grad)
    return tuple(grads)


def spaced(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> Array:
    """Distinct values in random order, evenly spaced between `low` and `high`.

    With n entries any two are at least (high - low)/n apart, and all are a quarter of
    that away from ``low``, ``high`` and their midpoint: no ties, and no kink at 0.
    """
    n = int(np.prod(shape))
    ranks = np.random.default_rng(seed).permutation(n).reshape(shape)
    result: Array = np.asarray(low + (ranks + 0.25) * ((high - low) / max(n, 1)))
    return result


def _arrays(
    op: str, function: Any, inputs: Sequence[Any], eps: Any, **order: Any
) -> list[Array]:
    """The inputs as float64 copies, once the other arguments make sense."""
    if not callable(function):
        raise TypeError(f"{op}: function must be one, not {shown(function)}")
    if not number(op, eps, "eps", 0):
        raise ValueError(f"{op}: eps must not be zero")
    if not inputs:
        raise ValueError(f"{op}: inputs must hold at least one array")
    found = [plain_array(x, f"{op}: inputs[{i}]") for i, x in enumerate(inputs)]
    xp = array_module(*found)
    return [xp.array(x, dtype="float64", **order) for x in found]


def _value(function: Function, arrays: Sequence[Array]) -> Array:
    y = function(*(Tensor(a) for a in arrays))
    if not isinstance(y, Tensor):
        raise TypeError(f"the function checked must return a Tensor, not {shown(y)}")
    return y.data


def _gradients(
    name: str,
    function: Function,
    arrays: Sequence[Array],
    u: Array,
    only: int | None = None,
) -> list[Array]:
    """VJP(u) per input, zeros where none came, on a tape that allows no writing."""
    xp = array_module(u)
    before = [a.copy() for a in (*arrays, u)]
    frozen = [a for a in arrays if isinstance(a, np.ndarray) and a.flags.writeable]
    for a in frozen:
        a.flags.writeable = False
    xs = [
        Tensor(a, requires_grad=only in (None, i), name=f"input {i}")
        for i, a in enumerate(arrays)
    ]
    runs = []
    try:
        with Tape(check=True) as tape:
            y = function(*xs)
        for _ in range(2):
            tape.backward(y, u)
            runs.append(
                [xp.zeros_like(x.data) if x.grad is None else x.grad.copy() for x in xs]
            )
    except TapeError as error:
        pairs = zip(before, (*arrays, u), strict=True)
        if not all(_identical(was, a) for was, a in pairs):
            raise AssertionError(f"{name} changed an array it was given") from error
        raise AssertionError(f"{name}: {error}") from error
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        raise AssertionError(f"{name} writes to an array it was given") from error
    finally:
        for a in frozen:
            a.flags.writeable = True
    for was, a in zip(before, (*arrays, u), strict=True):
        assert _identical(was, a), f"{name} changed an array it was given"
    for i, (first, second) in enumerate(zip(*runs, strict=True)):
        assert _identical(first, second), (
            f"{name}: input {i}: two backwards gave different gradients"
        )
    return runs[0]


def _identical(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _close(a: Array, b: Array, u: Array, tolerance: float) -> bool:
    return l2_norm(a - b) <= tolerance * (l2_norm(b) + tolerance * l2_norm(u))
