"""Softmax, log-softmax, cross-entropy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyflow import Tape, Tensor, ops
from tinyflow.testing import check_vjp, spaced


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_softmax_and_log_softmax(shape, data):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = spaced(*shape)
    expected = np.exp(x) / np.exp(x).sum(axis=dim, keepdims=True)
    y = ops.softmax(Tensor(x), dim).data
    np.testing.assert_allclose(y, expected, rtol=1e-13)
    logs = ops.log_softmax(Tensor(x), dim).data
    np.testing.assert_allclose(logs, np.log(expected), rtol=1e-12, atol=1e-13)
    check_vjp(lambda t: ops.softmax(t, dim=dim), x, directions=1)
    check_vjp(lambda t: ops.log_softmax(t, dim=dim), x, directions=1)


def loops(x, labels, smoothing):
    """Cross-entropy per sample, spelled out."""
    losses = []
    for row, label in zip(x, labels, strict=True):
        normaliser = math.log(math.fsum(math.exp(v) for v in row))
        k = len(row)
        q = [smoothing / k + (1 - smoothing) * (j == label) for j in range(k)]
        losses.append(-math.fsum(q[j] * (row[j] - normaliser) for j in range(k)))
    return np.array(losses)


@given(
    n=st.integers(1, 5),
    k=st.integers(1, 5),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    data=st.data(),
)
def test_cross_entropy(n, k, smoothing, reduction, data):
    x = spaced(n, k)
    labels = data.draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    expected = loops(x, labels, smoothing)
    reduce = {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction]

    def loss(t):
        return ops.cross_entropy(
            t, labels, reduction=reduction, label_smoothing=smoothing
        )

    y = loss(Tensor(x))
    np.testing.assert_allclose(y.data, reduce(expected), rtol=1e-12, atol=1e-13)
    check_vjp(loss, x, directions=1, float32=True)


@pytest.mark.parametrize("labels", [[1, 0], np.array([1, 0], "uint8"), Tensor([1, 0])])
def test_labels_in_any_form(labels):
    x = Tensor(spaced(2, 3))
    y = ops.cross_entropy(x, labels)
    assert y.item() == ops.cross_entropy(x, np.array([1, 0])).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_logits_are_finite_and_silent(dtype, smoothing):
    x = Tensor(np.array([[1e4, -1e4, 0], [-1e4, 0, 1e4]], dtype), requires_grad=True)
    with Tape() as tape:
        loss = ops.cross_entropy(x, [1, 2], label_smoothing=smoothing)
        y = ops.softmax(x, dim=1)
    assert loss.dtype == y.dtype == dtype
    expected = 1e4 * (1 - smoothing) + smoothing * 1e4
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    tape.backward(loss)
    share = smoothing / 3
    kept = 1 - smoothing + share
    expected = [[1 - share, -kept, -share], [-share, -share, 1 - kept]]
    np.testing.assert_allclose(x.grad, np.array(expected) / 2, atol=1e-6)
    tape.backward(y, np.ones_like(y.data))
    np.testing.assert_array_equal(x.grad, 0)


def test_confident_and_right_costs_nothing():
    loss = ops.cross_entropy(Tensor(np.array([[50.0, 0, 0]])), [0])
    assert 0 <= loss.item() < 1e-20


X = Tensor(spaced(2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.cross_entropy(X, [0, 3]), r"\[0, 3\), target holds 0 to 3"),
        (lambda: ops.cross_entropy(X, [-1, 0]), "holds -1 to 0"),
        (lambda: ops.cross_entropy(X, [0]), r"target \(N, …\) class indices"),
        (lambda: ops.cross_entropy(X, [[0, 1]]), r"not \(2, 3\) and \(1, 2\)"),
        (lambda: ops.cross_entropy(Tensor(np.ones(3)), 0), r"input must be \(N, K"),
        (lambda: ops.cross_entropy(X, [5, 5], ignore_index=5), "no samples other than"),
        (lambda: ops.nll_loss(X, [-100, 1]), "-100 to 1; .*named by ignore_index"),
        (lambda: ops.cross_entropy(X, X, ignore_index=0), "ignore_index is for"),
        (lambda: ops.nll_loss(X, [0, 1], np.ones(2)), r"nll_loss: weight \(2,\)"),
        (lambda: ops.mse_loss(X, np.ones(3)), r"mse_loss: target \(3,\) must have"),
        (lambda: ops.mse_loss(Tensor(np.ones(0)), np.ones(0)), "no samples"),
        (lambda: ops.bce_with_logits(X, X, np.ones((3, 1))), "weight .*broadcast"),
        (lambda: ops.cross_entropy(X, [0, 1], reduction="max"), "reduction"),
        (lambda: ops.cross_entropy(X, [0, 1], label_smoothing=1.5), "label_smoothing"),
        (lambda: ops.cross_entropy(X, [0, 1], label_smoothing=-0.1), "label_smoothing"),
        (lambda: ops.cross_entropy(X, [0, 1], label_smoothing=math.nan), "smoothing"),
        (lambda: ops.softmax(X, 2), "axis|dim"),
        (lambda: ops.log_softmax(X, -3), "axis|dim"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
