"""Batch normalisation on a GPU, kernel by kernel, against float64 NumPy."""

from itertools import product

import numpy as np
import pytest

from tests.kernels.cuda.world import World, close, number, rng, sliced, stored
from tests.kernels.cuda.world import world as world
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.cuda.source import DTYPES

SHAPES = [(2, 1), (7, 3), (300, 20), (65, 16), (37, 136), (5, 1030), (2048, 8)]
SHAPES += [(2500, 24)]  # several blocks


@pytest.mark.parametrize("rows", [50, 2000, 100_003])
@pytest.mark.parametrize(("mean", "columns"), [(0, 16), (1e4, 3), (-300, 5)])
def test_statistics_are_exact(
    world: World, mean: float, columns: int, rows: int
) -> None:
    """As good as float32 can say it, even where |mean| is 10⁴ standard deviations."""
    x = (rng(1).normal(size=(rows, columns)) + mean).astype(np.float32)
    x[0] += 50  # the pivot must not follow one outlier
    found = launch.batch_norm_statistics(world.put(x), 1e-5)
    var = x.astype(np.float64).var(axis=0)
    np.testing.assert_allclose(world.get(found.var), var, rtol=1e-6)
    error = world.get(found.mean) - x.mean(axis=0, dtype=np.float64)
    assert (abs(error) <= 1e-6 * np.maximum(abs(mean), 1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gap", [0, 5, 8])
def test_batch_norm(world: World, shape: tuple[int, int], dtype: str, gap: int) -> None:
    random, (m, c) = rng(*shape, gap), shape
    x, g, r = (
        world.put(sliced(stored(random.normal(size=shape) + 3, dtype), gap))
        for _ in range(3)
    )
    weight, bias = (random.normal(size=c).astype(np.float32) for _ in range(2))
    running = [np.zeros(c, np.float32), np.ones(c, np.float32)]
    running = [world.put(v) for v in running]
    s = launch.batch_norm_statistics(
        x,
        1e-5,
        weight=world.put(weight),
        bias=world.put(bias),
        momentum=0.1,
        running_mean=running[0],
        running_var=running[1],
    )
    x64, g64, r64 = (number(world.get(v)) for v in (x, g, r))
    mean, var = x64.mean(axis=0), x64.var(axis=0)
    inv_std = 1 / np.sqrt(var + 1e-5)
    big = float(inv_std.max()) * 30  # two rows: the spread is as small as it likes
    close(world.get(s.mean), mean, "float32")
    close(world.get(s.inv_std), inv_std, "float32", scale=10)
    close(world.get(running[0]), 0.1 * mean, "float32")
    close(world.get(running[1]), 0.9 + 0.1 * var * m / (m - 1), "float32")
    hat = (x64 - mean) * inv_std
    for relu, residual in product((False, True), repeat=2):
        y64 = weight * hat + bias + r64 * residual
        y = launch.batch_norm_apply(
            x, s.scale, s.shift, residual=r if residual else None, relu=relu
        )
        kept = number(world.get(y)) > 0 if relu else True
        close(number(world.get(y)), y64.clip(0) if relu else y64, dtype, big)
        sent = world.put(np.zeros(shape, world.get(x).dtype)) if residual else None
        how = {"y": y if residual and relu else None, "relu": relu and not residual}
        if residual and relu:
            how["masked"] = sent
        d = launch.batch_norm_gradients(g, x, s, **how)
        passed = g64 * kept
        dgamma, dbeta = (passed * hat).sum(axis=0), passed.sum(axis=0)
        near = 4 * abs(g64).sum(axis=0).max() * abs(hat).max()
        close(world.get(d.weight), dgamma, "float32", near)
        close(world.get(d.bias), dbeta, "float32", near)
        dx64 = weight * inv_std * (passed - dbeta / m - hat * dgamma / m)
        near = float(abs(weight * inv_std).max() * 50)
        dx = launch.batch_norm_input_grad(g, x, s, d, **how)
        close(number(world.get(dx)), dx64, dtype, near)
        if residual and relu:
            np.testing.assert_array_equal(number(world.get(sent)), passed)
            again = launch.batch_norm_input_grad(sent, x, s, d)
            np.testing.assert_array_equal(world.get(again), world.get(dx))


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_of_a_slice_adds_to_a_slice(world: World, dtype: str) -> None:
    """DenseNet: constants as statistics, the gradient added to part of a buffer."""
    x, g = (stored(rng(i).normal(size=(50, 24)), dtype) for i in range(2))
    ones = np.linspace(0.5, 2, 24).astype(np.float32)
    s = launch.batch_norm_affine(world.put(ones), world.put(ones), 1e-3)
    gain = 1 / np.sqrt(ones.astype(np.float64) + 1e-3)
    close(world.get(s.shift), -ones * gain, "float32")
    buffer = world.put(stored(np.ones((50, 40)), dtype))
    d = launch.batch_norm_gradients(world.put(g), world.put(x), s, batch=False)
    launch.batch_norm_input_grad(
        *(world.put(g), world.put(x), s, d), out=buffer[:, 8:32], accumulate=True
    )
    found = number(world.get(buffer))
    close(found[:, 8:32], 1 + number(g) * gain, dtype, 4)
    assert (found[:, :8] == 1).all() and (found[:, 32:] == 1).all()


@pytest.mark.parametrize("columns", [63, 64])  # one at a time, and vectors
def test_bfloat16_rounds_to_nearest_even(world: World, columns: int) -> None:
    """Ties, numbers beside them, the largest, the smallest, infinities and NaN.

    The smallest normal one: CuPy compiles with -ftz=true, which takes others for 0.
    """
    bits = [0x3F80_0000, 0x3F81_0000, 0x7F7F_0000, 0x0080_0000, 0xC2FF_0000]
    bits = [b + d for b in bits for d in (0, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    bits = np.array([*bits, 0, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000], np.uint32)
    shift = np.resize(bits.view(np.float32), columns)
    zero = world.put(np.zeros((3, columns), np.uint16))
    y = launch.batch_norm_apply(
        zero, world.put(np.zeros(columns, np.float32)), world.put(shift)
    )
    np.testing.assert_array_equal(world.get(y)[1], stored(shift, "bfloat16"))


def test_statistics_reused_by_another_layer(world: World) -> None:
    x = world.put(rng(3).normal(size=(40, 12)).astype(np.float32))
    weight = world.put(rng(4).normal(size=12).astype(np.float32))
    running = [world.put(np.full(12, v, np.float32)) for v in (0, 1, 0, 1)]
    first = launch.batch_norm_statistics(
        x, 1e-5, weight=weight, momentum=0.3,
        running_mean=running[0], running_var=running[1],
    )  # fmt: skip
    again = launch.batch_norm_affine(
        first.mean, first.var, 1e-5, weight=weight, momentum=0.3, count=40,
        running_mean=running[2], running_var=running[3],
    )  # fmt: skip
    for a, b in zip((*first, *running[:2]), (*again, *running[2:]), strict=True):
        close(world.get(a), world.get(b), "float32")


def test_statistics_written_beside_others(world: World) -> None:
    x = world.put(rng(3).normal(size=(40, 12)).astype(np.float32))
    rows = world.put(np.zeros((2, 31), np.float32))
    found = launch.batch_norm_statistics(x, 0.0, mean=rows[0, 5:17], var=rows[1, 5:17])
    wanted = launch.batch_norm_statistics(x, 0.0)
    for a, b, c in zip(found, wanted, world.get(rows), strict=False):
        np.testing.assert_array_equal(world.get(a), world.get(b))
        np.testing.assert_array_equal(c[5:17], world.get(b))
        assert not c[:5].any() and not c[17:].any()
    with pytest.raises(TypeError, match=r"needs float32 \(12,\)"):
        launch.batch_norm_statistics(x, 0.0, mean=rows[0])
