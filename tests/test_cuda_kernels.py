"""The CUDA kernels through their launch functions, against float64 NumPy.

Each test runs where it can: on the host, where ``cuda_host`` compiles the same .cu
files with g++ and plays the GPU, and on a GPU if there is one. bfloat16 is its bits in
uint16.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from tests.cuda_host import emulator
from tests.windows import window
from tinyflow import Tape, Tensor, ops
from tinyflow.backend import choose_device
from tinyflow.data.augment import normalize
from tinyflow.kernels.cuda import launch, module, source
from tinyflow.kernels.cuda.source import DTYPES, Variant
from tinyflow.kernels.geometry import Window
from tinyflow.kernels.plain import pool as plain_pool
from tinyflow.optim import SGD, Adam, AdamW, Optimizer

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


# ---- Batch normalisation -------------------------------------------------------------
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


# ---- Optimisers ----------------------------------------------------------------------
OPTIMISERS = [
    (SGD, {}),
    (SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "dampening": 0.5}),
    (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (Adam, {"weight_decay": 0.1}),
    (AdamW, {"betas": (0.8, 0.99), "weight_decay": 0.1}),
]
SIZES = [(3,), (4097,), (1, 1), (64, 130), (0,)]


def one(world: World, value: float, dtype: str = "float32") -> np.ndarray:
    return world.put(np.array([value], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "options"), OPTIMISERS)
def test_optimisers(
    world: World, kind: type[Optimizer], options: dict, dtype: str
) -> None:
    """Five steps like tinyflow.optim's in float64, with clipping and another rate."""
    start = [rng(i).normal(size=s) for i, s in enumerate(SIZES)]
    right = [Tensor(p.astype(np.float32).astype(float), True) for p in start]
    theirs = kind(right, lr=0.05, **options)
    ours = [world.put(p.astype(np.float32)) for p in start]
    copies = [world.put(stored(p, "bfloat16")) for p in start]
    copies[1] = None
    grads = [world.put(stored(p, dtype)) for p in start]
    states = [[world.put(np.zeros(s, np.float32)) for s in SIZES] for _ in theirs.slots]
    table = launch.tensor_table(grads, ours, *states, copies=copies)
    lr, steps = one(world, 0.05), one(world, 0, "int32")
    rates = world.put(np.zeros(3, np.float32))
    for step in range(5):
        if step == 3:
            theirs.lr = 0.01
            lr[...] = 0.01
        for i, (g, p) in enumerate(zip(grads, right, strict=True)):
            fresh = stored(rng(step, i).normal(size=p.shape), dtype)
            g[...] = world.put(fresh)
            p.node.grad = number(fresh)
        norm = launch.gradient_norm(table, 60.0)
        grown = np.sqrt(sum((p.grad**2).sum() for p in right))
        close(world.get(norm), [grown, min(1, 60 / (grown + 1e-6))], "float32")
        for p in right:
            p.node.grad = p.grad * min(1, 60 / (grown + 1e-6))
        theirs.step()
        if kind is SGD:
            keys = {k: v for k, v in options.items() if k != "dampening"}
            damp = options.get("dampening", 0.0)
            launch.advance_sgd(steps, lr, rates, dampening=damp)
            launch.sgd_step(table, rates, clip=norm[1:], **keys)
        else:
            decay, betas = options["weight_decay"], options.get("betas", (0.9, 0.999))
            apart = kind is AdamW
            launch.advance_adam(
                steps, lr, rates, betas=betas, decoupled_decay=decay * apart
            )
            launch.adam_step(
                *(table, rates),
                **{"betas": betas, "weight_decay": decay * (not apart)},
                **{"decoupled": apart, "clip": norm[1:]},
            )
    for p, q, copy in zip(ours, right, copies, strict=True):
        np.testing.assert_allclose(world.get(p), q.data, rtol=2e-5, atol=2e-5)
        if copy is not None:
            found = stored(world.get(p), "bfloat16")
            np.testing.assert_array_equal(world.get(copy), found)


def test_gradients_that_moved(world: World) -> None:
    """Their new places are read, and nothing else of the table changes."""
    p, b = (world.put(np.zeros(5000, np.float32)) for _ in range(2))
    table = launch.tensor_table([world.put(np.ones(5000, np.float32))], [p], [b])
    moved = launch.with_gradients(table, [world.put(np.full(5000, 2, np.float32))])
    rates = world.put(np.array([0.5, 1, 0], np.float32))
    launch.sgd_step(table, rates, momentum=1.0)
    launch.sgd_step(moved, rates, momentum=1.0)
    assert (world.get(p) == -0.5 - 1.5).all() and (world.get(b) == 3).all()
    for wrong in ([], [world.put(np.ones(4999, np.float32))]):
        with pytest.raises(ValueError):
            launch.with_gradients(table, wrong)


def test_the_norm_of_nothing_is_0(world: World) -> None:
    table = launch.tensor_table([world.put(np.zeros(0, np.float32))])
    assert world.get(launch.gradient_norm(table, 1.0)).tolist() == [0, 1]


def test_a_norm_that_is_no_number_clips_nothing(world: World) -> None:
    table = launch.tensor_table([world.put(np.array([1, np.nan], np.float32))])
    assert world.get(launch.gradient_norm(table, 1.0))[1] == 1


# ---- Entry by entry ------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "gap"), [((9, 16), 0), ((33, 5), 0), ((300, 24), 8)])
def test_elementwise(
    world: World, shape: tuple[int, int], gap: int, dtype: str
) -> None:
    x, z, g = (sliced(stored(rng(i).normal(size=shape), dtype), gap) for i in (1, 2, 3))
    x[1, 2] = stored(np.array([np.nan]), dtype)[0]
    bias = rng(4).normal(size=shape[1]).astype(np.float32)
    x64, z64, g64 = number(x), number(z), number(g)
    x, z, g = world.put(x), world.put(z), world.put(g)
    y = launch.relu(x)
    np.testing.assert_array_equal(number(world.get(y)), np.maximum(x64, 0))
    close(number(world.get(launch.add(x, z))), x64 + z64, dtype)
    both = launch.add(x, z, relu=True)
    close(number(world.get(both)), np.maximum(x64 + z64, 0), dtype)
    on_top = launch.bias_add(x, world.put(bias), relu=True)
    close(number(world.get(on_top)), np.maximum(x64 + bias, 0), dtype)
    passed = np.where(x64 <= 0, 0, g64)  # at NaN the gradient passes
    dx = launch.relu_grad(g, y)
    np.testing.assert_array_equal(number(world.get(dx)), passed)
    masked = world.put(np.zeros(shape, world.get(x).dtype))
    sums = launch.bias_grad(g, y=y, masked=masked)
    np.testing.assert_array_equal(number(world.get(masked)), passed)
    close(world.get(sums), passed.sum(axis=0), "float32", 30)
    close(world.get(launch.bias_grad(g)), g64.sum(axis=0), "float32", 30)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "area", "c"), [(3, 1, 16), (2, 49, 5), (5, 64, 24)])
def test_gate(world: World, n: int, area: int, c: int, dtype: str) -> None:
    x, r, g = (stored(rng(i).normal(size=(n * area, c)), dtype) for i in (1, 2, 3))
    s = stored(rng(4).normal(size=(n, c)), dtype)
    x64, r64, g64, s64 = (number(v) for v in (x, r, g, s))
    x, r, g, s = map(world.put, (x, r, g, s))
    s64 = np.repeat(s64, area, 0)
    for fused in (False, True):
        y64 = s64 * x64 + r64 * fused
        y = launch.gate(x, s, residual=r if fused else None, relu=fused)
        close(number(world.get(y)), np.maximum(y64, 0) if fused else y64, dtype, 4)
        passed = g64 * (number(world.get(y)) > 0) if fused else g64
        masked = world.put(np.zeros(x.shape, world.get(x).dtype)) if fused else None
        dx, ds = launch.gate_grad(g, x, s, y=y if fused else None, masked=masked)
        close(number(world.get(dx)), s64 * passed, dtype, 4)
        right = (passed * x64).reshape(n, area, c).sum(axis=1)
        close(number(world.get(ds)), right, dtype, 20)
        if fused:
            np.testing.assert_array_equal(number(world.get(masked)), passed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 16), (7, 5), (1, 1)])
def test_sigmoid(world: World, shape: tuple[int, int], dtype: str) -> None:
    x, g = (stored(rng(i).normal(0, 9, shape), dtype) for i in (1, 2))
    x64, g64 = number(x), number(g)
    s64 = 1 / (1 + np.exp(-x64))
    x, g = world.put(x), world.put(g)
    close(number(world.get(launch.sigmoid(x))), s64, dtype, 4)
    slope = s64 / (1 + np.exp(x64))  # s (1 - s), and nothing cancels
    close(number(world.get(launch.sigmoid(x, g))), g64 * slope, dtype, 4)


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


# ---- Loss ----------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 10), (33, 100), (6, 1000)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(
    world: World, n: int, k: int, smoothing: float, reduction: str, dtype: str
) -> None:
    x = stored(3 * rng(1).normal(size=(n, k)) + 100, dtype)  # far from zero
    labels = rng(2).integers(0, k, n).astype(np.int64 if k > 10 else np.int32)
    logits = Tensor(number(x), requires_grad=True)
    weights = rng(3).normal(size=n if reduction == "none" else 1).astype(np.float32)
    with Tape() as tape:
        loss = ops.cross_entropy(logits, labels, reduction, smoothing)
        total = ops.sum(ops.mul(loss, Tensor(weights.astype(float))))
    tape.backward(total)
    device, at = world.put(x), world.put(labels)
    found = launch.cross_entropy(device, at, reduction, smoothing)
    ours = found.losses if reduction == "none" else found.loss
    near = 1 if reduction == "mean" else n
    close(world.get(ours), loss.data, "float32", near * 10)
    right = (number(x).argmax(axis=1) == labels).sum()
    assert int(world.get(found.correct)) == right
    g = world.put(weights)
    dx = launch.cross_entropy_input_grad(device, at, found, reduction, smoothing, g)
    np.testing.assert_allclose(
        number(world.get(dx)), logits.grad, rtol=20 * NEAR[dtype], atol=1e-6
    )


def test_first_maximum_counts_and_wrong_labels_show(world: World) -> None:
    x = np.zeros((4, 40), np.float32)
    x[1, 35] = np.nan
    x[2, 39] = 1
    labels = np.array([0, 35, 39, 38])  # as numpy.argmax: the first, and NaN is largest
    found = launch.cross_entropy(world.put(x), world.put(labels))
    assert int(world.get(found.correct)) == (x.argmax(axis=1) == labels).sum() == 3
    for wrong in (-1, 40):
        labels[0] = wrong
        found = launch.cross_entropy(world.put(x), world.put(labels))
        assert np.isnan(world.get(found.losses)[0])


# ---- Random numbers ------------------------------------------------------------------
def philox(counter: np.ndarray, key: int) -> np.ndarray:
    """Philox 4x32-10 of counters (n, 4), in Python's own arithmetic."""
    low, (c0, c1, c2, c3) = 0xFFFFFFFF, counter.astype(object).T
    k0, k1 = key & low, key >> 32
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & low, (p0 >> 32) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def test_philox_known_answers() -> None:
    """Those of Random123's kat_vectors."""
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    cases = [
        ([0] * 4, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (pi, 0x299F31D0A4093822, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ]
    for counter, key, answer in cases:
        found = philox(np.array([counter], np.uint64), key)[0]
        assert " ".join(f"{v:08x}" for v in found) == answer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "p"), [(1003, 0.3), (4096, 0.5), (64, 1.0), (8, 0.0)])
def test_dropout(world: World, size: int, p: float, dtype: str) -> None:
    x, seed = stored(rng(1).normal(size=size), dtype), 2**40 + 7
    step = one(world, 5, "uint32")
    launch.advance(step)
    y = launch.dropout(world.put(x), p, seed, step, stream=3)
    counter = np.zeros((-(-size // 4), 4), np.uint64)
    counter[:, 0], counter[:, 2:] = np.arange(len(counter)), (6, 3)
    uniform = (philox(counter, seed).ravel()[:size] >> 8) / 2**24
    right = np.where(uniform >= p, number(x) / (1 - p if p < 1 else 1), 0)
    close(number(world.get(y)), right, dtype)
    assert p != 0.5 or abs((uniform >= p).mean() - 0.5) < 0.05
    launch.advance(step)
    if 0 < p < 1:
        other = launch.dropout(world.put(x), p, seed, step, stream=3)
        assert (world.get(other) != world.get(y)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "pad", "mirror"), [(3, 4, True), (1, 0, False)])
def test_augment(
    world: World, channels: int, pad: int, mirror: bool, dtype: str
) -> None:
    images = rng(1).integers(0, 256, (9, channels, 8, 6), dtype=np.uint8)
    index = rng(2).permutation(9)[:7].astype(np.int64)
    mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.25, 0.3][:channels]
    table = launch.byte_table(mean, std)
    out = world.put(stored(np.zeros((7, 8, 6, channels)), dtype))
    launch.augment(
        *(world.put(images), world.put(index), world.put(table), out),
        **{"pad": pad, "mirror": mirror, "seed": 11, "step": one(world, 2, "uint32")},
    )
    counter = np.zeros((7, 4), np.uint64)
    counter[:, 0], counter[:, 2] = np.arange(7), 2
    random = philox(counter, 11).astype(np.uint64)
    corner = (random[:, :2] * (2 * pad + 1)) >> 32
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    right = np.stack(
        [
            padded[i, :, a : a + 8, b : b + 6][..., :: -1 if mirror and turn else 1]
            for i, (a, b), turn in zip(
                index, corner.astype(int), random[:, 2] >> 31, strict=True
            )
        ]
    )
    right = normalize(right, mean, std).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(world.get(out), stored(right, dtype))


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


# ---- What the launch functions refuse ------------------------------------------------
@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: launch.relu(x.astype(np.float64)),
        lambda x: launch.relu(x.T),
        lambda x: launch.relu(x[0]),
        lambda x: launch.relu(x[::-1]),
        lambda x: launch.add(x, x[:, :4]),
        lambda x: launch.add(x, stored(x, "bfloat16")),
        lambda x: launch.bias_add(x, x[0, :4]),
        lambda x: launch.bias_add(x, x[0].astype(np.float64)),
        lambda x: launch.batch_norm_statistics(x[:0], 1e-5),
        lambda x: launch.gate(x, x[:5]),
        lambda x: launch.max_pool2d(x.reshape(1, 2, 4, 8), window((17, 16), (1, 1))),
        lambda x: launch.global_avg_pool2d(x.reshape(2, 8, 1, 4).transpose(0, 3, 1, 2)),
        lambda x: launch.cross_entropy(x, np.zeros(8)),
        lambda x: launch.cross_entropy(x, np.zeros(7, np.int64)),
        lambda x: launch.dropout(x[:, :4], 0.5, 0, np.zeros(1, np.uint32)),
        lambda x: launch.tensor_table([x], [x.T]),
        lambda x: launch.tensor_table([x], [x.astype(np.float64)]),
        lambda x: launch.im2col(
            x.reshape(1, 2, 4, 8), window((2, 2), (1, 1)), groups=3
        ),
    ],
)
def test_refused(wrong: Callable[[np.ndarray], object]) -> None:
    with on_host(), pytest.raises((TypeError, ValueError)):
        wrong(rng(1).normal(size=(8, 8)).astype(np.float32))


def test_nothing_to_do() -> None:
    """No rows: nothing is launched, which a GPU would refuse."""
    with on_host():
        assert launch.relu(np.zeros((0, 8), np.float32)).shape == (0, 8)
        y, _ = launch.max_pool2d(
            np.zeros((0, 4, 4, 3), np.float32), window((2, 2), (2, 2))
        )
        assert y.shape == (0, 2, 2, 3)


# ---- The tester ----------------------------------------------------------------------
def sums_in_every_order(text: str) -> list[np.ndarray]:
    """The bias gradient computed by that source, one for each order of threads."""
    g = rng(1).normal(size=(500, 12)).astype(np.float32)
    names = source.kernels("elementwise")

    def compiler(variant: Variant) -> emulator.HostModule:
        return emulator.HostModule(text, names, *variant.options)

    found = []
    for order in emulator.ORDERS:
        with on_host(order), module.compiled_by(compiler):
            found.append(launch.bias_grad(g))
    return found


def test_the_order_of_threads_does_not_matter() -> None:
    first, *others = sums_in_every_order(source.text("elementwise"))
    assert all((first == other).all() for other in others)


def reductions(started: list[str]) -> dict[str, tuple[np.ndarray, ...]]:
    """What every kernel that adds up over blocks finds, with several chunks of rows."""
    compiler = emulator.compile_on_host

    class Counted:
        def __init__(self, variant: Variant) -> None:
            self.module = compiler(variant)

        def get_function(self, name: str) -> Callable[..., None]:
            kernel = self.module.get_function(name)

            def run(grid: tuple, block: tuple, args: tuple) -> None:
                started.append(name)
                kernel(grid, block, args)
                assert not module.counters(x).any()  # as a replay needs it

            return run

    x, g = (rng(i).normal(size=(3000, 68)).astype(np.float32) for i in range(2))
    labels = rng(2).integers(0, 68, 3000)
    with module.compiled_by(Counted):
        statistics = launch.batch_norm_statistics(x, 1e-5)
        return {
            "bn_statistics": statistics,
            "bn_gradient_sums": launch.batch_norm_gradients(g, x, statistics),
            "column_sums": (launch.bias_grad(g),),
            "cross_entropy": launch.cross_entropy(x, labels),
            "squares": (launch.gradient_norm(launch.tensor_table([g, x[:7]]), 1.0),),
        }


def test_one_launch_adds_up_whichever_block_is_the_last() -> None:
    """The same bits, and counters that are 0 again, in every order of the blocks."""
    assert module.sum_tiles(3000, 68, 4).chunks > 1
    first: dict[str, tuple[np.ndarray, ...]] = {}
    for order in emulator.ORDERS:
        started: list[str] = []
        with on_host(order):
            found = reductions(started)
        assert started == list(found)
        first = first or found
        for name, arrays in found.items():
            for a, b in zip(arrays, first[name], strict=True):
                np.testing.assert_array_equal(a, b, name)


def test_the_loss_of_no_rows_is_0() -> None:
    with on_host():
        found = launch.cross_entropy(np.zeros((0, 3), np.float32), np.zeros(0, int))
    assert found.loss == 0 and found.correct == 0


def test_every_stream_counts_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory set to 0 once, beside what is being captured."""
    stream, beside = 1, []

    class Gpu:
        def number(self) -> int:
            return 0

        def stream(self) -> int:
            return stream

        @contextmanager
        def outside(self) -> Iterator[None]:
            beside.append(stream)
            yield

    class Device:
        """An array that is not NumPy's."""

    library = SimpleNamespace(zeros=lambda *args: np.zeros(*args))
    monkeypatch.setattr(module, "Gpu", Gpu)
    monkeypatch.setattr(module, "array_module", lambda x: library)
    monkeypatch.setattr(module, "_counters", {})
    first = module.counters(Device())
    assert module.counters(Device()) is first and first.shape == (module.SUM_BLOCKS,)
    stream = 2
    second = module.counters(Device())
    assert second is not first and not np.shares_memory(first, second)
    stream = 1
    assert module.counters(Device()) is first and beside == [1, 2]


@pytest.mark.parametrize("which", range(2))
def test_a_missing_barrier_is_seen(which: int) -> None:
    """Without either of sum_columns' barriers some order gives nonsense."""
    text = source.text("elementwise")
    body = text.index("Sums<Q, V> sum_columns(")
    places = [m.start() for m in re.finditer(r"__syncthreads\(\);", text[body:])]
    at = body + places[which]
    found = sums_in_every_order(text[:at] + text[at + len("__syncthreads();") :])
    right = sums_in_every_order(text)[0]
    assert any(not np.allclose(f, right, 1e-4) for f in found)


def test_a_pivot_is_waited_for() -> None:
    """Without the barrier before it, every thread adds up around one of its own."""
    text, names = source.text("norm"), source.kernels("norm")
    barrier = text.index("__syncthreads();", text.index("bn_statistics("))
    hasty = text[:barrier] + text[barrier + len("__syncthreads();") :]
    x = rng(1).normal(size=(500, 12)).astype(np.float32) + 3

    def variance(text: str) -> np.ndarray:
        def compiler(variant: Variant) -> emulator.HostModule:
            return emulator.HostModule(text, names, *variant.options)

        with on_host(), module.compiled_by(compiler):
            return launch.batch_norm_statistics(x, 1e-5).var

    np.testing.assert_allclose(variance(text), x.var(axis=0), rtol=1e-5)
    assert not np.allclose(variance(hasty), x.var(axis=0), 1e-4)


def planted(body: str, *args: object, block: int = 4) -> None:
    """Run ``kernel(float* x, int n)`` with that body."""
    text = f'extern "C" __global__ void kernel(float* x, int n) {{ {body} }}'
    with on_host():
        run = emulator.HostModule(text, ["kernel"]).get_function("kernel")
        run((1,), (block,), args)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("x[n] = 1;", "beside"),
        ("x[-1 - (int)threadIdx.x] = 1;", "beside"),
        ("*reinterpret_cast<uint2*>(x + 1) = uint2();", "aligned"),
        ("if (threadIdx.x) __syncthreads();", "left before a barrier"),
        ("if (threadIdx.x) __shfl_xor_sync(~0u, n, 1);", "for ever"),
    ],
)
def test_faults_are_seen(body: str, complaint: str) -> None:
    x = np.zeros(4, np.float32)
    planted("x[threadIdx.x] = n;", x, np.int32(4))
    assert (x == 4).all()
    with pytest.raises(emulator.KernelError, match=complaint):
        planted(body, x, np.int32(4))


def test_lanes_exchange_numbers() -> None:
    x = np.arange(64, dtype=np.float32)
    body = "int i = threadIdx.x; x[i] = __shfl_xor_sync(~0u, x[i], 5);"
    body += "x[i] += 100 * __shfl_down_sync(~0u, (float)i, n);"
    planted(body, x, np.int32(30), block=64)
    lane, warp = np.arange(64) % 32, np.arange(64) // 32 * 32
    down = np.where(lane + 30 < 32, lane + 30, lane) + warp
    np.testing.assert_array_equal(x, (lane ^ 5) + warp + 100 * down)


def test_what_was_never_written_is_no_number() -> None:
    """Shared memory, and what lies beyond an array."""
    x = np.zeros(4, np.float32)
    planted("__shared__ float s[4]; x[threadIdx.x] = s[threadIdx.x];", x, np.int32(4))
    assert np.isnan(x).all()
    x[:] = 0
    planted("if (!threadIdx.x) x[0] = x[n];", x, np.int32(4))
    assert np.isnan(x[0])


@pytest.mark.parametrize(
    "args", [(), (4,), (np.int64(4),), (np.float32(4),), (np.int32(4), np.int32(4))]
)
def test_arguments_must_have_the_kernels_types(args: tuple) -> None:
    with pytest.raises(emulator.KernelError):
        planted("", np.zeros(4, np.float32), *args)
    with pytest.raises(emulator.KernelError):
        planted("", np.zeros(4), np.int32(4))
