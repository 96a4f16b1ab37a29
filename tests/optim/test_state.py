"""What optimisers keep: moved with its parameter, saved, loaded, refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.optim.test_optim import CASES, give_gradients, parameters
from tinyflow import Tensor, nn
from tinyflow.optim import SGD, Adam, Optimizer


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_state_follows_a_parameter_that_moves(
    kind: type[Optimizer], options: dict[str, object]
) -> None:
    """Half the steps in float32, then in float64: as if loaded into a new optimiser."""
    ours = parameters("float32")
    optimizer = kind(ours, lr=0.05, **options)
    for step in range(3):
        give_gradients(ours, step)
        optimizer.step()
    theirs = [Tensor(p.data.astype("float64"), requires_grad=True) for p in ours]
    heir = kind(theirs, lr=0.05, **options)
    heir.load_state_dict(optimizer.state_dict())
    for p in ours:
        p.data = p.data.astype("float64")
    for step in range(3, 6):
        for tensors, rule in ((ours, optimizer), (theirs, heir)):
            give_gradients(tensors, step)
            rule.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(p.data, q.data)
    for name, array in optimizer.state_dict().items():
        assert name.startswith("steps/") or array.dtype == "float64"


@pytest.mark.parametrize("why", ["read-only", "has shape"])
def test_a_parameter_that_cannot_be_updated_stops_all(why: str) -> None:
    ours = parameters()
    optimizer = Adam(ours)
    give_gradients(ours, 1)
    optimizer.step()
    before, steps = [p.data.copy() for p in ours], dict(optimizer.steps)
    last = ours[2]
    if why == "read-only":
        last.data = last.data.copy()
        last.data.flags.writeable = False
    else:
        last.data, last.node.grad = np.ones(2), None
        last.grad = np.ones(2)
    with pytest.raises(ValueError, match=why):
        optimizer.step()
    for p, old in zip(ours, before, strict=True):
        assert p is last or np.array_equal(p.data, old)
    assert optimizer.steps == steps


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_state_round_trip(kind: type[Optimizer], options: dict[str, object]) -> None:
    def run(steps: range, optimizer: Optimizer, tensors: list[Tensor]) -> None:
        for step in steps:
            give_gradients(tensors, step)
            optimizer.step()

    straight, stopped = parameters(), parameters()
    run(range(6), kind(straight, lr=0.05, **options), straight)
    first = kind(stopped, lr=0.05, **options)
    run(range(3), first, stopped)
    second = kind(stopped, lr=0.05, **options)
    second.load_state_dict({k: v.copy() for k, v in first.state_dict().items()})
    run(range(3, 6), second, stopped)
    for p, q in zip(straight, stopped, strict=True):
        np.testing.assert_array_equal(p.data, q.data)


def test_state_that_does_not_fit() -> None:
    ours = parameters()
    optimizer = Adam(ours)
    give_gradients(ours, 0)
    optimizer.step()
    state = optimizer.state_dict()
    for wrong in (
        {**state, "m/99": np.zeros(3)},
        {k: v for k, v in state.items() if k != "v/1"},
        {**state, "v/1": np.zeros(99)},
    ):
        fresh = Adam(ours)
        with pytest.raises(ValueError, match=r"missing or unknown|has shape"):
            fresh.load_state_dict(wrong)
        assert not fresh.state
    with pytest.raises(ValueError, match="SGD"):
        SGD(ours, lr=0.1).load_state_dict(state)


def test_named_parameters_of_a_module() -> None:
    layer = nn.Linear(3, 2, rng=np.random.default_rng(0))
    optimizer = SGD(layer.named_parameters(), lr=0.1, momentum=0.9)
    for p in layer.parameters():
        p.node.grad = np.ones(p.shape, np.float32)
    optimizer.step()
    assert set(optimizer.state_dict()) == {
        f"{slot}/{name}"
        for slot in ("steps", "momentum")
        for name in ("weight", "bias")
    }
