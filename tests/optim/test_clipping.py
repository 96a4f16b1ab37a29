"""Norms of gradients and clipping, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

from tests.optim.test_optim import give_gradients, parameters
from tinyflow import Tensor
from tinyflow.optim import clip_grad_norm, grad_norm


@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_clipping_as_pytorch(max_norm: float) -> None:
    torch = pytest.importorskip("torch")
    ours = parameters()
    give_gradients(ours, 0)
    theirs = [torch.tensor(p.data.copy(), requires_grad=True) for p in ours]
    for p, q in zip(ours, theirs, strict=True):
        q.grad = None if p.grad is None else torch.tensor(p.grad.copy())
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm).item()
    assert clip_grad_norm(ours, max_norm) == pytest.approx(expected, rel=1e-12)
    for p, q in zip(ours, theirs, strict=True):
        if p.grad is not None:
            np.testing.assert_allclose(p.grad, q.grad.numpy(), 1e-12)
    assert grad_norm(ours) <= max_norm


def test_clipping_of_a_gradient_that_two_parameters_share() -> None:
    a, b = (Tensor(np.zeros(2, np.float32), requires_grad=True) for _ in range(2))
    a.node.grad = b.node.grad = shared = np.full(2, 10, np.float32)
    clip_grad_norm([a, b], 1.0)
    np.testing.assert_array_equal(shared, 10)
    np.testing.assert_allclose(a.grad, 0.5, rtol=1e-6)
    assert a.grad is not None and a.grad.dtype == np.float32


@pytest.mark.parametrize("size", [1e-10, 1.0, 1e25])
def test_a_tensor_counts_once_and_finite_gradients_have_finite_norms(
    size: float,
) -> None:
    a, b = (Tensor(np.zeros(2, np.float32), requires_grad=True) for _ in range(2))
    a.grad, b.grad = np.float32([3 * size, 0]), np.float32([0, 4 * size])
    assert grad_norm([a, b, a, b]) == pytest.approx(5 * size, rel=1e-6)
    assert clip_grad_norm([("a", a), ("b", b), ("c", a)], size) == pytest.approx(
        5 * size, rel=1e-6
    )
    assert grad_norm([a, b]) <= size * (1 + 1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_clipping_refuses_what_no_factor_mends(bad: float) -> None:
    ours = parameters()
    give_gradients(ours, 1)
    first = ours[1].grad
    ours[2].grad = np.full(ours[2].shape, bad)
    with pytest.raises(FloatingPointError, match="that of '2' is not finite"):
        clip_grad_norm(ours, 1.0)
    assert ours[1].grad is first


def test_norm_without_gradients_and_wrong_limits() -> None:
    assert grad_norm(parameters()) == 0
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="max_norm"):
            clip_grad_norm(parameters(), wrong)
