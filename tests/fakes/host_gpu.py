"""A GPU played by the host: its kernels, cuDNN and CUDA graphs, on NumPy arrays.

The kernels are the real sources, compiled by ``cuda_host``. Two stand-ins join in,
``host_cudnn.HostCudnn`` and ``HostRecorder``. That one defers every launch while a step
is recorded, as a capturing stream does, and runs the deferred launches on each replay:
whatever the host computed from values, or kept from the first time, is wrong then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.fakes.cuda_host import emulator
from tests.fakes.host_cudnn import HostCudnn
from tests.fakes.host_memory import Pool, address_only
from tinyflow.backend import choose_device
from tinyflow.kernels import engine as engines
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.cuda.conv import Convolutions
from tinyflow.kernels.cuda.cudnn import Cudnn
from tinyflow.kernels.cuda.engine import CudaEngine, cuda_engine
from tinyflow.kernels.cuda.plain import Plain
from tinyflow.kernels.cuda.settings import CONVOLUTIONS, configured
from tinyflow.kernels.engine import forced


class HostGpu:
    """The device: see ``tinyflow.kernels.cuda.device.Gpu``."""

    def __init__(self) -> None:
        self.deferred: list[Callable[[], None]] | None = None
        self.times: list[float] = []
        self.broken: Exception | None = None
        self.pool = Pool()
        self.second: list[Callable[[], None]] = []
        self.on_second, self.waited = False, 0
        self.stream_number = 7

    def number(self) -> int:
        return 0

    def stream(self) -> int:
        return self.stream_number

    def capturing(self) -> bool:
        return self.deferred is not None

    @contextmanager
    def outside(self) -> Iterator[None]:
        before, self.deferred = self.deferred, None
        try:
            yield
        finally:
            self.deferred = before

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is recorded inside is replayed as late as may be: when waited for."""
        before = self.on_second
        self.on_second = True
        try:
            yield
        finally:
            self.on_second = before

    def mark(self) -> int:
        assert self.on_second
        return self.waited + len(self.second)

    def wait(self, moment: int) -> None:
        assert self.deferred is not None
        due = max(0, moment - self.waited)
        self.deferred += self.second[:due]
        del self.second[:due]
        self.waited += due

    def bytes(self, size: int) -> np.ndarray:
        return np.empty(size, np.uint8)

    def empty(self, shape: tuple[int, ...], like: np.ndarray) -> np.ndarray:
        new = np.empty(shape, like.dtype)
        if self.deferred is None:
            new[...] = np.nan
        return new

    def address(self, array: np.ndarray) -> int:
        return int(array.ctypes.data)

    def replayed(self, run: Callable[[np.ndarray], None], workspace: int) -> float:
        run(np.empty(workspace, np.uint8))
        return self.times.pop(0) if self.times else 1.0

    def check(self) -> None:
        if self.broken is not None:
            raise self.broken

    def do(self, run: Callable[[], None]) -> None:
        """Run now, or on each replay of what is being recorded."""
        if self.deferred is None:
            run()
        elif self.on_second:
            self.second.append(run)
        else:
            self.deferred.append(run)

    def compile(self, variant: Any) -> Any:
        """Kernels for ``compiled_by``; bfloat16 arrays are passed as their bits."""
        if emulator.COMPILER is None:
            pytest.skip("there is no g++ to compile the kernels for the host")
        module = emulator.compile_on_host(variant)

        def get_function(name: str) -> Callable[..., None]:
            kernel = module.get_function(name)

            def start(grid: Any, block: Any, args: tuple[Any, ...]) -> None:
                args = tuple(map(_bits, args))
                if self.deferred is not None:
                    args = tuple(map(address_only, args))
                self.do(lambda: kernel(grid, block, args))

            return start

        return SimpleNamespace(get_function=get_function)


def _bits(x: Any) -> Any:
    dtype = getattr(x, "dtype", None)
    return x.view(np.uint16) if dtype is not None and dtype.name == "bfloat16" else x


NEW = ("empty", "empty_like", "zeros", "zeros_like", "ones", "ascontiguousarray")
"""What makes arrays in a step that can be recorded."""


class HostRecorder:
    """See ``tinyflow.kernels.cuda.graph.Recorder``; on its stream `inside` is not 0."""

    def __init__(self, gpu: HostGpu) -> None:
        self.gpu, self.private, self.inside = gpu, [], 0

    @contextmanager
    def running(self, private: bool = False) -> Iterator[None]:
        self.private.append(private)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def record(self, run: Callable[[], Any]) -> tuple[Any, Any]:
        self.gpu.deferred = graph = []
        try:
            with pytest.MonkeyPatch.context() as patch:
                for name in NEW:
                    patch.setattr(np, name, self._of_the_pool(getattr(np, name)))
                return graph, run()
        finally:
            self.gpu.deferred = None

    def _of_the_pool(self, new: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        """`new`, in the memory of the recording unless it happens beside it."""

        def give(*args: Any, **how: Any) -> np.ndarray:
            made = new(*args, **how)
            if self.gpu.deferred is None or any(made is a for a in args):
                return made
            order = sorted(range(made.ndim), key=lambda i: -made.strides[i])
            shape = tuple(made.shape[i] for i in order)
            given = self.gpu.pool.empty(self.gpu.on_second, shape, made.dtype)
            given = given.transpose(sorted(range(made.ndim), key=order.__getitem__))
            if "empty" not in new.__name__:
                there = address_only(given)
                copied = "contiguous" in new.__name__
                source = address_only(args[0]) if copied else made
                self.gpu.do(lambda: np.copyto(there, source))
            return given

        return give

    def launch(self, graph: list[Callable[[], None]]) -> None:
        """Nothing lasts in the pool from one replay to the next."""
        self.gpu.pool.spoil()
        for run in graph:
            run()

    def fetch(self, array: np.ndarray) -> Callable[[], np.ndarray]:
        copy = array.copy()
        return lambda: copy


@contextmanager
def host_engine(
    gpu: HostGpu | None = None,
    cudnn: HostCudnn | None = None,
    own_products: bool = True,
) -> Iterator[CudaEngine]:
    """Use the GPU's engine for every NumPy array of float32 or bfloat16.

    With `own_products` also the plain convolutions use the kernel for products that a
    captured step uses, else NumPy's.
    """
    gpu = gpu or HostGpu()
    plain = Plain(gpu)
    if own_products:
        from tinyflow.kernels.cuda.product import product

        plain.product = product  # type: ignore[method-assign]
    engines = [plain] if cudnn is None else [Cudnn(cudnn, gpu), plain]
    engine = CudaEngine(gpu, Convolutions(engines))
    with ExitStack() as stack:
        stack.enter_context(launch.compiled_by(gpu.compile))
        stack.enter_context(forced(engine))
        yield engine


# --- what the tests of the engine share -----------------------------------------------


def near(found: np.ndarray, wanted: np.ndarray, error: float) -> None:
    wanted = np.asarray(wanted, "f8")
    size = np.abs(wanted).max() + 1e-30
    assert found.shape == wanted.shape
    assert np.abs(found.astype("f8") - wanted).max() <= error * size


def draw(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(len(shapes))
    return [rng.standard_normal(s, dtype=np.float32) for s in shapes]


def gpu_or_skip() -> None:
    device, reason = choose_device("auto")
    if device != "cuda":
        pytest.skip(reason)


def order_or_skip(first: str) -> tuple[str, ...]:
    """The setting that tries that convolution engine of the GPU first."""
    if reason := cuda_engine().convolutions.absent.get(first):
        pytest.skip(reason)
    return CONVOLUTIONS[CONVOLUTIONS.index(first) :]


@contextmanager
def convolving(name: str) -> Iterator[engines.Engine]:
    """An engine whose convolutions are those: on the host, or on a GPU."""
    if name.startswith("host"):
        gpu = HostGpu()
        with host_engine(gpu, HostCudnn(gpu) if "cudnn" in name else None) as run:
            yield run
        return
    with configured(convolutions=order_or_skip(name.split()[1])):
        yield cuda_engine()


def rounding(name: str, error: float) -> float:
    """The error allowed that engine: cuDNN's transforms (Winograd, FFT) round more."""
    return 5e-5 if name == "gpu cudnn" else error


ENGINES = [
    "host plain",
    "host cudnn",
    pytest.param("gpu plain", marks=pytest.mark.gpu),
    pytest.param("gpu cudnn", marks=pytest.mark.gpu),
]


def there(name: str, x: np.ndarray) -> np.ndarray:
    if name.startswith("host"):
        return x
    import cupy

    return cupy.asarray(x)


def here(x: np.ndarray) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else x.get()
