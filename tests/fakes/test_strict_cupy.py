"""The CuPy stand-in itself: what it must catch, and where it is not NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.fakes.strict_array import Machine
from tests.kernels.cuda.test_strict import assert_float32, steps, taped, up
from tinyflow.backend import array_module
from tinyflow.kernels.engine import forced
from tinyflow.kernels.table import Engine
from tinyflow.tape import record
from tinyflow.testing import spaced


def test_an_implicit_copy_to_the_host_is_caught(machine: Machine) -> None:
    x = up(spaced(2, 3))
    for mistake in (
        lambda: np.asarray(x),
        lambda: np.exp(x),
        lambda: np.sum(x),
        lambda: x + np.ones(3),
        lambda: np.ones(3) * x,
        lambda: array_module(x).maximum(x, np.zeros(())),
        lambda: array_module(x).exp(x, out=np.empty((2, 3))),
        lambda: x[np.array([0, 1])],
    ):
        with pytest.raises(TypeError):
            mistake()
    with pytest.raises(ValueError, match="fill"):
        x[...] = np.ones((2, 3))
    assert machine.syncs == 0
    assert (
        float(x[0, 0]),
        int(x[0, 0] * 0),
        bool((x == x).all()),
    ) and machine.syncs == 3


class Doubtful(Engine):
    """Kernels with a mistake."""

    def conv2d(self, x: Any, *rest: Any) -> Any:
        """Compute what is right, by way of float64."""
        return (super().conv2d(x, *rest) * np.float64(1)).astype(x.dtype)

    def relu_grad(self, g: Any, y: Any) -> Any:
        """Ask the device what nobody needs to know."""
        return super().relu_grad(g, y) if bool((y > 0).any()) else 0 * g


def test_a_float64_scalar_and_a_hidden_wait_are_caught(machine: Machine) -> None:
    with forced(Doubtful()):
        tape, loss = taped("cuda", "leaves")
        machine.syncs = 0
        tape.backward(loss)
        assert machine.syncs > 0
        machine.made.clear()
        model, run, _ = steps("plain20", "cuda")
        with pytest.raises(AssertionError):
            assert_float32(machine, model, run, 1)


def test_memory_order_is_lost_where_cupy_loses_it(machine: Machine) -> None:
    """So that a test may notice which operators turn the images round."""
    cupy: Any = array_module(up(spaced(1)))
    x = up(spaced(2, 3, 4, 5).transpose(2, 3, 0, 1))
    assert cupy.zeros_like(x).strides == x.copy("K").strides == x.strides
    for made in (x * 2, cupy.exp(x), x.copy(), x > 0, cupy.asarray(x.get())):
        assert made.flags.c_contiguous
    assert cupy.asarray(spaced(2, 3, 4).transpose(2, 0, 1)).flags.c_contiguous


def test_new_memory_is_not_zero(machine: Machine) -> None:
    cupy: Any = array_module(up(spaced(1)))
    assert np.isnan(cupy.empty(3, "float32").get()).all()
    assert (cupy.empty(3, "uint8").get() == 0x5A).all()
    y = record("made up", cupy.empty_like(up(spaced(2))), (), lambda g, need: ())
    assert np.isnan(y.data.get()).all()
