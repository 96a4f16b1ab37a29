"""The engines that arithmetic is tried on, as fixtures."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.kernels.cuda.world import on_host
from tests.kernels.native.built import COMPILER
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.engine import PLAIN, forced
from tinyflow.kernels.layout import swap
from tinyflow.kernels.table import Engine


class Case(NamedTuple):
    """An engine and the dtype it is tried in."""

    engine: Engine
    dtype: Any


@pytest.fixture(params=["numpy float64", "numpy float32", "C float32"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    name, dtype = request.param.split()
    if name == "C" and not COMPILER:
        pytest.skip("no C compiler")
    found = request.getfixturevalue("native") if name == "C" else PLAIN
    with forced(found), np.errstate(all="ignore"):
        yield Case(found, np.dtype(dtype).type)


@pytest.fixture(params=["numpy", "C", "CUDA"])
def small(request: pytest.FixtureRequest) -> Iterator[Any]:
    """float32: (moments, mean of maps, gradient through a ReLU), on rows (M, C)."""
    if request.param == "C" and not COMPILER:
        pytest.skip("no C compiler")
    run = request.getfixturevalue("native") if request.param == "C" else PLAIN
    with on_host() if request.param == "CUDA" else nullcontext():
        if request.param == "CUDA":
            yield _cuda
        else:
            yield lambda name, *a: _ON_ROWS[name](run, *a)


def images(rows: np.ndarray) -> np.ndarray:
    """A matrix (M, C) as one sample of M pixels, as it lies."""
    return swap(np.ascontiguousarray(rows)[:, None, None])


_ON_ROWS: dict[str, Callable[..., Any]] = {
    "moments": lambda run, x: run.moments(images(x)),
    "mean": lambda run, x: run.map_mean(images(x))[0],
    "sum": lambda run, g: run.channel_sum(images(g)),
    "relu_grad": lambda run, g, y: run.relu_grad(g, y),
    "masked": lambda run, g, y: swap(
        run.normalize_sums(images(g), images(y), y[0], images(y))[2]
    ).reshape(g.shape),
    "sigmoid": lambda run, z: run.sigmoid(z),
    "sigmoid_grad": lambda run, z: run.sigmoid_grad(np.ones_like(z), z),
}


def _cuda(name: str, *a: np.ndarray) -> Any:
    a = tuple(map(np.ascontiguousarray, a))
    if name == "moments":
        return launch.batch_norm_statistics(a[0], 0.0)[:2]
    if name == "mean":
        return launch.global_avg_pool2d(a[0][None, :, None])[0]
    if name == "sum":
        return launch.bias_grad(a[0])
    if name == "relu_grad":
        return launch.relu_grad(*a)
    if name == "masked":
        masked = np.empty_like(a[0])
        launch.bias_grad(a[0], y=a[1], masked=masked)
        return masked
    if name == "sigmoid":
        return launch.sigmoid(a[0])
    return launch.sigmoid(a[0], np.ones_like(a[0]))
