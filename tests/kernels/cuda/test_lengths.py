"""Norms of gradients of any size on a GPU: the kernel's, and those of array code."""

import math
from typing import Any

import numpy as np
import pytest

from tests.fakes.strict_array import Machine
from tests.kernels.cuda.world import World, number, stored
from tests.kernels.cuda.world import world as world
from tinyflow import Tape, Tensor
from tinyflow.backend import asarray
from tinyflow.flow.probe import cosine, dot, norm, share
from tinyflow.kernels.cuda import launch
from tinyflow.lengths import device_length, l2_norm
from tinyflow.optim import clip_grad_norm, grad_norm

SIZES = [1e-45, 1e-42, 1e-38, 1e-30, 1e-23, 1e-19, 1e-3, 1e19, 1e30, 3e38]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_kernel_of_the_norm(world: World, dtype: str, size: float) -> None:
    grads = [stored(np.full(n, size, "float32"), dtype) for n in (5000, 3)]
    right = float(number(grads[0])[0]) * math.sqrt(5003)
    found = launch.gradient_norm(launch.tensor_table([*map(world.put, grads)]), 1e-3)
    assert found.dtype == np.float64
    factor = min(1, 1e-3 / (right + 1e-6))
    assert world.get(found) == pytest.approx([right, factor], rel=1e-12, abs=0)


@pytest.mark.parametrize("norm", [1e-45, 1e-23, 3e40])
def test_the_host_is_told_it_in_full(world: World, norm: float) -> None:
    loss, correct, left = (np.float32([2.5]), np.int32([7]), np.array([norm, 1e-41]))
    found = launch.outcome(*map(world.put, (loss, correct, left)))
    np.testing.assert_array_equal(world.get(found), [2.5, 7, norm, 1e-41])


@pytest.mark.parametrize("factor", [0.5, 1e-29, 1e-31, 1e-37, 1e-41, 1e-44])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_the_steps_take_factors_that_no_float_holds(
    world: World, rule: str, factor: float
) -> None:
    size = 0.25 / factor if factor < 1e-29 else 0.25
    size = min(size, 3e38)
    g = np.linspace(-size, size, 5000, dtype="float32")
    p, m, v = (world.put(np.zeros(5000, "float32")) for _ in range(3))
    table = launch.tensor_table([world.put(g)], [p], [m], [v])
    clip = world.put(np.array([factor]))
    rates = world.put(np.array([1, 1, 0], "float32"))
    if rule == "sgd":
        launch.sgd_step(table, rates, clip=clip)
        found = -world.get(p)
    else:
        launch.adam_step(table, rates, betas=(0.0, 0.5), clip=clip)
        found = world.get(m)
    np.testing.assert_allclose(found, g.astype("float64") * factor, 1e-6, 1e-45)


def test_a_factor_is_one_float64() -> None:
    arrays = [[np.zeros(8, "float32")] for _ in range(4)]
    table, rates = launch.tensor_table(*arrays), np.ones(3, "float32")
    for clip in (np.ones(1, "float32"), np.ones(2)):
        with pytest.raises(TypeError, match="not one float64"):
            launch.sgd_step(table, rates, clip=clip)
        with pytest.raises(TypeError, match="not one float64"):
            launch.adam_step(table, rates, clip=clip)


# ---- Array code, on the stand-in for CuPy --------------------------------------------


def given(machine: Machine, *entries: float, dtype: str = "float32") -> Any:
    del machine  # which has put CuPy in place
    return asarray(np.array(entries, dtype).reshape(1, -1), "cuda")


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float32", s) for s in SIZES if s < 1e38]
    + [("float16", 6e4), ("float16", 1e-7)]
    + [("float64", s) for s in (1e-320, 1e-200, 1.0, 1e200, 1e307)],
)
def test_a_length_on_the_device(machine: Machine, dtype: str, size: float) -> None:
    x = given(machine, size, 0, -size / 3, dtype=dtype)
    host = x.get().astype("float64").ravel()
    right = float(abs(host).max()) * math.sqrt(sum((host / abs(host).max()) ** 2))
    machine.syncs = 0
    found = device_length(x.ravel())
    assert machine.syncs == 0 and found.shape == () and found.dtype == np.float64
    assert float(found) == pytest.approx(right, rel=1e-14, abs=1e-323)
    assert l2_norm(x) == pytest.approx(right, rel=1e-14, abs=1e-323)
    assert norm(x) == pytest.approx(right, rel=1e-14, abs=1e-323)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zeros_and_what_is_no_number(machine: Machine, dtype: str) -> None:
    for take in (l2_norm, norm):
        assert take(given(machine, 0.0, -0.0, dtype=dtype)) == 0
        assert take(given(machine, dtype=dtype)) == 0
        assert take(given(machine, -np.inf, 1, dtype=dtype)) == np.inf
        assert math.isnan(take(given(machine, 1, np.nan, dtype=dtype)))


def test_products_on_the_device(machine: Machine) -> None:
    a, b = (
        given(machine, *e, dtype="float64") for e in ([3e-200, 0], [4e-200, 3e-200])
    )
    assert cosine(a, b) == pytest.approx(0.8) and dot(a, b) == 0
    assert share(b, a) == pytest.approx(4 / 3)
    a, b = (given(machine, *e) for e in ([3e-30, 0], [4e-30, 3e-30]))
    assert dot(a, b) == pytest.approx(12e-60, rel=1e-6, abs=0)


@pytest.mark.parametrize("retain", ["statistics", "tensors", "edges"])
@pytest.mark.parametrize("size", [1e-40, 1e-23, 1.0, 1e25])
def test_gradients_of_any_size(machine: Machine, retain: str, size: float) -> None:
    """And all norms of a sweep come in one transfer, those of a step in one or two."""
    x = Tensor(given(machine, *range(12)), requires_grad=True)
    with Tape(retain) as tape:
        y = x * 2.0 + x * 3.0
    cotangent = given(machine, *[size] * 12)
    machine.syncs = 0
    tape.backward(y, cotangent)
    assert machine.syncs == (retain != "edges")
    unit = float(np.float32(size)) * math.sqrt(12)
    assert x.node.norm == pytest.approx(5 * unit, rel=1e-6, abs=0)
    norms = [e.norm for e in tape.uses[x.node]]
    assert sorted(norms) == pytest.approx([2 * unit, 3 * unit], rel=1e-6, abs=0)
    machine.syncs = 0
    assert grad_norm([x]) == pytest.approx(5 * unit, rel=1e-6, abs=0)
    assert machine.syncs == (1 if size == 1 else 2)
    assert clip_grad_norm([x], 1.0) == pytest.approx(5 * unit, rel=1e-6, abs=0)
    assert grad_norm([x]) == pytest.approx(min(5 * unit, 1), rel=1e-5, abs=0)
