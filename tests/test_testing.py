"""The tester tested: planted mistakes must be caught, correct pullbacks must pass."""

import math

import numpy as np
import pytest

from tinyflow import ops
from tinyflow.tape import record
from tinyflow.tensor import Tensor
from tinyflow.testing import check_vjp, numerical_gradient, spaced

X, W, B = spaced(4, 4), spaced(4, 4, seed=1), spaced(4, seed=2)


def dense(dx=None, dw=None, db=None):
    """y = x Wᵀ + b whose pullback can be told to answer wrongly."""

    def function(x, w, b):
        xd, wd = x.data, w.data

        def pullback(g, need):
            return (
                dx(g, xd, wd) if dx else g @ wd,
                dw(g, xd, wd) if dw else g.T @ xd,
                db(g, xd, wd) if db else g.sum(axis=0),
            )

        return record("dense", xd @ wd.T + b.data, (x, w, b), pullback)

    return function


def unary(forward, pullback):
    def function(x):
        xd = x.data
        return record("unary", forward(xd), (x,), lambda g, need: (pullback(g, xd),))

    return function


RELU = (lambda x: np.maximum(x, 0), lambda g, x: g * (x > 0))
SQUARE = (lambda x: x * x, lambda g, x: 2 * g * x)


def test_correct_pullbacks_pass():
    check_vjp(dense(), X, W, B, float32=True)
    check_vjp(unary(*RELU), X, float32=True)
    check_vjp(unary(*SQUARE), spaced(3, 2))
    check_vjp(unary(*SQUARE), np.float64(1.5))  # a single number
    check_vjp(unary(*SQUARE), [1, 2, 3])  # integers become float64


def test_broadcast_messages_are_summed_by_the_tape():
    check_vjp(dense(db=lambda g, x, w: g), X, W, B)


@pytest.mark.parametrize(
    ("planted", "culprit"),
    [
        (dense(dx=lambda g, x, w: 1.001 * (g @ w)), "input 0"),
        (dense(dx=lambda g, x, w: g @ w.T), "input 0"),  # weight transposed
        (dense(dw=lambda g, x, w: x.T @ g), "input 1"),  # message transposed
        (dense(dw=lambda g, x, w: -(g.T @ x)), "input 1"),
        (dense(db=lambda g, x, w: g[0]), "input 2"),  # broadcast sum forgotten
        (dense(db=lambda g, x, w: g.mean(axis=0)), "input 2"),
        (dense(db=lambda g, x, w: np.zeros(4)), "input 2"),
    ],
)
def test_a_wrong_message_is_caught_and_the_input_is_named(planted, culprit):
    with pytest.raises(AssertionError, match=rf"{culprit} of 3.*expected.*got"):
        check_vjp(planted, X, W, B)


@pytest.mark.parametrize(
    "planted",
    [
        unary(RELU[0], lambda g, x: g * (x > -0.5)),  # wrong mask
        unary(RELU[0], lambda g, x: g),  # no mask
        unary(SQUARE[0], lambda g, x: g * x),  # a dropped term of the product rule
        unary(lambda x: x - x.mean(), lambda g, x: g),  # mean taken as a constant
        unary(SQUARE[0], lambda g, x: np.full_like(g, np.nan)),
        unary(lambda x: np.sqrt(x - 3), lambda g, x: g),  # nan forward
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_wrong_formula_is_caught(planted):
    with pytest.raises(AssertionError):
        check_vjp(planted, X)


def test_the_last_slot_of_a_larger_error_is_caught_for_every_seed():
    planted = dense(dx=lambda g, x, w: 1.001 * (g @ w))
    for seed in range(20):
        with pytest.raises(AssertionError):
            check_vjp(planted, X, W, B, seed=seed, directions=1)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (lambda g, x, w: (g @ w).astype("float32"), "float32"),
        (lambda g, x, w: (g @ w)[:, :3], r"\(4, 3\)"),
        (lambda g, x, w: (g @ w)[..., None], r"sent"),
        (lambda g, x, w: None, "sent nothing"),
    ],
)
def test_wrong_shape_or_dtype_is_caught(message, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_vjp(dense(dx=message), X, W, B)


def test_too_few_messages_are_caught():
    def function(x, w):
        return record("f", x.data * w.data, (x, w), lambda g, need: (g * w.data,))

    with pytest.raises(AssertionError, match="1 messages for 2 inputs"):
        check_vjp(function, X, W)


def test_result_off_the_tape_is_caught():
    with pytest.raises(AssertionError, match="not on this tape"):
        check_vjp(lambda x: Tensor(x.data * 2), X)


def scale_in_place(g, x):
    g *= 2
    return g


def clip_input(g, x):
    np.maximum(x, 0, out=x)
    return g


def forward_in_place(x):
    x *= 2
    return x


@pytest.mark.parametrize(
    "planted",
    [
        unary(lambda x: 2 * x, scale_in_place),  # writes to the cotangent
        unary(lambda x: 1 * x, clip_input),  # writes to the input, in backward
    ],
)
def test_writing_to_an_array_is_caught(planted):
    with pytest.raises(AssertionError, match="writes to an array"):
        check_vjp(planted, X)


def test_writing_to_the_input_in_forward_is_caught():
    with pytest.raises(AssertionError):
        check_vjp(unary(forward_in_place, lambda g, x: 2 * g), X)


def test_a_write_through_a_side_door_is_caught():
    """A view taken earlier is not frozen: comparing copies finds the change."""

    def function(x):
        door = np.lib.stride_tricks.as_strided(x.data, writeable=False)
        pointer = door.__array_interface__["data"][0]

        def pullback(g, need):
            import ctypes

            ctypes.c_double.from_address(pointer).value += 1.0
            return (2 * g,)

        return record("f", 2 * x.data, (x,), pullback)

    with pytest.raises(AssertionError, match="changed an array"):
        check_vjp(function, X)


def test_other_value_errors_are_not_swallowed():
    def function(x):
        raise ValueError("no such shape")

    with pytest.raises(ValueError, match="no such shape"):
        check_vjp(function, X)


def test_random_forward_and_backward_are_caught():
    rng = np.random.default_rng(0)
    noise = unary(lambda x: x * rng.random(x.shape), lambda g, x: g)
    with pytest.raises(AssertionError, match="two evaluations differ"):
        check_vjp(noise, X)
    wobbly = unary(lambda x: x, lambda g, x: g * (1 + 1e-12 * rng.random(x.shape)))
    with pytest.raises(AssertionError, match="two backwards"):
        check_vjp(wobbly, X)


def test_float32_widened_is_caught_only_when_asked():
    widened = unary(lambda x: x * np.float64(2), lambda g, x: 2 * g)
    check_vjp(widened, X)
    with pytest.raises(AssertionError, match="float32 inputs gave a float64"):
        check_vjp(widened, X, float32=True)


def test_wrong_only_in_float32_is_caught():
    def pullback(g, x):
        return g * (2 if g.dtype == np.float64 else 2.01)

    with pytest.raises(AssertionError, match="wrong in float32"):
        check_vjp(unary(lambda x: 2 * x, pullback), X, float32=True)


def test_narrowed_output_is_caught():
    narrow = unary(lambda x: x.astype("float32"), lambda g, x: g.astype("float64"))
    with pytest.raises(AssertionError, match="gave a float32 output"):
        check_vjp(narrow, X)


def test_answer_that_depends_on_what_is_needed_is_caught():
    def function(x, w):
        def pullback(g, need):
            dw = g * x.data if need[0] else g  # wrong when w alone needs a gradient
            return g * w.data, dw

        return record("f", x.data * w.data, (x, w), pullback)

    with pytest.raises(AssertionError, match=r"input 1.*alone"):
        check_vjp(function, X, W)


def test_memory_order_of_the_inputs_is_kept():
    seen = []

    def function(x):
        seen.append(x.data.strides)
        return record("f", 2 * x.data, (x,), lambda g, need: (2 * g,))

    check_vjp(function, np.asfortranarray(spaced(3, 5)), directions=1)
    assert set(seen) == {(8, 24)}


def test_numerical_gradient_of_a_known_function():
    x, w = spaced(2, 3), spaced(3, seed=1)
    u = spaced(2, 3, seed=2)

    def function(x, w):
        return Tensor(x.data**2 * w.data)

    dx, dw = numerical_gradient(function, x, w)
    np.testing.assert_allclose(dx, 2 * x * w, rtol=1e-7)
    np.testing.assert_allclose(dw, (x**2).sum(0), rtol=1e-7)
    dx, dw = numerical_gradient(function, x, w, cotangent=u)
    np.testing.assert_allclose(dx, u * 2 * x * w, rtol=1e-7)
    np.testing.assert_allclose(dw, (u * x**2).sum(0), rtol=1e-7)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3, 4)])
def test_spaced_values_stay_apart_and_away_from_zero(shape):
    x = spaced(*shape, seed=3)
    assert x.shape == shape
    gap = 4 / x.size
    assert abs(x).min() >= 0.2 * gap
    assert np.diff(np.sort(x.ravel())).min(initial=gap) > 0.99 * gap


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: check_vjp(ops.exp), "check_vjp: inputs"),
        (lambda: check_vjp(ops.exp, X, directions=0), "check_vjp: directions"),
        (lambda: check_vjp(ops.exp, X, tolerance=math.nan), "check_vjp: tolerance"),
        (lambda: check_vjp(ops.exp, X, tolerance=math.inf), "check_vjp: tolerance"),
        (lambda: check_vjp(ops.exp, X, eps=0), "check_vjp: eps"),
        (lambda: check_vjp(ops.exp, X, eps=None), "check_vjp: eps"),
        (lambda: check_vjp(ops.exp, "a"), r"check_vjp: inputs\[0\]"),
        (lambda: check_vjp(ops.exp, Tensor(X)), r"check_vjp: inputs\[0\]"),
        (lambda: check_vjp(X), "check_vjp: function"),
        (lambda: check_vjp(lambda x: x.data, X), "must return a Tensor"),
        (lambda: numerical_gradient(ops.exp), "numerical_gradient: inputs"),
        (lambda: numerical_gradient(ops.exp, X, eps=-1), "numerical_gradient: eps"),
    ],
)
def test_a_check_that_could_not_fail_is_refused(use, message):
    with pytest.raises((TypeError, ValueError), match=message):
        use()
