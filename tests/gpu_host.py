"""A GPU played by the host: its kernels, cuDNN and CUDA graphs, on NumPy arrays.

The kernels are the real sources, compiled by `tests/cuda_host`. Two stand-ins join in.
``HostCudnn`` has the functions of the cuDNN frontend that are used and convolves with
the library's own reference code, reading and writing the addresses it is given.
``HostRecorder`` defers every launch while a step is recorded, as a capturing stream
does, and runs the deferred launches on each replay: whatever the host computed from
values, or kept from the first time, is wrong then.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.cuda_host import emulator
from tinyflow.backend import choose_device
from tinyflow.kernels import engine as engines
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.cuda.conv import Convolutions
from tinyflow.kernels.cuda.cudnn import Cudnn
from tinyflow.kernels.cuda.engine import CudaEngine, cuda_engine
from tinyflow.kernels.cuda.plain import Plain
from tinyflow.kernels.cuda.settings import CONVOLUTIONS, configured
from tinyflow.kernels.engine import PLAIN, forced


class HostGpu:
    """The device: see ``tinyflow.kernels.cuda.device.Gpu``."""

    def __init__(self) -> None:
        self.deferred: list[Callable[[], None]] | None = None
        self.times: list[float] = []
        self.broken: Exception | None = None
        self.recorded: list[np.ndarray] = []
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
        return np.full(shape, np.nan, like.dtype)

    def address(self, array: np.ndarray) -> int:
        if self.deferred is not None:
            self.recorded.append(array)  # as memory of a graph's own pool
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
                self.do(lambda: kernel(grid, block, args))

            return start

        return SimpleNamespace(get_function=get_function)


def _bits(x: Any) -> Any:
    dtype = getattr(x, "dtype", None)
    return x.view(np.uint16) if dtype is not None and dtype.name == "bfloat16" else x


class HostRecorder:
    """See ``tinyflow.kernels.cuda.graph.Recorder``; on its stream `inside` is not 0."""

    def __init__(self, gpu: HostGpu) -> None:
        self.gpu, self.private, self.inside = gpu, [], 0
        self.given: list[np.ndarray] = []

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
                for module, name in (
                    (np, "empty"),
                    (np, "empty_like"),
                    (HostGpu, "empty"),
                ):
                    patch.setattr(module, name, self._noted(getattr(module, name)))
                return graph, run()
        finally:
            self.gpu.deferred = None

    def _noted(self, new: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def give(*args: Any, **how: Any) -> np.ndarray:
            self.given.append(new(*args, **how))
            return self.given[-1]

        return give

    def launch(self, graph: list[Callable[[], None]]) -> None:
        """What a recording was given holds nothing at first: others wrote to it."""
        for array in self.given:
            if array.dtype.kind not in "iu":
                array[...] = np.nan
        for run in graph:
            run()

    def fetch(self, array: np.ndarray) -> Callable[[], np.ndarray]:
        copy = array.copy()
        return lambda: copy


class NotSupported(Exception):
    """cudnnGraphNotSupportedError."""


def _names(names: str) -> SimpleNamespace:
    return SimpleNamespace(**{name: name for name in names.split()})


class HostCudnn:
    """The module ``cudnn``.

    Args:
        gpu: runs the work.
        refuses: given (kind, dims of the operands, their strides), whether there is no
            plan for them.
    """

    cudnnGraphNotSupportedError = NotSupported
    data_type = _names("FLOAT BFLOAT16")
    heur_mode = _names("A FALLBACK")
    numerical_note = _names(
        "TENSOR_CORE DOWN_CONVERT_INPUTS REDUCED_PRECISION_REDUCTION NONDETERMINISTIC"
    )

    def __init__(
        self, gpu: HostGpu, refuses: Callable[..., bool] = lambda *a: False
    ) -> None:
        self.gpu, self.refuses = gpu, refuses
        self.unbuilt = {1}
        """Which of the proposals cannot be built, and how many there are."""
        self.proposals = 3
        self.graphs: list[HostGraph] = []
        self.handles: list[int] = []

    def create_handle(self) -> SimpleNamespace:
        return SimpleNamespace(stream=0)

    def set_stream(self, handle: Any, stream: int) -> None:
        handle.stream = stream

    def pygraph(self, **options: Any) -> HostGraph:
        self.graphs.append(HostGraph(self, options))
        return self.graphs[-1]


class HostTensor:
    def __init__(self, dim: list[int], stride: list[int], data_type: str) -> None:
        self.dim, self.stride, self.data_type = dim, stride, data_type

    def set_dim(self, dim: list[int]) -> HostTensor:
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> HostTensor:
        self.stride = stride
        return self

    def set_output(self, output: bool) -> HostTensor:
        self.output = output
        return self

    def set_data_type(self, data_type: str) -> HostTensor:
        self.data_type = data_type
        return self

    def array(self, address: int) -> np.ndarray:
        """What lies at an address."""
        assert self.data_type == "FLOAT", "the stand-in convolves float32 only"
        last = zip(self.dim, self.stride, strict=True)
        size = 1 + sum((d - 1) * s for d, s in last)
        flat = np.frombuffer((ctypes.c_float * size).from_address(address), np.float32)
        return np.lib.stride_tricks.as_strided(
            flat, self.dim, [4 * s for s in self.stride]
        )


class HostGraph:
    """A graph of one convolution."""

    def __init__(self, cudnn: HostCudnn, options: dict[str, Any]) -> None:
        self.cudnn, self.options = cudnn, options
        self.calls: list[str] = []
        self.refused: list[str] = []
        self.ran: list[int | None] = []
        self.packs: list[dict[Any, int]] = []

    def tensor(
        self, name: str, dim: list[int], stride: list[int], data_type: str
    ) -> HostTensor:
        return HostTensor(dim, stride, data_type)

    def conv_fprop(self, image: Any, weight: Any, **how: Any) -> HostTensor:
        return self._node("forward", image, weight, how)

    def conv_dgrad(self, loss: Any, filter: Any, **how: Any) -> HostTensor:
        return self._node("input_grad", loss, filter, how)

    def conv_wgrad(self, image: Any, loss: Any, **how: Any) -> HostTensor:
        return self._node("weight_grad", image, loss, how)

    def _node(self, kind: str, a: Any, b: Any, how: dict[str, Any]) -> HostTensor:
        self.node = (kind, a, b, how)
        self.result = HostTensor([], [], "FLOAT")
        return self.result

    def validate(self) -> None:
        self.calls.append("validate")

    def build_operation_graph(self) -> None:
        self.calls.append("build_operation_graph")

    def create_execution_plans(self, modes: list[str]) -> None:
        self.calls.append("create_execution_plans")

    def deselect_numeric_notes(self, notes: list[str]) -> None:
        self.calls.append("deselect_numeric_notes")
        self.refused = notes

    def deselect_workspace_greater_than(self, size: int) -> None:
        self.calls.append("deselect_workspace_greater_than")

    def check_support(self) -> None:
        self.calls.append("check_support")
        kind, a, b, _ = self.node
        if self.cudnn.refuses(kind, a.dim, b.dim, a.stride, b.stride):
            raise NotSupported("no engine\nfor that")

    def build_plans(self) -> None:
        self.calls.append("build_plans")

    def get_execution_plan_count(self) -> int:
        return self.cudnn.proposals

    def build_plan_at_index(self, index: int) -> None:
        self.calls.append(f"build_plan_at_index {index}")
        if index in self.cudnn.unbuilt:
            raise NotSupported("not that one")

    def get_workspace_size(self) -> int:
        return 64

    def get_workspace_size_plan_at_index(self, index: int) -> int:
        return 64 + index

    def execute(self, pack: dict[Any, int], workspace: int, handle: Any = None) -> None:
        self._execute(pack, None, handle)

    def execute_plan_at_index(
        self, pack: dict[Any, int], workspace: int, index: int, handle: Any = None
    ) -> None:
        self._execute(pack, index, handle)

    def _execute(self, pack: dict[Any, int], index: int | None, handle: Any) -> None:
        self.ran.append(index)
        self.packs.append(pack)
        self.cudnn.handles.append(handle.stream)
        kind, a, b, how = self.node
        (top, left), (bottom, right) = how["pre_padding"], how["post_padding"]
        shapes = {"forward": b.dim, "input_grad": b.dim, "weight_grad": self.result.dim}
        images = self.result.dim if kind == "input_grad" else a.dim
        settings = (
            tuple(how["stride"]),
            (top, bottom, left, right),
            tuple(how["dilation"]),
            images[1] // shapes[kind][1],
        )

        def run() -> None:
            first, second = a.array(pack[a]), b.array(pack[b])
            if kind == "forward":
                found = PLAIN.conv2d(first, second, settings)
            elif kind == "input_grad":
                found = PLAIN.conv2d_input_grad(first, second, images, settings)
            else:
                shape = self.result.dim
                found = PLAIN.conv2d_weight_grad(second, first, shape, settings)
            self.result.array(pack[self.result])[...] = found

        self.cudnn.gpu.do(run)


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
