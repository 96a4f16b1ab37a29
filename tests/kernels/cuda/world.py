"""Where the CUDA kernels are tried: on the host that plays a GPU, or on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tests.fakes.cuda_host import emulator
from tinyflow.backend import choose_device
from tinyflow.kernels.cuda import module

NEAR = {"float32": 3e-6, "bfloat16": 2**-8}
"""Relative error allowed: a few roundings of the sums, and one of the result."""


class World:
    """Where the kernels run."""

    def __init__(self, name: str) -> None:
        self.name = name

    def put(self, x: np.ndarray) -> np.ndarray:
        """`x` there, with the strides it has."""
        if self.name == "host":
            return x
        import cupy

        y = cupy.asarray(x)
        if x.strides == y.strides:
            return y
        return _like(cupy, x)

    def get(self, x: np.ndarray) -> np.ndarray:
        """`x` here."""
        return x if self.name == "host" else x.get()


def _like(xp: object, x: np.ndarray) -> np.ndarray:
    """A device copy of a slice of the last axis, as a slice of a wider buffer."""
    wide = xp.zeros((*x.shape[:-1], x.strides[-2] // x.itemsize), x.dtype)
    wide[..., : x.shape[-1]] = xp.asarray(x)
    return wide[..., : x.shape[-1]]


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "gpu":
        device, reason = choose_device("auto")
        if device != "cuda":
            pytest.skip(reason)
        yield World("gpu")
        return
    with on_host():
        yield World("host")


@contextmanager
def on_host(order: str = "falling") -> Iterator[None]:
    """Launches go to the emulator; threads in falling order, the less usual one."""
    if emulator.COMPILER is None:
        pytest.skip("there is no g++ to compile the kernels for the host")
    with module.compiled_by(emulator.compile_on_host), emulator.running(order):
        yield


def stored(x: np.ndarray, dtype: str) -> np.ndarray:
    """`x` as activations are stored."""
    x = np.ascontiguousarray(x, np.float32)
    if dtype == "float32":
        return x
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def number(x: np.ndarray) -> np.ndarray:
    """What is stored, as float64."""
    if x.dtype == np.uint16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float64)


def sliced(x: np.ndarray, gap: int) -> np.ndarray:
    """The same numbers as a slice of the last axis of a buffer `gap` entries wider."""
    wide = np.full((*x.shape[:-1], x.shape[-1] + gap), 7, x.dtype)
    view = wide[..., : x.shape[-1]]
    view[...] = x
    return view


def close(ours: np.ndarray, right: np.ndarray, dtype: str, scale: float = 1.0) -> None:
    """Within rounding, absolute where the numbers are of size `scale` or less."""
    near = NEAR[dtype] * scale
    np.testing.assert_allclose(ours, right, rtol=NEAR[dtype], atol=near)


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def one(world: World, value: float, dtype: str = "float32") -> np.ndarray:
    return world.put(np.array([value], dtype))
