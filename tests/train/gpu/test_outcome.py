"""What a captured step tells the host, and that a bad one changes nothing."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.kernels.cuda.world import World
from tests.kernels.cuda.world import world as world
from tinyflow.kernels.cuda import launch

NAN, INF = float("nan"), float("inf")


def outcome(world: World, loss: float, norm: float, factor: float) -> np.ndarray:
    found = launch.outcome(
        world.put(np.array(loss, np.float32)),
        world.put(np.array(7, np.int32)),
        world.put(np.array([norm, factor])),
    )
    return world.get(found)


def test_outcome(world: World) -> None:
    np.testing.assert_array_equal(outcome(world, 2.5, 3, 0.25), [2.5, 7, 3, 0.25])
    # Finite numbers whose sum is not are taken for what they are.
    assert outcome(world, 3e38, 3e38, 0.5)[3] == 0.5


@pytest.mark.parametrize("loss", [NAN, INF, -INF, 1.0])
@pytest.mark.parametrize("norm", [NAN, INF, 1.0])
def test_the_factor_of_a_bad_step_is_no_number(
    world: World, loss: float, norm: float
) -> None:
    found = outcome(world, loss, norm, 0.5)
    np.testing.assert_array_equal(found[:3], [loss, 7, norm])
    finite = np.isfinite([loss, norm]).all()
    assert found[3] == 0.5 if finite else np.isnan(found[3])


def test_outcome_checks_its_arguments() -> None:
    loss, correct, norm = np.zeros((), "f4"), np.zeros((), "i4"), np.zeros(2)
    with pytest.raises(TypeError, match="needs 1 f4, got float64"):
        launch.outcome(loss.astype("f8"), correct, norm)
    with pytest.raises(TypeError, match="needs 1 i4, got int64"):
        launch.outcome(loss, correct.astype("i8"), norm)
    with pytest.raises(TypeError, match="needs 2 f8"):
        launch.outcome(loss, correct, norm[:1])


@pytest.fixture
def tensors(world: World) -> Iterator[tuple[World, Any, list[np.ndarray]]]:
    """Gradients, parameters, bfloat16 copies and two states, in a table."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=5000).astype(np.float32) for _ in range(4)]
    g, p, m, v = (world.put(a.copy()) for a in arrays)
    copy = world.put(np.arange(5000, dtype=np.uint16))
    yield world, launch.tensor_table([g], [p], [m], [v], copies=[copy]), [p, copy, m, v]


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("bad", [True, False])
def test_a_factor_that_is_no_number_changes_nothing(
    tensors: tuple[World, Any, list[np.ndarray]], rule: str, bad: bool
) -> None:
    world, table, written = tensors
    before = [world.get(a).copy() for a in written]
    rates = world.put(np.array([0.1, 1, 1], np.float32))
    clip = world.put(np.array([NAN if bad else 1.0]))
    if rule == "sgd":
        launch.sgd_step(table, rates, momentum=0.9, weight_decay=0.1, clip=clip)
    else:
        launch.adam_step(table, rates, clip=clip)
    same = [
        np.array_equal(world.get(a), b) for a, b in zip(written, before, strict=True)
    ]
    assert same == [bad, bad, bad, bad or rule == "sgd"]
