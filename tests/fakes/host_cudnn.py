"""cuDNN played by the host.

``HostCudnn`` has the functions of the cuDNN frontend that are used and convolves with
the library's own reference code, reading and writing the addresses it is given.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyflow.kernels.engine import PLAIN
from tinyflow.kernels.geometry import Conv

if TYPE_CHECKING:
    from tests.fakes.host_gpu import HostGpu


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
        settings = Conv(
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
