"""The CUDA kernels through their launch functions, against float64 NumPy.

Each test runs where it can: on the host, where ``cuda_host`` compiles the same .cu
files with g++ and plays the GPU, and on a GPU if there is one. bfloat16 is its bits in
uint16.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from tests.kernels.cuda.world import (
    NEAR,
    World,
    close,
    number,
    on_host,
    one,
    rng,
    sliced,
    stored,
)
from tests.kernels.cuda.world import world as world
from tests.ops.windows import window
from tinyflow import Tape, Tensor, ops
from tinyflow.data.augment import normalize
from tinyflow.kernels.cuda import launch, module
from tinyflow.kernels.cuda.source import DTYPES


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
        loss = ops.cross_entropy(
            logits, labels, reduction=reduction, label_smoothing=smoothing
        )
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
