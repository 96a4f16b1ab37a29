"""grad and value_and_grad: against closed forms and PyTorch's autograd."""

import numpy as np
import pytest

from tinyflow import Tape, Tensor, grad, nn, ops, value_and_grad


def test_a_closed_form():
    a = np.array([0.5, -1.0, 2.0])
    value, slope = value_and_grad(lambda x: (x * x * x).sum())(a)
    np.testing.assert_allclose(value, (a**3).sum(), rtol=1e-14)
    np.testing.assert_allclose(slope, 3 * a**2, rtol=1e-14)
    assert type(value) is type(slope) is np.ndarray


def test_several_arguments_as_in_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal((3, 3)) for _ in range(3))

    def f(x, y, z):
        return ((x @ y).tanh() * z).sum()

    leaves = [torch.tensor(v, requires_grad=True) for v in (a, b, c)]
    expected = torch.autograd.grad(f(*leaves), leaves)
    for places in ((0, 1, 2), [2, 0], (1,)):
        found = grad(f, places)(a, b, Tensor(c) if 2 not in places else c)
        assert isinstance(found, tuple) and len(found) == len(places)
        for i, g in zip(places, found, strict=True):
            np.testing.assert_allclose(g, expected[i].numpy(), rtol=1e-12)


def test_dtypes_numbers_and_keywords():
    f = grad(lambda x, *, scale: x * x * scale)
    assert f(3.0, scale=2.0).dtype == np.float64 and f(3.0, scale=2.0) == 12.0
    assert f(np.float32(3), scale=2.0).dtype == np.float32
    assert f(3.0, scale=2.0).shape == () and f([3.0], scale=1.0).shape == (1,)


def test_constants_and_the_argument_itself():
    assert grad(lambda x: Tensor(1.0))([1.0, 2.0]).tolist() == [0.0, 0.0]
    assert grad(lambda x, y: y * y)(2.0, Tensor(3.0)) == 0.0
    assert grad(lambda x: x)(2.0) == 1.0


def test_nothing_else_changes():
    layer = nn.Linear(2, 1, rng=np.random.default_rng(0))
    before = np.ones((1, 2), np.float32)
    layer.weight.grad = before
    x = Tensor(np.ones((1, 2), np.float32), requires_grad=True)
    with Tape() as outer:
        slope = grad(lambda x: layer(x).sum())(x)
    np.testing.assert_array_equal(slope, layer.weight.data)
    assert layer.weight.grad is before and x.grad is None and not outer.nodes


def test_a_step_along_it_goes_down():
    """Used as a PyTorch user would: to fit a line, whose answer is known."""
    t = np.linspace(0, 1, 11)
    loss = value_and_grad(lambda w, b: ((w * t + b - (3 * t - 1)) ** 2).mean(), (0, 1))
    w = b = 0.0
    for _ in range(2000):
        _, (gw, gb) = loss(w, b)
        w, b = w - 0.5 * gw, b - 0.5 * gb
    assert (w, b) == pytest.approx((3, -1), abs=1e-6)


@pytest.mark.parametrize(
    "call, error, said",
    [
        (lambda: grad(lambda x: x)(2), TypeError, "only floating-point tensors"),
        (lambda: grad(lambda x: x)([1.0, 2.0]), ValueError, "return one number.*sum()"),
        (lambda: grad(lambda x: 3.0)(1.0), TypeError, "must return a Tensor, not 3.0"),
        (
            lambda: grad(grad(ops.exp))(1.0),
            TypeError,
            "must return a Tensor, not ndarray",
        ),
        (lambda: grad(ops.exp)(), ValueError, "exp was called with 0 positional"),
        (lambda: grad(ops.exp, 1)(1.0), ValueError, "none of them number 1"),
        (lambda: grad(ops.exp, "x"), TypeError, "argnums must be an integer"),
        (lambda: grad(ops.exp, (0, -1)), ValueError, "argnums must be integers of 0"),
    ],
)
def test_errors(call, error, said):
    with pytest.raises(error, match=said) as raised:
        call()
    assert "\n" not in str(raised.value)
