"""Pooling and columns on a GPU, kernel by kernel, against float64 NumPy."""

from itertools import product

import numpy as np
import pytest

from tests.kernels.cuda.world import World, close, number, rng, sliced, stored
from tests.kernels.cuda.world import world as world
from tests.ops.windows import window
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.cuda.source import DTYPES
from tinyflow.kernels.geometry import Window
from tinyflow.kernels.plain import pool as plain_pool

# ---- Pooling -------------------------------------------------------------------------
WINDOWS = [
    window((2, 2), (2, 2)),
    window((3, 3), (2, 2), (1, 1)),
    window((3, 2), (2, 1), (1, 1), (1, 1), True),
    window((2, 3), (3, 2), (0, 1, 1, 0), (1, 1), True),
    window((3, 3), (1, 2), (1, 1), (2, 1), True),
    window((1, 1), (2, 2)),
]
IMAGES = [(2, 7, 6, 3), (1, 9, 8, 16), (3, 4, 5, 20)]


def nchw(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("at", WINDOWS)
def test_max_pool(world: World, shape: tuple, at: Window, dtype: str) -> None:
    """Bit for bit like the array code, on ties, infinities and NaN too."""
    x = rng(1).integers(-4, 4, shape).astype(np.float32)
    x[rng(2).random(shape) < 0.05] = np.nan
    x[rng(3).random(shape) < 0.05] = -np.inf
    x = sliced(stored(x, dtype), 8 if shape[3] == 16 else 0)
    y, taps = launch.max_pool2d(world.put(x), at)
    right, winners = plain_pool.max_pool2d_forward(nchw(number(x)), at)
    np.testing.assert_array_equal(nchw(number(world.get(y))), right)
    np.testing.assert_array_equal(nchw(world.get(taps)), winners)
    g = stored(rng(4).normal(size=y.shape), dtype)
    dx = launch.max_pool2d_input_grad(world.put(g), taps, shape, at)
    back = plain_pool.max_pool2d_input_grad(nchw(number(g)), winners, nchw(x).shape, at)
    close(nchw(number(world.get(dx))), back, dtype, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("at", [w for w in WINDOWS if w.dilation == (1, 1)])
@pytest.mark.parametrize(("counted", "over"), [(True, None), (False, None), (True, 3)])
def test_avg_pool(
    world: World, shape: tuple, at: Window, counted: bool, over: int, dtype: str
) -> None:
    x = stored(rng(1).normal(size=shape), dtype)
    how = (at, counted, over)
    y = launch.avg_pool2d(world.put(x), *how)
    with np.errstate(invalid="ignore"):  # a window of border alone: 0 / 0
        right = plain_pool.avg_pool2d_forward(nchw(number(x)), *how)
    close(nchw(number(world.get(y))), right, dtype)
    g = stored(rng(2).normal(size=y.shape), dtype)
    wide = world.put(stored(np.ones((*shape[:3], shape[3] + 8)), dtype))
    dx = launch.avg_pool2d_input_grad(
        *(world.put(g), shape, *how),
        out=wide[..., : shape[3]],
    )
    with np.errstate(divide="ignore"):
        back = plain_pool.avg_pool2d_input_grad(nchw(number(g)), nchw(x).shape, *how)
    close(nchw(number(world.get(dx))), back, dtype, 3)
    assert (number(world.get(wide))[..., shape[3] :] == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*IMAGES, (2, 1, 1, 8), (1, 40, 33, 520)])
def test_global_avg_pool(world: World, shape: tuple, dtype: str) -> None:
    x = stored(rng(1).normal(size=shape), dtype)
    y = world.get(launch.global_avg_pool2d(world.put(x)))
    close(number(y), number(x).mean(axis=(1, 2)), dtype)
    dx = launch.global_avg_pool2d_input_grad(world.put(y), shape[1:3])
    right = np.broadcast_to(number(y)[:, None, None] / (shape[1] * shape[2]), shape)
    close(number(world.get(dx)), right, dtype, 0)


# ---- Columns -------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", [w._replace(ceil_mode=False) for w in WINDOWS])
@pytest.mark.parametrize(("channels", "groups"), [(6, 2), (16, 1), (16, 2), (8, 8)])
def test_im2col(
    world: World, channels: int, groups: int, at: Window, dtype: str
) -> None:
    (kh, kw), (sh, sw), (top, bottom, left, right), (dh, dw), _ = at
    x = stored(rng(1).normal(size=(2, 7, 6, channels)), dtype)
    columns = launch.im2col(world.put(x), at, groups)
    border = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded = np.pad(number(x), border)
    oh = (padded.shape[1] - dh * (kh - 1) - 1) // sh + 1
    ow = (padded.shape[2] - dw * (kw - 1) - 1) // sw + 1
    taps = np.stack(
        [
            padded[:, u * dh :: sh, v * dw :: sw][:, :oh, :ow]
            for u, v in product(range(kh), range(kw))
        ],
        axis=3,
    )
    taps = taps.reshape(2 * oh * ow, kh * kw, groups, -1).swapaxes(1, 2)
    np.testing.assert_array_equal(number(world.get(columns)), taps)
    g = stored(rng(2).normal(size=columns.shape), dtype)
    back = launch.col2im(world.put(g), x.shape, at)
    full = np.zeros(padded.shape)
    for tap, (u, v) in enumerate(product(range(kh), range(kw))):
        part = number(g)[:, :, tap].reshape(2, oh, ow, channels)
        full[:, u * dh :: sh, v * dw :: sw][:, :oh, :ow] += part
    full = full[:, top : full.shape[1] - bottom, left : full.shape[2] - right]
    close(number(world.get(back)), full, dtype, 4)
