"""The host that plays a GPU, tested: what it must notice, and in what order it runs."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from tests.fakes.cuda_host import emulator
from tests.kernels.cuda.world import on_host, rng
from tinyflow.kernels.cuda import launch, module, source
from tinyflow.kernels.cuda.source import Variant


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
