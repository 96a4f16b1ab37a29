"""What backward keeps, level by level, and that the core knows nothing but itself."""

import numpy as np
import pytest

from tinyflow import Tape, Tensor, nn, ops, sweep

# Each file of the core may use those before it, and nothing else of tinyflow.


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values), requires_grad=True)


@pytest.mark.parametrize("retain", ["leaves", "statistics", "tensors", "edges"])
def test_what_each_level_keeps(retain: str) -> None:
    """y = 2 x is used with 3, 4 and 12, each along an axis of its own."""
    x = leaf(1.0, 1.0, 1.0)
    messages = np.diag([3.0, 4.0, 12.0])
    with Tape(retain) as tape:
        y = ops.mul(x, 2.0)
        a, b, c = (ops.mul(y, m) for m in messages)
        loss = ops.sum(ops.add(ops.add(a, b), c))
    tape.backward(loss)
    assert x.grad is not None and x.grad.tolist() == [6.0, 8.0, 24.0]
    assert x.node.norm == 26.0
    uses, node = tape.edges(y), y.node
    noted = retain != "leaves"
    assert node.norm == (13.0 if noted else None)  # not that of the last message alone
    assert [e.norm for e in uses] == ([3.0, 4.0, 12.0] if noted else [None] * 3)
    kept = retain in ("tensors", "edges")
    assert (None if node.grad is None else node.grad.tolist()) == (
        [3.0, 4.0, 12.0] if kept else None
    )
    assert (node.value is y.data) == kept
    found = [e.grad for e in uses if e.grad is not None]
    assert np.array_equal(found, messages if retain == "edges" else [])


@pytest.mark.parametrize("retain", ["leaves", "statistics", "tensors", "edges"])
def test_a_value_of_another_tape_is_a_leaf_to_this_one(retain: str) -> None:
    x = leaf(1.0, 2.0)
    with Tape():
        y = ops.mul(x, 3.0)
    with Tape(retain) as tape:
        loss = ops.sum(ops.mul(y, y))
    tape.backward(loss)
    assert y.grad is not None and y.grad.tolist() == [6.0, 12.0] and x.grad is None
    assert y.node.norm == pytest.approx(180**0.5)


def test_the_addition_that_is_handed_in_changes_no_bit(monkeypatch):
    """Kernels may add faster, but not otherwise than NumPy."""
    layer = nn.Conv2d(3, 8, 3, padding=1, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((2, 3, 9, 9), dtype=np.float32)
    found = []
    for add in (sweep.add, np.add):
        monkeypatch.setattr(sweep, "add", add)
        with Tape() as tape:
            h = layer(Tensor(x))
            loss = ops.sum(sum((ops.mul(h, ops.sigmoid(h)) for _ in range(5)), h))
        tape.backward(loss)
        found.append([p.grad for p in layer.parameters()])
    for ours, plain in zip(*found, strict=True):
        assert np.array_equal(ours, plain)
